"""Layers that are divided over devices run on their parts of the weights."""

from __future__ import annotations

from dataclasses import replace

from jaffe.compile.partition import divisions
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph


def divide(graph: Graph, context: PassContext) -> Graph:
    """Make a ``Divided`` node of each layer of the partition, and of those that read features apart and give them
    together."""
    if context.partition is None:
        return graph
    found = divisions(graph, context.inferred, context.partition, context.keep)
    return graph.with_nodes(
        replace(node, type="Divided", parts=(node,), shared={}, plan=found[node.name])
        if node.name in found and (found[node.name].way or not found[node.name].stays) else node
        for node in graph.nodes)
