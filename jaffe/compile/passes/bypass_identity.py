"""Readers of a layer that changes nothing read its bottom instead."""

from __future__ import annotations

from dataclasses import replace

from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph


def bypass_identity(graph: Graph, context: PassContext) -> Graph:
    """Rewire around identities (``Layer.is_identity``); eliminate_dead then removes those nobody asked for."""
    source: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = replace(node, bottoms=tuple(source.get(value, value) for value in node.bottoms))
        nodes.append(node)
        layer = context.inferred.layers[node.name]
        gradient_stops = False in node.proto.propagate_down
        if node.bottoms and not gradient_stops:
            shapes = [context.inferred.shapes[value] for value in node.bottoms]
            if layer.is_identity(shapes):
                source.update(dict.fromkeys(node.tops, node.bottoms[0]))
    return graph.with_nodes(nodes)
