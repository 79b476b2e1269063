"""Layers whose weights are divided over devices: which can be, what the devices then send to each other.

Every device has a batch of its own. Those along one axis of the mesh join their batches for such a layer, and each
computes a part of its features: as much work as before, but a part of the weights, of their gradients and of what the
optimiser keeps. Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"
(arXiv 1404.5997); in pairs, by output and then by input, Shoeybi et al. 2019, "Megatron-LM" (arXiv 1909.08053).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from jaffe.compile.backward import Gradients
from jaffe.compile.infer import Inferred
from jaffe.compile.layer import Layer, Shape
from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.layers.linear import Embed, InnerProduct
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Graph, Node

Way = Literal["output", "input"]
Kind = Literal["all-gather", "reduce-scatter", "all-to-all"]
BYTES = 4  # of a value


@dataclass(frozen=True)
class Partition:
    """Which layers are divided over a mapped axis.

    Attributes:
        axis: its name, as ``jax.shard_map`` and ``jax.pmap`` have it.
        size: devices along it.
        layers: by layer, ``"output"``: each device has some of its outputs (channels); ``"input"``: each adds up what
            comes of some of its inputs, of an Embed of some of its rows.
    """

    axis: str
    size: int
    layers: Mapping[str, Way]

    def weight_axis(self, layer: Layer, weight: str) -> int | None:
        """The axis along which a weight of a layer is divided; None where each device has all of it."""
        way = self.layers.get(layer.node.name)
        if way is None or (way == "input" and weight != "weight"):
            return None
        if weight != "weight" or isinstance(layer, Embed):
            return 0
        turned = isinstance(layer, InnerProduct) and layer.p.transpose
        return int((way == "input") != turned)


@dataclass(frozen=True)
class Division:
    """How one layer is run on a device of those that share it.

    Attributes:
        axis: the mapped axis over which.
        way: in which it is divided; None: it is not, but reads features apart.
        features: axis of the features in its bottom and top.
        apart: whether its bottom has its features apart already: those of all items, a part on each device.
        stays: whether its top keeps its features apart for its readers.
    """

    axis: str
    way: Way | None
    features: int
    apart: bool
    stays: bool


@dataclass(frozen=True)
class Transfer:
    """What a layer sends to the others that share it, once a pass.

    Attributes:
        layer: its name.
        value: the value that is sent, or whose gradient is.
        backward: whether in the backward pass.
        size: bytes of the larger side on one device: what a gather results in, what is scattered or exchanged.
    """

    layer: str
    value: str
    kind: Kind
    backward: bool
    size: int


def ways(node: Node, inferred: Inferred, size: int) -> tuple[Way, ...]:
    """Those in which a layer can be divided over ``size`` devices; none where its weights are shared with another.

    InnerProduct and Convolution (one group): by outputs or inputs; Embed: by its rows, which are its inputs.
    """
    layer = inferred.layers[node.name]
    shared = any(one.owner == mine.owner for other, stored in inferred.stored.items() if other != node.name
                 for one in stored for mine in inferred.stored[node.name])
    if shared or node.shared or len(node.bottoms) != 1 or layer.foreign:
        return ()
    if isinstance(layer, Embed):
        return ("input",) if layer.p.input_dim % size == 0 and inferred.shapes[node.bottoms[0]] else ()
    if type(layer) not in (InnerProduct, Convolution) or (isinstance(layer, Convolution) and layer.p.group != 1):
        return ()
    bottom = inferred.shapes[node.bottoms[0]]
    axis = layer.axis(layer.p.axis, len(bottom))
    if axis == 0:
        return ()
    found: list[Way] = []
    if layer.p.num_output % size == 0:
        found.append("output")
    if axis < len(bottom) and bottom[axis] % size == 0:
        found.append("input")
    return tuple(found)


def check(graph: Graph, inferred: Inferred, partition: Partition) -> None:
    """Refuse a partition that names what cannot be divided so. Raises SpecError, JaffeError."""
    names = {node.name: node for node in graph.nodes}
    for name, way in partition.layers.items():
        if name not in names:
            raise JaffeError(f"a layer to divide, {name!r}, is not in the net{suggest(name, names)}")
        if way not in ("output", "input"):
            raise names[name].error(f'it is divided by "output" or "input"; found {way!r}')
        able = ways(names[name], inferred, partition.size)
        if way not in able:
            raise names[name].error(
                f"it cannot be divided over {partition.size} devices by its {way}s"
                + (f"; expected {' or '.join(able)}" if able else
                   "; what can be are InnerProduct, Embed and Convolution of one group, with weights that no other "
                   f"layer shares and a number of outputs or inputs that is a multiple of {partition.size}"))


def divisions(
    graph: Graph, inferred: Inferred, partition: Partition, keep: Collection[str]
) -> dict[str, Division]:
    """How the layers are run that are divided, or read features apart, by name. A value has its features apart only
    where all who read it take it so, and it is not among ``keep``."""
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for value in node.bottoms:
            readers[value].append(node)
    found: dict[str, Division] = {}
    apart: dict[str, int] = {}  # values with their features apart, and the axis of those
    for node in graph.nodes:
        way = partition.layers.get(node.name)
        axis = apart.get(node.bottoms[0]) if len(node.bottoms) == 1 else None
        if way is None and axis is None:
            continue
        features = _features(node, inferred) if axis is None else axis
        stays = way != "input" and node.tops[0] not in keep and bool(readers[node.tops[0]]) and all(
            _takes(reader, inferred, partition, features) for reader in readers[node.tops[0]])
        found[node.name] = Division(partition.axis, way, features, axis is not None, stays)
        if stays:
            apart[node.tops[0]] = features
    return found


def _features(node: Node, inferred: Inferred) -> int:
    layer = inferred.layers[node.name]
    dimensions = len(inferred.shapes[node.bottoms[0]])
    return dimensions if isinstance(layer, Embed) else layer.axis(layer.p.axis, dimensions)


def _takes(node: Node, inferred: Inferred, partition: Partition, features: int) -> bool:
    """Whether a layer reads its bottom with the features of that axis apart."""
    if node.name in partition.layers:
        embeds = isinstance(inferred.layers[node.name], Embed)
        return partition.layers[node.name] == "input" and not embeds and _features(node, inferred) == features
    return len(node.bottoms) == 1 and inferred.layers[node.name].channelwise(features)


def transfers(
    graph: Graph, inferred: Inferred, partition: Partition, gradients: Mapping[str, Gradients]
) -> list[Transfer]:
    """What a training step sends along the partition's axis, but for gradients of weights, in the order of the net."""
    keep = {graph.blobs[name] for name in graph.outputs}
    keep |= {top for node in graph.nodes for top, weight in zip(node.tops, node.loss_weights, strict=True) if weight}
    found = divisions(graph, inferred, partition, keep)
    return [one for node in graph.nodes if node.name in found
            for one in _sent(node, found[node.name], inferred, partition.size, gradients[node.name])]


def _sent(
    node: Node, how: Division, inferred: Inferred, size: int, gradients: Gradients
) -> Iterator[Transfer]:
    bottom, top = node.bottoms[0], node.tops[0]

    def both(value: str, forward: Kind, backward: Kind, joined: bool, needed: bool) -> Iterator[Transfer]:
        count = BYTES * math.prod(inferred.shapes[value]) * (size if joined else 1)
        yield Transfer(node.name, value, forward, False, count)
        if needed:
            yield Transfer(node.name, value, backward, True, count)

    embeds = isinstance(inferred.layers[node.name], Embed)
    if how.way == "output" or embeds:
        yield from both(bottom, "all-gather", "reduce-scatter", True, any(gradients.bottoms))
    elif how.way == "input" and not how.apart:
        yield from both(bottom, "all-to-all", "all-to-all", False, any(gradients.bottoms))
    if how.way == "input":
        yield from both(top, "reduce-scatter", "all-gather", True, gradients.needed)
    elif not how.stays:
        yield from both(top, "all-to-all", "all-to-all", False, gradients.needed)


def local_shape(partition: Partition | None, layer: Layer, weight: str, shape: Shape) -> Shape:
    """The shape of a weight on one device."""
    axis = None if partition is None else partition.weight_axis(layer, weight)
    if partition is None or axis is None:
        return shape
    return (*shape[:axis], shape[axis] // partition.size, *shape[axis + 1 :])
