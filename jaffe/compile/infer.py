"""Shapes of every blob and weight of a graph, before any number is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaffe.compile.fillers import check
from jaffe.compile.layer import MOST_VALUES, Layer, Shape, Weight, check_types, make_layer
from jaffe.compile.layers.data import Source
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import ParamSpec
from jaffe.netdef.sizes import sizes
from jaffe.netdef.weights import blob_shape, blob_size, same_values


@dataclass(frozen=True)
class Stored:
    """One stored array of a layer, and who owns it.

    Attributes:
        weight: name, shape and filler as the layer states them.
        owner: layer and weight name under which the variables hold it: the layer's own unless shared.
        lr_mult, decay_mult: multipliers of learning rate and weight decay; 0 for state.
    """

    weight: Weight
    owner: tuple[str, str]
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class Inferred:
    """What shape inference finds: layer objects by node, shapes by value, stored arrays by node, inputs.

    ``stored`` has what a weights file has; ``carried``, apart from it, what goes from one call to the next.
    """

    layers: Mapping[str, Layer]
    shapes: Mapping[str, Shape]
    stored: Mapping[str, tuple[Stored, ...]]
    carried: Mapping[str, tuple[Weight, ...]]
    inputs: Mapping[str, Shape]

    def owned(self, node: str) -> list[Stored]:
        """The stored arrays that this node owns (not those it borrows from another layer)."""
        return [stored for stored in self.stored[node] if stored.owner == (node, stored.weight.name)]


def infer(graph: Graph, inputs: Mapping[str, Sequence[int]] | None = None, batch: int | None = None) -> Inferred:
    """Find all shapes, and refuse what does not fit.

    Args:
        inputs: shapes of the net's inputs, where the net leaves them open or to override them.
        batch: first axis of every input, where ``inputs`` does not give the shape.

    Raises:
        SpecError: at the first layer that is wrong.
    """
    check_types(graph.nodes)
    layers = {node.name: make_layer(node) for node in graph.nodes}
    given = {name: sizes(f"inputs[{name!r}]", shape) for name, shape in (inputs or {}).items()}
    if batch is not None:
        (batch,) = sizes("batch", [batch])
    fed: dict[str, Shape] = {}
    shapes: dict[str, Shape] = {}
    stored: dict[str, tuple[Stored, ...]] = {}
    carried: dict[str, tuple[Weight, ...]] = {}
    multipliers = _multipliers(graph)
    for node in graph.nodes:
        layer = layers[node.name]
        bottoms = [shapes[value] for value in node.bottoms]
        if isinstance(layer, Source):
            tops = _source_shapes(layer, given, batch)
            fed.update(zip(node.tops, tops, strict=True))
        else:
            tops = layer.shapes(bottoms)
        for top, shape in zip(node.tops, tops, strict=True):
            _check_size(node, f"top {top!r}", shape)
            shapes[top] = shape
        weights = layer.weights(bottoms)
        carried[node.name] = _carried(node, weights)
        stored[node.name] = _stored(node, [one for one in weights if not one.carried], stored, multipliers)
    if given:
        name = next(iter(given))
        raise JaffeError(f"the net has no input {name!r}{suggest(name, fed)}; it reads {', '.join(fed) or 'nothing'}")
    return Inferred(layers, shapes, stored, carried, fed)


def _source_shapes(layer: Source, given: dict[str, Shape], batch: int | None) -> list[Shape]:
    tops: list[Shape] = []
    for blob, shape in zip(layer.node.tops, layer.declared(), strict=True):
        if blob in given:
            shape = given.pop(blob)
        elif shape is None:
            first = batch or layer.batch or 64
            raise layer.node.error(
                f"the shape of {blob!r} is not in the net, only in the data: "
                f"expected inputs={{{blob!r}: ({first}, ...)}} (--input {blob}={first},...); found none"
            )
        elif batch is not None and shape:
            shape = (batch, *shape[1:])
        tops.append(shape)
    return tops


def _check_size(node: Node, what: str, shape: Shape) -> None:
    if math.prod(shape) > MOST_VALUES:
        raise node.error(f"{what} of shape {shape} has {math.prod(shape)} values; expected at most {MOST_VALUES}")


def _carried(node: Node, weights: list[Weight]) -> tuple[Weight, ...]:
    carried = tuple(weight for weight in weights if weight.carried)
    for one in carried:
        if one.trained or one.value is not None or one.filler.type != "constant" or one.filler.value:
            raise node.error(f"{one.name} is carried from call to call: expected trained=False, and constant(0) as "
                             "its filler")
    return carried


def _stored(
    node: Node, weights: list[Weight], before: Mapping[str, tuple[Stored, ...]], multipliers: Multipliers
) -> tuple[Stored, ...]:
    names = [weight.name for weight in weights]
    specs = list(node.proto.param)
    if len(specs) > len(weights):
        raise node.error(f"expected at most {len(weights)} param entries ({', '.join(names) or 'no weights'}); "
                         f"found {len(specs)}")
    _check_blobs(node, weights)
    result: list[Stored] = []
    for i, weight in enumerate(weights):
        _check_size(node, weight.name, weight.shape)
        try:
            check(weight.filler, weight.shape)
        except ValueError as problem:
            raise node.error(f"{weight.name}_filler: {problem}") from None
        owner = (node.name, weight.name)
        if i in node.shared:
            layer, index = node.shared[i]
            owned = result if layer == node.name else before[layer]
            if index >= len(owned):
                raise node.error(f"param {i} shares with param {index} of layer {layer!r}, which has {len(owned)}")
            _check_shared(node, weight, specs[i], layer, owned[index])
            owner = owned[index].owner
        lr, decay = multipliers.get(node.shared.get(i, (node.name, i)), (1.0, 1.0))
        if weight.frozen or not weight.trained:
            lr = decay = 0.0
        result.append(Stored(weight, owner, lr, decay))
    return tuple(result)


Multipliers = Mapping[tuple[str, int], tuple[float, float]]


def _multipliers(graph: Graph) -> dict[tuple[str, int], tuple[float, float]]:
    """lr_mult and decay_mult by owning layer and index: as the first layer that states them says; 1 otherwise.

    Raises:
        SpecError: two layers that share a parameter state different ones.
    """
    stated: dict[tuple[str, int], dict[str, tuple[float, str]]] = {}
    for node in graph.nodes:
        for i, spec in enumerate(node.proto.param):
            one = stated.setdefault(node.shared.get(i, (node.name, i)), {})
            for field in ("lr_mult", "decay_mult"):
                if not spec.HasField(field):
                    continue
                value, by = one.setdefault(field, (getattr(spec, field), node.name))
                if value != getattr(spec, field):
                    raise node.error(f"shares {spec.name!r} with layer {by!r}: expected the same {field} {value:g}; "
                                     f"found {getattr(spec, field):g}")
    return {
        owner: (one.get("lr_mult", (1.0, ""))[0], one.get("decay_mult", (1.0, ""))[0]) for owner, one in stated.items()
    }


def _check_blobs(node: Node, weights: list[Weight]) -> None:
    """Weights that the declaration itself carries fit the layer."""
    blobs = node.proto.blobs
    if blobs and len(blobs) != len(weights):
        raise node.error(f"expected {len(weights)} stored blobs; found {len(blobs)}")
    for blob, weight in zip(blobs, weights, strict=False):
        shape = blob_shape(blob)
        if not same_values(shape, weight.shape):
            raise node.error(f"stored {weight.name}: expected shape {weight.shape}; found {shape}")
        count = blob_size(blob)
        if count != math.prod(shape):
            raise node.error(f"stored {weight.name}: expected {math.prod(shape)} values; found {count}")


def _check_shared(node: Node, weight: Weight, spec: ParamSpec, owner: str, theirs: Stored) -> None:
    shape = theirs.weight.shape
    if spec.share_mode == ParamSpec.PERMISSIVE:
        if math.prod(shape) != math.prod(weight.shape):
            raise node.error(f"{weight.name} shares {spec.name!r} with layer {owner!r}: expected as many values "
                             f"({math.prod(shape)}); found {math.prod(weight.shape)}")
    elif shape != weight.shape:
        raise node.error(f"{weight.name} shares {spec.name!r} with layer {owner!r}: expected shape {shape}; "
                         f"found {weight.shape}")
    if weight.trained != theirs.weight.trained:
        kinds = {True: "a trained parameter", False: "state"}
        raise node.error(f"{weight.name} shares {spec.name!r} with layer {owner!r}: expected "
                         f"{kinds[theirs.weight.trained]}; found {kinds[weight.trained]}")
