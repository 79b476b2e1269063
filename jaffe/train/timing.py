"""How long a net takes, whole and layer by layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
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
from jaffe.train.compilation import Compilation, watch_compilation


@dataclass(frozen=True)
class Timing:
    """Median milliseconds: a forward pass, and the rest of a forward and backward pass (``None``: no gradient).

    Of the whole net also: the seconds of tracing it and lowering it to XLA's language, and what compiling it took.
    """

    name: str
    type: str
    forward: float
    backward: float | None
    trace_seconds: float = 0.0
    compilation: Compilation | None = None


def time_net(net: CompiledNet, iterations: int) -> Timing:
    """Time ``apply``, and value and gradient of ``loss`` when there is one, as one program each."""
    variables, inputs, key = _arguments(net)
    functions: list[Callable[..., Any]] = [lambda v, x: net.apply(v, x, key)[0]]
    arguments: list[tuple[Any, ...]] = [(variables, inputs)]
    if net.loss_tops:
        functions.append(jax.value_and_grad(lambda p, x: net.loss({**variables, "params": p}, x, key)[0]))
        arguments.append((variables["params"], inputs))
    began = time.perf_counter()
    lowered = [jax.jit(function).lower(*given) for function, given in zip(functions, arguments, strict=True)]
    trace_seconds = time.perf_counter() - began
    with watch_compilation() as compilation:
        programs = [one.compile() for one in lowered]
    forward, *both = [median(*call, iterations) for call in zip(programs, arguments, strict=True)]
    backward = max(both[0] - forward, 0.0) if both else None
    return Timing(net.name, net.phase, forward, backward, trace_seconds, compilation)


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


def timing_table(layers: list[Timing], whole: Timing) -> Table:
    """Layers and the whole net, in milliseconds."""
    title = Text(f"{whole.name} ({whole.type}), median ms")
    table = Table("layer", "type", title=title, title_justify="left", box=None)
    table.add_column("forward", justify="right")
    table.add_column("backward", justify="right")
    for one in layers:
        table.add_row(Text(one.name), Text(one.type), *_milliseconds(one))
    table.add_section()
    table.add_row("whole net", "", *_milliseconds(whole))
    return table


def _milliseconds(one: Timing) -> tuple[str, str]:
    return f"{one.forward:.3f}", "" if one.backward is None else f"{one.backward:.3f}"


def _arguments(net: CompiledNet) -> tuple[dict[str, Any], dict[str, jax.Array], jax.Array]:
    """Fresh variables, standard normal inputs (labels 0, as any class count allows), and a key."""
    key = jax.random.key(0)
    inputs = {
        name: jnp.zeros(spec.shape, spec.dtype) if len(spec.shape) < 2
        else jax.random.normal(key, spec.shape, spec.dtype)
        for name, spec in net.inputs.items()
    }
    return net.init(key), inputs, key
