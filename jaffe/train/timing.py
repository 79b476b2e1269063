"""How long a net takes, whole and layer by layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from jaffe.compile.backward import Gradients, needed_gradients
from jaffe.compile.layer import Context
from jaffe.compile.net import CompiledNet
from jaffe.compile.precision import apply_in
from jaffe.compile.reader import WeightReader
from jaffe.netdef.errors import SpecError
from jaffe.train.compilation import Compilation, compiling
from jaffe.train.profile import Profile, profile

PROFILED = 10  # runs: enough for a mean, few enough for the profiler's memory


@dataclass(frozen=True)
class Timing:
    """Median milliseconds: a forward pass, and the rest of a forward and backward pass (``None``: no gradient).

    Of the whole net also: the seconds of tracing it and lowering it to XLA's language, what compiling it took, and how
    its time is divided among layers (``None``: the profiler does not say).
    """

    name: str
    type: str
    forward: float
    backward: float | None
    trace_seconds: float = 0.0
    compilation: Compilation | None = None
    profile: Profile | None = None


def time_net(net: CompiledNet, iterations: int) -> Timing:
    """Time ``apply``, and value and gradient of ``loss`` when there is one, as one program each; the profile is that of
    the latter, where there is one."""
    variables, inputs, key = _arguments(net)
    functions: list[Callable[..., Any]] = [lambda v, x: net.apply(v, x, key)[0]]
    arguments: list[tuple[Any, ...]] = [(variables, inputs)]
    if net.loss_tops:
        functions.append(jax.value_and_grad(lambda p, x: net.loss({**variables, "params": p}, x, key)[0]))
        arguments.append((variables["params"], inputs))
    began = time.perf_counter()
    lowered = [jax.jit(function).lower(*given) for function, given in zip(functions, arguments, strict=True)]
    trace_seconds = time.perf_counter() - began
    with compiling() as compilation:
        programs = [one.compile() for one in lowered]
    forward, *both = [median(*call, iterations) for call in zip(programs, arguments, strict=True)]
    backward = max(both[0] - forward, 0.0) if both else None
    found = profile(programs[-1], arguments[-1], [node.name for node in net.graph.nodes], min(iterations, PROFILED))
    return Timing(net.name, net.phase, forward, backward, trace_seconds, compilation, found)


def time_layers(net: CompiledNet, iterations: int) -> list[Timing]:
    """Time each layer by itself, on the blobs that it gets in the net; backward, what training asks of it."""
    variables, inputs, key = _arguments(net)
    read = WeightReader(net, variables)
    asked = needed_gradients(net.graph, net.inferred)
    env = {**inputs}
    timings = []
    for node in net.graph.nodes:
        layer = net.inferred.layers[node.name]
        if layer.source:
            continue
        bottoms = [env[value] for value in node.bottoms]
        weights = read(node, layer, bottoms, variables["state"])

        def forward(w: Any, b: Any, layer: Any = layer, node: Any = node) -> Any:
            return apply_in(net.precision, layer, w, b, Context(node, key, net.dtype))[0]

        compiled = jax.jit(forward)
        tops = compiled(weights, bottoms)
        env.update(zip(node.tops, tops, strict=True))
        once = median(compiled, (weights, bottoms), iterations)
        backward = None
        if asked[node.name].needed:
            both = jax.jit(lambda w, b, f=forward, gradients=asked[node.name]: _pull_back(f, w, b, gradients))
            with contextlib.suppress(SpecError):  # the caller's own Python, without a gradient
                backward = max(median(both, (weights, bottoms), iterations) - once, 0.0)
        timings.append(Timing(node.name, node.type, once, backward))
    return timings


def _pull_back(forward: Callable[..., Any], weights: Any, bottoms: Any, asked: Gradients) -> Any:
    """Tops, and the gradients asked for, for gradients of one at every top."""

    def of_asked(some_weights: Any, some_bottoms: Any) -> Any:
        rest = iter(some_bottoms)
        return forward({**weights, **some_weights}, [
            next(rest) if one else bottom for bottom, one in zip(bottoms, asked.bottoms, strict=True)])

    tops, pull = jax.vjp(of_asked, {name: weights[name] for name in asked.weights},
                         [bottom for bottom, one in zip(bottoms, asked.bottoms, strict=True) if one])
    return tops, pull(jax.tree.map(jnp.ones_like, tops))


def median(function: Callable[..., Any], arguments: tuple[Any, ...], iterations: int) -> float:
    """Median milliseconds of a call, after one to warm up, which compiles what is not compiled."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(iterations):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def timing_table(layers: Sequence[Timing], whole: Timing) -> Table:
    """Layers and the whole net, in milliseconds: alone, and what the profiler saw of each within the whole program."""
    title = Text(f"{whole.name} ({whole.type}), ms")
    table = Table("layer", "type", title=title, title_justify="left", box=None)
    inside = whole.profile
    for column in ("forward", "backward", *(("in the net: forward", "backward", "share") if inside else ())):
        table.add_column(column, justify="right")
    for one in layers:
        table.add_row(Text(one.name), Text(one.type), *_milliseconds(one), *_within(inside, one.name))
    if inside:
        table.add_row("", "of no layer", "", "", f"{inside.other:.3f}", "", _share(inside, inside.other))
    table.add_section()
    sums = [sum(part.values()) for part in (inside.forward, inside.backward)] if inside else []
    table.add_row("whole net", "", *_milliseconds(whole), *(f"{one:.3f}" for one in sums))
    return table


def _milliseconds(one: Timing) -> tuple[str, str]:
    return f"{one.forward:.3f}", "" if one.backward is None else f"{one.backward:.3f}"


def _within(inside: Profile | None, layer: str) -> tuple[str, ...]:
    """Nothing for a layer of which XLA or the compiler left nothing of its own."""
    if inside is None:
        return ()
    passes = (part.get(layer) for part in (inside.forward, inside.backward))
    found = inside.of(layer)
    return (*("" if one is None else f"{one:.3f}" for one in passes), _share(inside, found) if found else "")


def _share(inside: Profile, milliseconds: float) -> str:
    return f"{milliseconds / inside.total:.1%}" if inside.total else ""


def _arguments(net: CompiledNet) -> tuple[dict[str, Any], dict[str, jax.Array], jax.Array]:
    """Fresh variables, standard normal inputs (labels 0, as any class count allows), and a key."""
    key = jax.random.key(0)
    inputs = {
        name: jnp.zeros(spec.shape, spec.dtype) if len(spec.shape) < 2
        else jax.random.normal(key, spec.shape, spec.dtype)
        for name, spec in net.inputs.items()
    }
    return net.init(key), inputs, key
