"""A Scale behind a BatchNorm that normalises by the batch is computed with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from jaffe.compile.layers.batch_norm import BatchNorm
from jaffe.compile.layers.linear import Scale
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def join_scale(graph: Graph, context: PassContext) -> Graph:
    """One ``ScaledNorm`` node of a BatchNorm with the batch's statistics and the Scale (C) that alone reads it: their
    gradients need the same sums. Not where the value between them is kept, or no gradient passes."""
    readers = Counter(value for node in graph.nodes for value in node.bottoms)
    nodes: list[Node] = []
    places: dict[str, int] = {}  # in nodes, of the BatchNorm that alone is to be read
    for node in graph.nodes:
        layer = None if node.parts else context.inferred.layers[node.name]
        shapes = [context.inferred.shapes[value] for value in node.bottoms]
        if isinstance(layer, BatchNorm) and not layer.uses_state and len(shapes[0]) > 1:
            (top,) = node.tops
            if readers[top] == 1 and top not in context.keep:
                places[top] = len(nodes)
        elif (isinstance(layer, Scale) and node.bottoms[0] in places and layer.is_channel_affine(shapes)
              and False not in node.proto.propagate_down):
            place = places[node.bottoms[0]]
            before = nodes[place]
            nodes[place] = replace(before, type="ScaledNorm", tops=node.tops, loss_weights=node.loss_weights,
                                   shared={}, parts=(before, node))
            continue
        nodes.append(node)
    return graph.with_nodes(nodes)
