"""Chains of nodes, each the only reader of the one before, become one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def absorb(
    graph: Graph, context: PassContext, kind: str, begins: Callable[[Node], bool], joins: Callable[[Node], bool]
) -> Graph:
    """The graph with a node of type ``kind`` for each node that may begin one and the reader that may join it.

    ``begins`` is asked of what came of joining too, so a chain may grow. Such a node has one top. Not where the value
    between two nodes is kept or read elsewhere, nor where a gradient stops between them.
    """
    readers = Counter(value for node in graph.nodes for value in node.bottoms)
    nodes: list[Node] = []
    places: dict[str, int] = {}  # in nodes, of what may take in the one reader of these values
    for node in graph.nodes:
        place = places.get(node.bottoms[0]) if len(node.bottoms) == 1 else None
        if place is not None and False not in node.proto.propagate_down and joins(node):
            before = nodes[place]
            nodes[place] = replace(before, type=kind, tops=node.tops, loss_weights=node.loss_weights, shared={},
                                   parts=(*(before.parts or (before,)), node))
        else:
            place = len(nodes)
            nodes.append(node)
        if begins(nodes[place]):
            (top,) = nodes[place].tops
            if readers[top] == 1 and top not in context.keep:
                places[top] = place
    return graph.with_nodes(nodes)
