"""Convolutions of one pixel that read one value become one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace

from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def merge_siblings(graph: Graph, context: PassContext) -> Graph:
    """Make one ``Merged`` node of the Convolutions with kernel 1, stride 1, no padding and one group that read one
    value, as in the modules of GoogLeNet: one product reads it, and its gradient is one product too.

    All of them have a bias, or none has one. Of all the same gradients are needed, so that none is computed for what is
    frozen or leads to no loss.
    """
    siblings: dict[Hashable, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if _is_pixelwise(node, context):
            siblings[_alike(node, context)].append(node)
    merged: dict[str, Node | None] = {}  # by the name of a sibling: what stands at its place
    for group in siblings.values():
        if len(group) > 1:
            merged.update({node.name: None for node in group[1:]})
            merged[group[0].name] = replace(
                group[0], type="Merged", tops=tuple(node.tops[0] for node in group),
                loss_weights=tuple(node.loss_weights[0] for node in group), shared={}, parts=tuple(group))
    nodes = (merged.get(node.name, node) for node in graph.nodes)
    return graph.with_nodes(node for node in nodes if node is not None)


def _is_pixelwise(node: Node, context: PassContext) -> bool:
    if node.type != "Convolution" or len(node.bottoms) != 1:
        return False
    layer = context.inferred.layers[node.name]
    assert isinstance(layer, Convolution)
    spatial = len(context.inferred.shapes[node.bottoms[0]]) - 2
    if layer.p.axis != 1 or layer.p.group != 1 or any(size != 1 for size in layer.kernel(spatial)):
        return False
    geometry = layer.geometry(spatial)
    return all(step == 1 for step in geometry.stride) and all(pad == (0, 0) for pad in geometry.pad)


def _alike(node: Node, context: PassContext) -> Hashable:
    """What siblings have in common."""
    stored = context.inferred.stored[node.name]
    return (node.bottoms, tuple(one.lr_mult == 0 for one in stored), tuple(node.proto.propagate_down),
            context.gradients[node.name])
