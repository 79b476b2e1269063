"""Cells of recurrent nets, for ``jaffe.unroll``: what one step does. Blobs are (1, N, ...); H is ``units``.

Each reads ``x`` and, if ``cont`` (T, N) is among the inputs, starts anew where that is 0, as Caffe's LSTM layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaffe.netdef.builder import L, LayerCall, NetSpec, Top
from jaffe.netdef.errors import SpecError
from jaffe.netdef.jaffe_pb2 import NetParameter
from jaffe.netdef.unroll import BEFORE, Cell, Shape, taken, unroll

Filler = Mapping[str, Any]
UNIFORM: Filler = {"type": "uniform", "min": -0.08, "max": 0.08}
Tops = dict[str, Top]


def rnn(units: int, filler: Filler = UNIFORM) -> Cell:
    """``h = tanh(W_x x + W_h h_before + b)``. Source: Elman 1990."""

    def step(x: Top, h_before: Top, cont: Top | None = None) -> Tops:
        sums = L.Eltwise(_product(x, units, "x2h", filler), _product(_kept(h_before, cont, "h"), units, "h2h", filler,
                                                                      bias=False), name="sum")
        return {"h": L.TanH(sums, name="h")}

    return Cell(step, _states("h", units=units))


def lstm(units: int, filler: Filler = UNIFORM) -> Cell:
    """As Caffe's LSTM layer: ``i, f, o = sigmoid``, ``g = tanh`` of ``W_x x + b + W_h h_before``;
    ``c = f c_before + i g``, ``h = o tanh(c)``. Source: Hochreiter and Schmidhuber 1997, with a forget gate."""

    def step(x: Top, h_before: Top, c_before: Top, cont: Top | None = None, ones: Top | None = None) -> Tops:
        gates = L.Eltwise(
            _product(x, 4 * units, "x2g", filler),
            _product(_kept(h_before, cont, "h"), 4 * units, "h2g", filler, bias=False), name="gates")
        c, h = L.LSTMUnit(c_before, gates, ones if cont is None else cont, ntop=2, name="unit")
        return {"h": h, "c": c}

    def constants(inputs: Mapping[str, Shape]) -> Mapping[str, tuple[Shape, float]]:
        return {} if "cont" in inputs else {"ones": ((1, _batch(inputs)), 1.0)}

    return Cell(step, _states("h", "c", units=units), constants=constants)


def peephole_lstm(units: int, filler: Filler = UNIFORM) -> Cell:
    """``i, f = sigmoid(... + p_i c_before), sigmoid(... + p_f c_before)``, ``c = f c_before + i g``,
    ``o = sigmoid(... + p_o c)``, ``h = o tanh(c)``; a weight p for each unit, which starts at 0.
    Source: Graves 2013 (arXiv 1308.0850), equations 7 to 11."""

    def step(x: Top, h_before: Top, c_before: Top, cont: Top | None = None) -> Tops:
        sums = L.Eltwise(
            _product(x, 4 * units, "x2g", filler),
            _product(_kept(h_before, cont, "h"), 4 * units, "h2g", filler, bias=False), name="gates")
        i, f, o, g = L.Slice(sums, ntop=4, axis=2, name="parts")
        before = _kept(c_before, cont, "c")

        def peep(gate: Top, c: Top, name: str) -> Top:
            weighted = L.Scale(c, axis=2, filler={"type": "constant", "value": 0}, name=f"peep_{name}")
            return L.Sigmoid(L.Eltwise(gate, weighted, name=f"sum_{name}"), name=name)

        c = _sum(_times(peep(f, before, "f"), before, "kept"), _times(peep(i, before, "i"), L.TanH(g, name="g"), "new"),
                 "c")
        return {"h": _times(peep(o, c, "o"), L.TanH(c, name="squashed"), "h"), "c": c}

    return Cell(step, _states("h", "c", units=units))


def gru(units: int, filler: Filler = UNIFORM) -> Cell:
    """``z, r = sigmoid(W x + b + U h_before)``, ``n = tanh(W_n x + b_n + U_n (r h_before))``,
    ``h = z h_before + (1 - z) n``. Source: Cho et al. 2014 (arXiv 1406.1078), equations 5 to 8."""

    def step(x: Top, h_before: Top, cont: Top | None = None) -> Tops:
        before = _kept(h_before, cont, "h")
        x2zr, x2n = L.Slice(_product(x, 3 * units, "x2zrn", filler), ntop=2, axis=2, slice_point=[2 * units],
                            name="x_parts")
        sums = _sum(x2zr, _product(before, 2 * units, "h2zr", filler, bias=False), "zr_sum")
        z, r = L.Slice(L.Sigmoid(sums, name="zr"), ntop=2, axis=2, name="zr_parts")
        reset = _product(_times(r, before, "reset"), units, "h2n", filler, bias=False)
        n = L.TanH(_sum(x2n, reset, "n_sum"), name="n")
        away = L.Eltwise(before, n, coeff=[1, -1], name="away")
        return {"h": _sum(n, _times(z, away, "kept"), "h")}

    return Cell(step, _states("h", units=units))


def conv_lstm(channels: int, kernel_size: int = 3, filler: Filler = UNIFORM) -> Cell:
    """An LSTM whose products are convolutions: x (1, N, C, H, W) -> h (1, N, channels, H, W); odd kernels, same size.
    Source: Shi et al. 2015 (arXiv 1506.04214), without peepholes."""

    def convolution(x: Top, name: str, bias: bool) -> Top:
        return L.Convolution(x, num_output=4 * channels, kernel_size=kernel_size, pad=kernel_size // 2, axis=2,
                             bias_term=bias, weight_filler=dict(filler), name=name)

    def step(x: Top, h_before: Top, c_before: Top, cont: Top | None = None) -> Tops:
        sums = _sum(convolution(x, "x2g", True), convolution(_kept(h_before, cont, "h"), "h2g", False), "gates")
        i, f, o, g = L.Slice(sums, ntop=4, axis=2, name="parts")
        c = _sum(_times(L.Sigmoid(f, name="f"), _kept(c_before, cont, "c"), "kept"),
                 _times(L.Sigmoid(i, name="i"), L.TanH(g, name="g"), "new"), "c")
        return {"h": _times(L.Sigmoid(o, name="o"), L.TanH(c, name="squashed"), "h"), "c": c}

    def state(inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
        shape = (1, inputs["x"][1], channels, *inputs["x"][3:])
        return {"h": shape, "c": shape}

    return Cell(step, state)


def attention_lstm(units: int, length: int, hidden: int, filler: Filler = UNIFORM) -> Cell:
    """An LSTM that at each step also reads a mean of ``memory`` (length, N, ...), a static input, such as an encoder's
    h at each of its steps.

    The mean's weights are ``softmax over s of v tanh(W memory_s + b + U h_before)``, with ``hidden`` values inside.
    Source: Bahdanau et al. 2015 (arXiv 1409.0473), sections 3.1 and A.1.2.
    """
    inner = lstm(units, filler)

    def step(
        x: Top, h_before: Top, c_before: Top, memory: Top, cont: Top | None = None, ones: Top | None = None
    ) -> Tops:
        query = _product(_kept(h_before, cont, "query"), hidden, "query", filler, bias=False)
        asked = L.Tile(query, axis=0, tiles=length, name="asked")
        energy = L.TanH(_sum(_product(memory, hidden, "keys", filler), asked, "energy_sum"), name="energy")
        scores = L.Softmax(_product(energy, 1, "energy2score", filler, bias=False), axis=0, name="attention")
        flat = L.Reshape(scores, shape={"dim": [0, 0]}, name="attention_flat")
        weighted = L.Permute(L.Scale(memory, flat, axis=0, name="weighted"), order=[1, 2, 0], name="weighted_last")
        mean = L.Reduction(weighted, axis=2, name="mean")
        seen = L.Reshape(mean, axis=0, num_axes=0, shape={"dim": [1]}, name="seen")
        read = L.Concat(x, seen, axis=2, name="x_seen")
        return dict(inner.step(x=read, h_before=h_before, c_before=c_before, cont=cont, ones=ones))

    return Cell(step, inner.state, constants=inner.constants)


def lrcn(features: Callable[[Top], Top], cell: Cell) -> Cell:
    """A net for each frame, and a cell that reads what it finds: x (1, N, C, H, W).

    Args:
        features: from frames (N, C, H, W) to vectors (N, ...), by layers with names.

    Source: Donahue et al. 2015 (arXiv 1411.4389).
    """

    def step(x: Top, **others: Top) -> Tops:
        frames = L.Reshape(x, axis=0, num_axes=2, shape={"dim": [-1]}, name="frames")
        seen = L.Reshape(features(frames), axis=0, num_axes=0, shape={"dim": [1]}, name="seen")
        return _call(cell, {**others, "x": seen})

    return Cell(step, cell.state, cell.outputs, cell.constants)


def stacked(*layers: Cell) -> Cell:
    """Cells one on top of the other: each reads the first output of the one below; ``cont`` goes to all of them.

    State and layers of the i-th, from 1, have names that end with ``_i``; the output is the last one's.

    Raises:
        SpecError: there is none.
    """
    if not layers:
        raise SpecError("expected at least one cell to stack; found none")

    def step(x: Top, **others: Top) -> Tops:
        found: Tops = {}
        shared = {key: top for key, top in others.items() if not key.endswith(BEFORE)}
        given = {id(top.call) for top in (x, *others.values())}
        for i, cell in enumerate(layers, 1):
            own = {name[: -len(f"_{i}{BEFORE}")] + BEFORE: top for name, top in others.items()
                   if name.endswith(f"_{i}{BEFORE}")}
            tops = _call(cell, {**shared, **own, "x": x})
            _rename(tops.values(), given, f"_{i}")
            given.update(id(top.call) for top in tops.values())
            found.update({f"{name}_{i}": top for name, top in tops.items()})
            x = tops[cell.outputs[0]]
        return found

    def state(inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
        return {f"{name}_{i}": shape for i, cell in enumerate(layers, 1) for name, shape in cell.state(inputs).items()}

    def constants(inputs: Mapping[str, Shape]) -> Mapping[str, tuple[Shape, float]]:
        return {name: one for cell in layers for name, one in cell.constants(inputs).items()}

    return Cell(step, state, (f"{layers[-1].outputs[0]}_{len(layers)}",), constants)


def bidirectional(cell: Cell, steps: int, inputs: Mapping[str, Shape], units_axis: int = 2) -> NetParameter:
    """A cell from the first step to the last, and one with weights of its own from the last to the first: the net that
    puts the first outputs of both together along ``units_axis``, as blob ``h``. Blobs and layers are called
    ``forward_...`` and ``backward_...``.

    Raises:
        SpecError: ``cont`` is among the inputs.

    Source: Schuster and Paliwal 1997.
    """
    if "cont" in inputs:
        raise SpecError("cont says where sequences begin, which backwards is elsewhere: expected inputs without it")
    n = NetSpec()
    for name, shape in inputs.items():
        n[name] = L.Input(shape={"dim": list(shape)})
    given = {name: n[name] for name in inputs}
    for name, reverse in (("forward_", False), ("backward_", True)):
        n.add(unroll(cell, steps, inputs=inputs, reverse=reverse, name=name), **given)
    n.h = L.Concat(n[f"forward_{cell.outputs[0]}"], n[f"backward_{cell.outputs[0]}"], axis=units_axis)
    return n.to_proto()


def _call(cell: Cell, given: Mapping[str, Top]) -> Tops:
    """What a cell inside of another makes of those of the blobs that it takes."""
    return dict(cell.step(**{one: given[one] for one in taken(cell.step, given)}))


def _product(x: Top, outputs: int, name: str, filler: Filler, bias: bool = True) -> Top:
    """Over the last axis."""
    return L.InnerProduct(x, num_output=outputs, axis=2, bias_term=bias, weight_filler=dict(filler), name=name)


def _kept(before: Top, cont: Top | None, name: str) -> Top:
    """What is left of the step before: nothing where a sequence begins."""
    return before if cont is None else L.Scale(before, cont, axis=0, name=f"{name}_conted")


def _times(a: Top, b: Top, name: str) -> Top:
    return L.Eltwise(a, b, operation="PROD", name=name)


def _sum(a: Top, b: Top, name: str) -> Top:
    return L.Eltwise(a, b, name=name)


def _states(*names: str, units: int) -> Callable[[Mapping[str, Shape]], Mapping[str, Shape]]:
    return lambda inputs: {name: (1, _batch(inputs), units) for name in names}


def _batch(inputs: Mapping[str, Shape]) -> int:
    return next(iter(inputs.values()))[1]


def _rename(tops: Iterable[Top], stop: set[int], ending: str) -> None:
    """All layers behind these tops, up to those of ``stop``, get an ending, if they have names."""
    waiting = [top.call for top in tops]
    seen = set(stop)
    while waiting:
        call: LayerCall = waiting.pop()
        if id(call) not in seen:
            seen.add(id(call))
            call.proto.name += ending if call.proto.name else ""
            waiting += [bottom.call for bottom in call.bottoms]
