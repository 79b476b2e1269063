"""Recurrent nets as feed-forward ones: a cell, written out once for each step, with weights shared by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaffe.netdef.builder import L, NetSpec, Top, assign
from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.jaffe_pb2 import LayerParameter, NetParameter
from jaffe.netdef.source import Spec, load
from jaffe.netdef.stored import stored_names

Shape: TypeAlias = Sequence[int]
Step: TypeAlias = Callable[..., Mapping[str, Top]]
BEFORE = "_before"  # after the name of a blob: as the step before left it


@dataclass(frozen=True)
class Cell:
    """A step, and what goes from one to the next; ``jaffe.netdef.cells`` has those that are well known.

    Attributes:
        step: as ``unroll`` takes it.
        state: shapes of the blobs that go from step to step, from those of the inputs (of whole sequences).
        constants: blobs that are the same everywhere, where the inputs are these: shape and value.
        outputs: blobs that are put together.
    """

    step: Step
    state: Callable[[Mapping[str, Shape]], Mapping[str, Shape]]
    outputs: tuple[str, ...] = ("h",)
    constants: Callable[[Mapping[str, Shape]], Mapping[str, tuple[Shape, float]]] = lambda inputs: {}


def unroll(
    cell: Cell | Step | Spec,
    steps: int,
    *,
    inputs: Mapping[str, Shape],
    state: Mapping[str, Shape] | None = None,
    static: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    start: str = "zeros",
    reverse: bool = False,
    name: str = "",
) -> NetParameter:
    """A recurrent net as a person would write it by hand, step by step, with weights shared by name.

    A blob ``h`` that goes from step to step is read as ``h_before`` and written as ``h``. At step t, from 1 to
    ``steps``, layers and blobs of the cell are called ``gates_t``, ``h_t``; weights ``gates_weight`` at every step.

    >>> def cell(x, h_before):
    ...     sums = L.Eltwise(L.InnerProduct(x, num_output=8, axis=2, name="x2h"),
    ...                      L.InnerProduct(h_before, num_output=8, axis=2, name="h2h"), name="sum")
    ...     return {"h": L.TanH(sums)}
    >>> net = unroll(cell, 2, inputs={"x": (2, 4, 3)}, state={"h": (1, 4, 8)})
    >>> [layer.name for layer in net.layer]
    ['x', 'x_slice', 'h_0', 'x2h_1', 'h2h_1', 'sum_1', 'h_1', 'x2h_2', 'h2h_2', 'sum_2', 'h_2', 'h']

    Args:
        cell: a step: a function of tops, called by the names of inputs, ``static`` and ``h_before``, that returns tops
            by name; or a prototxt fragment (a path, text, or a ``NetParameter``) that reads and writes blobs of these
            names; or a ``Cell``, which knows its state.
        inputs: shapes (T, N, ...) of blobs of which each step reads its part, (T / steps, N, ...).
        state: shapes of the blobs that go from step to step, (1, N, ...).
        static: shapes of blobs that every step reads whole.
        outputs: blobs whose steps are put together along the first axis, under their name; by default a ``Cell``'s,
            else what is written and is neither state nor a loss, or if that is nothing the first of the state.
        start: what the first step gets: ``"zeros"``, or ``"input"``: inputs of the net, called ``h_0``.
        reverse: from the last step to the first.
        name: before the names of all layers, weights and blobs but those of the net's inputs.

    Returns:
        The net. What a step left is reachable too: ``h_3``; the last is ``h_`` and the number of steps, backwards
        ``h_1``. ``NetSpec.add`` makes it part of a larger one.

    A layer type of your own shares the weights that its ``param`` entries name. A loss in the cell is a loss of each
    step: the net's is their sum.

    Raises:
        SpecError: the cell does not fit what is said of it: the message says which blob.
    """
    if steps < 1:
        raise SpecError(f"expected at least one step; found {steps}")
    if start not in ("zeros", "input"):
        raise SpecError(f'start is "zeros" or "input"; found {start!r}')
    static = dict(static or {})
    constants: Mapping[str, tuple[Shape, float]] = {}
    if isinstance(cell, Cell):
        state = cell.state(inputs) if state is None else state
        constants = cell.constants(inputs)
        outputs = cell.outputs if outputs is None else outputs
    state = dict(state or {})
    step = cell.step if isinstance(cell, Cell) else cell
    given = [*inputs, *static, *constants, *(one + BEFORE for one in state)]
    layers = _named(_of_function(step, given) if callable(step) else load(step).net.layer, name)
    written = _check(layers, given, inputs, state)
    if outputs is None:
        outputs = _last(layers, written, state)
    for one in outputs:
        if one not in written:
            raise SpecError(f"the cell writes no output {one!r}{suggest(one, written)}")
    return _Writer(layers, steps, inputs, static, constants, state, outputs, start, reverse, name).net


def _of_function(step: Step, given: Iterable[str]) -> list[LayerParameter]:
    """The layers of a step, by calling it with a placeholder for each blob."""
    given = list(given)
    fitting = taken(step, given)
    extra = [one for one in given if one not in fitting]
    if extra:
        raise SpecError(f"the cell takes no {', '.join(extra)}; it is given {', '.join(given)}")
    n = NetSpec()
    for one in given:
        n[one] = L.Input(name=one)
    placeholders = {id(n[one].call) for one in given}
    tops = step(**{one: n[one] for one in given})
    if not isinstance(tops, Mapping):
        raise SpecError(f"the cell returns tops by name, a dict; it returned {type(tops).__name__}")
    names: dict[Top, str] = {}
    for one, top in tops.items():
        if not isinstance(top, Top):
            raise SpecError(f"the cell returns as {one!r} a {type(top).__name__}; expected the output of a layer")
        blob = top
        while blob.call.in_place:
            blob = blob.call.bottoms[0]
        if id(blob.call) in placeholders:
            raise SpecError(f"the cell returns as {one!r} what it was given; expected the output of a layer")
        if one in n:
            raise SpecError(f"the cell returns {one!r}, which is the name of a blob that it reads")
        if blob in names:
            raise SpecError(f"the cell returns one blob as {names[blob]!r} and as {one!r}; expected a layer for each")
        names[blob] = one
        n[one] = blob
        n[f"\0{one}"] = top  # in place it has no name of its own, but belongs to the net
    return [layer for layer in n.to_proto().layer if not (layer.type == "Input" and layer.name in given)]


def taken(step: Step, given: Iterable[str]) -> list[str]:
    """Those of the given blobs that a step, a function, takes. Raises SpecError if it wants others too."""
    parameters = inspect.signature(step).parameters.values()
    given = list(given)
    missing = [each.name for each in parameters
               if each.default is each.empty and each.kind is not each.VAR_KEYWORD and each.name not in given]
    if missing:
        raise SpecError(f"the cell wants {', '.join(missing)}, which nobody gives; it is given "
                        f"{', '.join(given) or 'nothing'}")
    any_name = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return [one for one in given if any_name or one in {each.name for each in parameters}]


def _named(layers: Iterable[LayerParameter], prefix: str) -> list[LayerParameter]:
    """The layers, and all their weights, with names: those of weights are what the steps share them by.

    Raises:
        SpecError: two layers of one name would share weights too, though neither names them.
    """
    named: list[LayerParameter] = []
    given: set[str] = set()
    for layer in layers:
        copy = LayerParameter()
        copy.CopyFrom(layer)
        copy.name = layer.name or f"{layer.type}{len(named) + 1}"
        for i, weight in enumerate(stored_names(layer)):
            param = copy.param[i] if i < len(copy.param) else copy.param.add()
            if not param.name:
                param.name = f"{prefix}{copy.name}_{weight}"
                if param.name in given:
                    raise SpecError(f"an earlier layer of the cell would share its {weight}, {param.name!r}: give one "
                                    "of them another name; or, to share it, name it in the param of both",
                                    layer=copy.name)
                given.add(param.name)
        named.append(copy)
    return named


def _check(
    layers: Sequence[LayerParameter], given: Sequence[str], inputs: Mapping[str, Shape], state: Mapping[str, Shape]
) -> dict[str, None]:
    """The names of all blobs that a step writes, in order."""
    written: dict[str, None] = {}
    for layer in layers:
        for bottom in layer.bottom:
            if bottom not in written and bottom not in given:
                near = suggest(bottom, [*given, *written])
                raise SpecError(f"bottom {bottom!r} is no input of the cell, and no earlier layer writes it{near}",
                                layer=layer.name)
        for top in layer.top:
            if top in given and top not in inputs:
                raise SpecError(f"top {top!r} is what the cell is given, and others read: give it another name",
                                layer=layer.name)
        written.update(dict.fromkeys(layer.top))
    read = {bottom for layer in layers for bottom in layer.bottom}
    for one in given:
        if one not in read:
            raise SpecError(f"the cell does not read {one!r}; it reads {', '.join(sorted(read.intersection(given)))}")
    for one in state:
        if one not in written:
            raise SpecError(f"the cell reads {one + BEFORE!r} but writes no {one!r}{suggest(one, written)}")
    return written


def _last(layers: Sequence[LayerParameter], written: Iterable[str], state: Mapping[str, Shape]) -> list[str]:
    """What no layer of the step reads, and is no state; or the first of the state. Single numbers are no sequence."""
    read = {bottom for layer in layers for bottom in layer.bottom}
    numbers = {top for layer in layers if layer.type.endswith("Loss") or layer.type == "Accuracy" for top in layer.top}
    return [one for one in written if one not in read and one not in state and one not in numbers] or list(state)[:1]


class _Writer:
    """Writes the net."""

    def __init__(
        self, layers: Sequence[LayerParameter], steps: int, inputs: Mapping[str, Shape], static: Mapping[str, Shape],
        constants: Mapping[str, tuple[Shape, float]], state: Mapping[str, Shape], outputs: Sequence[str], start: str,
        reverse: bool, name: str,
    ):
        self.name = name
        self.net = NetParameter()
        for one, shape in [*inputs.items(), *static.items()]:
            self._layer("Input", one, [], [one], {"input_param": {"shape": {"dim": shape}}})
        for one, shape in inputs.items():
            if not shape or not shape[0] or shape[0] % steps:
                raise SpecError(f"input {one!r} of shape {tuple(shape)} does not divide into {steps} steps along its "
                                "first axis")
            self._layer("Slice", f"{name}{one}_slice", [one], [self._at(one, t) for t in range(1, steps + 1)],
                        {"slice_param": {"axis": 0}})
        for one, (shape, value) in constants.items():
            self._dummy(name + one, shape, value)
        before = steps + 1 if reverse else 0
        for one, shape in state.items():
            if start == "zeros":
                self._dummy(self._at(one, before), shape, 0)
            else:
                self._layer("Input", self._at(one, before), [], [self._at(one, before)],
                            {"input_param": {"shape": {"dim": shape}}})
        whole = {**{one: one for one in static}, **{one: name + one for one in constants}}
        for t in range(steps, 0, -1) if reverse else range(1, steps + 1):
            known = {**whole, **{one + BEFORE: self._at(one, t + 1 if reverse else t - 1) for one in state}}
            for layer in layers:
                self._step(layer, t, known)
        for one in outputs:
            self._layer("Concat", name + one, [self._at(one, t) for t in range(1, steps + 1)], [name + one],
                        {"concat_param": {"axis": 0}})
        self._check_names()

    def _at(self, blob: str, step: int) -> str:
        return f"{self.name}{blob}_{step}"

    def _step(self, layer: LayerParameter, t: int, known: Mapping[str, str]) -> None:
        copy = self.net.layer.add()
        copy.CopyFrom(layer)
        copy.name = self._at(layer.name, t)
        del copy.bottom[:], copy.top[:]
        copy.bottom.extend(known.get(bottom) or self._at(bottom, t) for bottom in layer.bottom)
        copy.top.extend(self._at(top, t) for top in layer.top)

    def _dummy(self, name: str, shape: Shape, value: float) -> None:
        filler = {"data_filler": {"type": "constant", "value": value}} if value else {}
        self._layer("DummyData", name, [], [name], {"dummy_data_param": {"shape": {"dim": shape}, **filler}})

    def _layer(
        self, kind: str, name: str, bottoms: Iterable[str], tops: Iterable[str], settings: Mapping[str, Any]
    ) -> None:
        layer = self.net.layer.add(type=kind, name=name, bottom=bottoms, top=tops)
        for key, value in settings.items():
            assign(layer, key, value)

    def _check_names(self) -> None:
        writers: dict[str, str] = {}
        for layer in self.net.layer:
            for top in layer.top:
                if top in writers and top not in layer.bottom:
                    raise SpecError(f"blob {top!r} would be written by {writers[top]!r} too: give a blob of the cell "
                                    "another name", layer=layer.name)
                writers.setdefault(top, layer.name)
