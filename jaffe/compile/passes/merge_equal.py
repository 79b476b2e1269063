"""Layers that compute the same are computed once."""

from __future__ import annotations

from dataclasses import replace

from jaffe.compile.passes.run import PassContext
from jaffe.compile.reroll.families import node_kinds
from jaffe.netdef.graph import Graph


def merge_equal(graph: Graph, context: PassContext) -> Graph:
    """Keep the first of all layers that differ in names only, share their weights and read the same values: a product
    with what does not change from step to step, written out at every step of an unrolled net.

    Not layers that draw random numbers, nor those whose tops are kept; nor constants: two states that begin with zeros
    are no more alike for that.
    """
    first: dict[tuple[int, tuple[str, ...]], tuple[str, ...]] = {}
    renamed: dict[str, str] = {}
    nodes = []
    for node, kind in zip(graph.nodes, node_kinds(graph, context), strict=True):
        node = replace(node, bottoms=tuple(renamed.get(value, value) for value in node.bottoms))
        random = any(context.inferred.layers[leaf.name].random for leaf in node.leaves)
        if kind is not None and node.bottoms and not random:
            tops = first.setdefault((kind, node.bottoms), node.tops)
            if tops != node.tops and context.keep.isdisjoint(node.tops):
                renamed.update(zip(node.tops, tops, strict=True))
                continue
        nodes.append(node)
    return graph.with_nodes(nodes)
