"""A Scale behind a BatchNorm that normalises by the batch is computed with it."""

from __future__ import annotations

from jaffe.compile.layers.batch_norm import BatchNorm
from jaffe.compile.layers.linear import Scale
from jaffe.compile.passes.absorb import absorb
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def join_scale(graph: Graph, context: PassContext) -> Graph:
    """One ``ScaledNorm`` node of a BatchNorm with the batch's statistics and the Scale (C) that alone reads it: their
    gradients need the same sums."""

    def normalises(node: Node) -> bool:
        layer = None if node.parts else context.inferred.layers[node.name]
        return (isinstance(layer, BatchNorm) and not layer.uses_state
                and len(context.inferred.shapes[node.bottoms[0]]) > 1)

    def scales(node: Node) -> bool:
        layer = None if node.parts else context.inferred.layers[node.name]
        return isinstance(layer, Scale) and layer.is_channel_affine([context.inferred.shapes[node.bottoms[0]]])

    return absorb(graph, context, "ScaledNorm", normalises, scales)
