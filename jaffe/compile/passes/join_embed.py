"""An Embed behind which a recurrent layer multiplies is computed with it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from jaffe.compile.layers.linear import Embed
from jaffe.compile.layers.recurrent import Recurrent
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def join_embed(graph: Graph, context: PassContext) -> Graph:
    """One ``Embedded`` node of an Embed and the LSTM or RNN that alone reads it, where the table has fewer rows than
    are looked up: products of the rows are then fewer than products of what was looked up. Not in a net of bfloat16,
    where it is what was looked up that is rounded."""
    if context.rounded:
        return graph
    readers = Counter(value for node in graph.nodes for value in node.bottoms)
    tables: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        layer = context.inferred.layers[node.name]
        if node.parts or layer.foreign:
            pass
        elif isinstance(layer, Embed) and readers[node.tops[0]] == 1 and node.tops[0] not in context.keep:
            words = context.inferred.shapes[node.bottoms[0]]
            if len(words) == 2 and layer.p.input_dim < math.prod(words):  # of more axes, several rows are one input
                tables[node.tops[0]] = node
        elif isinstance(layer, Recurrent) and node.bottoms[0] in tables and False not in node.proto.propagate_down:
            embed = tables[node.bottoms[0]]
            nodes.remove(embed)
            node = replace(node, type="Embedded", bottoms=(*embed.bottoms, *node.bottoms[1:]), shared={},
                           parts=(embed, node))
        nodes.append(node)
    return graph.with_nodes(nodes)
