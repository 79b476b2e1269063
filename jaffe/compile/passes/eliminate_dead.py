"""Layers that lead to nothing kept are removed."""

from __future__ import annotations

from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph


def eliminate_dead(graph: Graph, context: PassContext) -> Graph:
    """Keep what produces kept values, what updates state, and all that those need."""
    live = set(context.keep)
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in context.effects or live.intersection(node.tops):
            live.update(node.bottoms)
            nodes.append(node)
    return graph.with_nodes(reversed(nodes))
