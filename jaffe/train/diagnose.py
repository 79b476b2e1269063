"""What became NaN or infinite first, and Caffe's ``debug_info``: a pass, reduced to a few numbers on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.backward import needed_gradients
from jaffe.compile.net import CompiledNet, Variables
from jaffe.compile.tracing import trace
from jaffe.netdef.graph import Node

_TRY = "try a smaller base_lr, a warm-up (warmup_iter), clip_gradients, or smaller initial weights"
_SLOPE = "its slope is infinite at 0: a shift keeps values away from there"


class Stats(NamedTuple):
    """What is looked at of an array.

    Attributes:
        nan, infinite: how many of its values are so.
        size: how many there are.
        least, most: of the finite ones.
    """

    nan: Any
    infinite: Any
    size: Any
    least: Any
    most: Any

    @property
    def finite(self) -> bool:
        return not self.nan and not self.infinite

    def __str__(self) -> str:
        counts = [f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "infinite")) if count]
        return f"{' and '.join(counts)} of {self.size} values"


class Measured(NamedTuple):
    """A pass: statistics of the variables and of what ``Trace`` has; and for each layer that reads indices, how many of
    them are outside, and the first of those."""

    variables: Any
    values: dict[str, Stats]
    gradients: dict[str, Stats]
    weight_gradients: Any
    loss: Any
    outside: dict[str, tuple[Any, Any]]


class Indices(NamedTuple):
    """Labels, or places in a table, that a layer reads in a bottom: from 0 to below ``limit``, or ``ignored``."""

    what: str
    bottom: int
    limit: int
    ignored: int | None = None


def diagnose(net: CompiledNet, variables: Variables, inputs: Mapping[str, Any], key: jax.Array) -> str:
    """Why the loss of a pass is NaN or infinite: the first thing that is, in the order of computing, and what to try.

    In that order: inputs, variables, the layers' tops; where all are finite, the sum of the losses, and the gradients,
    from the last layer to the first. What leads to no loss is not looked at, and where some losses are finite, what
    leads to those alone. A label outside the classes, which makes a NaN, is told as such.

    Args:
        variables: those that the pass began with.
        inputs, key: of the pass; with ``iter_size``, one of the iteration's.

    Returns:
        A sentence with the layer, its type and place in the file, how many values are not finite, and the range of the
        finite ones that they come from. It also says so if nothing is to be found.
    """
    found: Measured = jax.device_get(_measure(net, variables, inputs, key))
    broken = [top for top in net.loss_tops if not found.values[top].finite]
    nodes = _leading(net, broken or net.loss_tops)
    return (
        _wrong_input(net, nodes, found) or _wrong_variable(net, nodes, found) or _wrong_value(net, nodes, found)
        or _wrong_sum(found) or _wrong_gradient(net, nodes, found)
        or f"layer by layer all of this pass is finite: it is at the limit of {net.dtype}; {_TRY}"
    )


@partial(jax.jit, static_argnums=0)
def _measure(net: CompiledNet, variables: Variables, inputs: Mapping[str, Any], key: jax.Array) -> Measured:
    found = trace(net, variables, inputs, key)
    outside = {}
    for node in net.graph.nodes:
        if read := _indices(net, node):
            index = found.values[node.bottoms[read.bottom]].reshape(-1)
            wrong = ~((index > -1) & (index < read.limit))  # fractions are cut off
            if read.ignored is not None:
                wrong &= jnp.trunc(index) != read.ignored
            outside[node.name] = wrong.sum(), index[wrong.argmax()]
    arrays = variables, found.values, found.gradients, found.weight_gradients
    of_variables, values, gradients, weight_gradients = jax.tree.map(_stats, arrays)
    return Measured(of_variables, values, gradients, weight_gradients, found.loss, outside)


def _stats(x: jax.Array) -> Stats:
    finite = jnp.isfinite(x)
    terms = (
        jnp.isnan(x).astype(jnp.int32), jnp.isinf(x).astype(jnp.int32),
        jnp.where(finite, x, jnp.inf), jnp.where(finite, x, -jnp.inf),
    )
    starts = (jnp.int32(0), jnp.int32(0), jnp.array(jnp.inf, x.dtype), jnp.array(-jnp.inf, x.dtype))
    # One reduction for the four: XLA:CPU compiles that in a third of the time (LeNet: 2.6 s rather than 7.9 s of CPU).
    nan, infinite, least, most = lax.reduce(terms, starts, lambda a, b: (
        a[0] + b[0], a[1] + b[1], jnp.minimum(a[2], b[2]), jnp.maximum(a[3], b[3])), range(x.ndim))
    return Stats(nan, infinite, jnp.int32(x.size), least, most)


def _indices(net: CompiledNet, node: Node) -> Indices | None:
    """What a layer reads as such, if one that is outside makes a NaN."""
    p = node.proto
    scores = net.inferred.shapes[node.bottoms[0]] if node.bottoms else ()
    ignored = p.loss_param.ignore_label if p.loss_param.HasField("ignore_label") else None
    match node.type:
        case "SoftmaxWithLoss":
            return Indices("label", 1, scores[p.softmax_param.axis], ignored)
        case "InfogainLoss":
            return Indices("label", 1, scores[p.infogain_loss_param.axis], ignored)
        case "HingeLoss" | "MultinomialLogisticLoss":
            return Indices("label", 1, math.prod(scores[1:]))
        case "Embed":
            return Indices("index", 0, p.embed_param.input_dim)
        case "BatchReindex":
            return Indices("index", 1, scores[0])
    return None


def _leading(net: CompiledNet, tops: Iterable[str]) -> list[Node]:
    """The layers that lead to these values, in the order of the net."""
    wanted, nodes = set(tops), []
    for node in reversed(net.graph.nodes):
        if not wanted.isdisjoint(node.tops):
            wanted.update(node.bottoms)
            nodes.append(node)
    return nodes[::-1]


def _wrong_input(net: CompiledNet, nodes: Sequence[Node], found: Measured) -> str:
    for name in (top for node in nodes for top in node.tops if top in net.inputs):
        if not found.values[name].finite:
            return f"input {name!r} holds {found.values[name]}: look at the data"
    return ""


def _wrong_variable(net: CompiledNet, nodes: Sequence[Node], found: Measured) -> str:
    for node in nodes:
        for group, owner, name in _kept(net, node):
            stats = found.variables[group][owner][name]
            if not stats.finite:
                cause = "the update" if group == "params" else "a pass"
                return str(node.error(f"{node.type}'s {name} holds {stats} when the iteration begins: {cause} before "
                                      f"it made it so, or it was loaded so; {_TRY}"))
    return ""


def _kept(net: CompiledNet, node: Node) -> list[tuple[str, str, str]]:
    """Where the variables have what a layer reads of them: group, layer and name."""
    stored = [("params" if one.weight.trained else "state", *one.owner) for one in net.stored[node.name]]
    return stored + [("state", node.name, one.name) for one in net.inferred.carried[node.name]]


def _wrong_value(net: CompiledNet, nodes: Sequence[Node], found: Measured) -> str:
    for node in nodes:
        for i, top in enumerate(node.tops):
            stats = found.values[top]
            if stats.finite:
                continue
            if found.outside.get(node.name, (0,))[0]:
                return _wrong_index(net, node, found)
            bottoms = [found.values[value] for value in node.bottoms]
            weights = [found.variables[group][owner][name] for group, owner, name in _kept(net, node)]
            read = [f"{what} of {_range(some)}" for what, some in (("bottoms", bottoms), ("weights", weights)) if some]
            source = f", computed from {' and '.join(read)}" if read else ""
            return str(node.error(f"{node.type}'s top {_top(node, i)!r} holds {stats}{source}; {_remedy(node, stats)}"))
    return ""


def _wrong_index(net: CompiledNet, node: Node, found: Measured) -> str:
    count, first = found.outside[node.name]
    read = _indices(net, node)
    assert read is not None  # or it would not be among those outside
    allowed = f"0 to {read.limit - 1}" + ("" if read.ignored is None else f", or ignore_label {read.ignored}")
    size = found.values[node.bottoms[read.bottom]].size
    look = "the labels, and at how many classes there are" if read.what == "label" else "the data"
    return str(node.error(f"{node.type} reads the {read.what} {first:g} in {_bottom(node, read.bottom)!r}; expected "
                          f"{allowed}; outside are {count} of {size}: look at {look}"))


def _remedy(node: Node, stats: Stats) -> str:
    if node.type == "Log":
        return "shift + scale x must be above 0"
    if node.type == "Power" and stats.nan:
        return "shift + scale x must not be below 0 for such a power"
    if node.type == "Power" and node.proto.power_param.power < 0:
        return "shift + scale x must not be 0 for such a power"
    if node.type == "Exp":
        return f"a smaller scale or shift keeps the exponent small, or {_TRY}"
    return _TRY


def _wrong_sum(found: Measured) -> str:
    if math.isfinite(found.loss):
        return ""
    return f"all blobs are finite, but the sum of the losses is not; {_TRY}, or a smaller loss_weight"


def _wrong_gradient(net: CompiledNet, nodes: Sequence[Node], found: Measured) -> str:
    """The first in the order of the backward pass. A value's gradient is there when all that read it are done."""
    asked = needed_gradients(net.graph, net.inferred)
    readers: dict[str, list[tuple[Node, int]]] = {}
    for node in nodes:
        for i, (value, needed) in enumerate(zip(node.bottoms, asked[node.name].bottoms, strict=True)):
            if needed:
                readers.setdefault(value, []).append((node, i))
    for node in reversed(nodes):
        for top in node.tops:
            stats, by = found.gradients[top], readers.get(top, [])
            if stats.finite or not by:
                continue
            reader, i = by[-1]
            blob = _bottom(reader, i)
            if len(by) > 1:
                names = " or ".join(repr(one.name) for one, _ in by)
                return f"the gradient that layer {names} passes to {blob!r} holds {stats}; {_TRY}"
            remedy = _SLOPE if reader.type in ("Power", "Log") else _TRY
            return str(reader.error(f"the gradient that {reader.type} passes to {blob!r} holds {stats}, computed from "
                                    f"gradients of {_gradients_of(reader, found)}; {remedy}"))
        for one in net.inferred.owned(node.name):
            name = one.weight.name
            if one.weight.trained and not (stats := found.weight_gradients[node.name][name]).finite:
                return str(node.error(f"the gradient of {node.type}'s {name} holds {stats}, computed from gradients of "
                                      f"{_gradients_of(node, found)}; {_TRY}"))
    return ""


def _gradients_of(node: Node, found: Measured) -> str:
    return _range([found.gradients[top] for top in node.tops])


def _range(stats: Sequence[Stats]) -> str:
    return f"{min(one.least for one in stats):g} to {max(one.most for one in stats):g}"


def _top(node: Node, index: int) -> str:
    """The blob that a value is of."""
    return node.proto.top[index] if index < len(node.proto.top) else node.tops[index]


def _bottom(node: Node, index: int) -> str:
    return node.proto.bottom[index]


class Magnitudes(NamedTuple):
    """Means of absolute values, and the norms of all parameters and of their gradients."""

    values: dict[str, Any]
    gradients: dict[str, Any]
    weights: dict[str, dict[str, Any]]
    weight_gradients: dict[str, dict[str, Any]]
    norms: tuple[Any, Any, Any, Any]


def debug_info(net: CompiledNet, variables: Variables, inputs: Mapping[str, Any], key: jax.Array) -> list[str]:
    """The lines that Caffe logs of a pass with ``debug_info: true``: mean absolute values of all there is.

    Forward, the tops and parameters of each layer, then backward, from the last layer, its bottoms' gradients and its
    parameters', where they are computed; then the norms of all parameters and of all gradients. State such as
    BatchNorm's counts as parameters, as it is after the pass. Source: Caffe 1.0, ``net.cpp``. Its Split layers have no
    lines here: a blob that several layers read, and a parameter that they share, shows its whole gradient under each.

    Args:
        variables: those that the pass begins with.
        inputs, key: of the pass; with ``iter_size``, one of the iteration's, whose gradients do not add up here.
    """
    found: Magnitudes = jax.device_get(_magnitudes(net, variables, inputs, key))
    asked = needed_gradients(net.graph, net.inferred)
    lines = []
    for node in net.graph.nodes:
        for i, top in enumerate(node.tops):
            lines.append(f"    [Forward] Layer {node.name}, top blob {_top(node, i)} data: {found.values[top]:g}")
        for i, stored in enumerate(net.stored[node.name]):
            layer, weight = stored.owner
            name = (node.proto.param[i].name if i < len(node.proto.param) else "") or i
            lines.append(f"    [Forward] Layer {node.name}, param blob {name} data: {found.weights[layer][weight]:g}")
    for node in reversed(net.graph.nodes):
        for i, (value, needed) in enumerate(zip(node.bottoms, asked[node.name].bottoms, strict=True)):
            if needed:
                lines.append(f"    [Backward] Layer {node.name}, bottom blob {_bottom(node, i)} diff: "
                             f"{found.gradients[value]:g}")
        for i, stored in enumerate(net.stored[node.name]):
            if stored.weight.name in asked[node.name].weights:
                layer, weight = stored.owner
                lines.append(f"    [Backward] Layer {node.name}, param blob {i} diff: "
                             f"{found.weight_gradients[layer][weight]:g}")
    data, diff, data_2, diff_2 = found.norms
    return [*lines, f"    [Backward] All net params (data, diff): L1 norm = ({data:g}, {diff:g}); "
                    f"L2 norm = ({data_2:g}, {diff_2:g})"]


@partial(jax.jit, static_argnums=0)
def _magnitudes(net: CompiledNet, variables: Variables, inputs: Mapping[str, Any], key: jax.Array) -> Magnitudes:
    found = trace(net, variables, inputs, key)
    weights: dict[str, dict[str, jax.Array]] = {}
    for node in net.graph.nodes:
        for one in net.inferred.owned(node.name):
            kept = variables["params"] if one.weight.trained else found.state
            weights.setdefault(node.name, {})[one.weight.name] = kept[node.name][one.weight.name]

    def mean(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.abs(x).mean(), tree)

    def norms(tree: Any) -> tuple[jax.Array, jax.Array]:
        leaves = jax.tree.leaves(tree)
        zero = jnp.zeros(())
        return sum((jnp.abs(x).sum() for x in leaves), zero), jnp.sqrt(sum((jnp.square(x).sum() for x in leaves), zero))

    (data, data_2), (diff, diff_2) = norms(weights), norms(found.weight_gradients)
    return Magnitudes(mean(found.values), mean(found.gradients), mean(weights), mean(found.weight_gradients),
                      (data, diff, data_2, diff_2))
