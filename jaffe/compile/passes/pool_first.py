"""Max pooling comes before what keeps the order of values: biases and ReLUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.layers.neuron import ReLU, ReLU6
from jaffe.compile.layers.pooling import Pooling
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import PoolingParameter


def pool_first(graph: Graph, context: PassContext) -> Graph:
    """In phase TEST, one ``Pooled`` node of a Pooling (MAX) and what it alone reads: a Convolution with a bias, a ReLU,
    or a ReLU behind a Convolution. (Training was not faster so.)

    ``max relu(x + b) = relu(max x + b)``, to the bit, for rounding keeps the order too; and the gradient goes to the
    same value, but where only rounding makes values equal. Not where a value between is kept or read elsewhere, nor
    where a gradient stops.
    """
    if graph.phase != "TEST":
        return graph
    readers = Counter(value for node in graph.nodes for value in node.bottoms)
    makers = {node.tops[0]: node for node in graph.nodes if len(node.tops) == 1}

    def made_for(node: Node) -> Node | None:
        """The layer that this one alone reads."""
        (value,) = node.bottoms
        alone = readers[value] == 1 and value not in context.keep and False not in node.proto.propagate_down
        return makers.get(value) if alone else None

    chains: dict[str, tuple[Node, ...]] = {}  # by the name of the first
    for node in graph.nodes:
        if _takes_maxima(node, context):
            chain: tuple[Node, ...] = (node,)
            while (before := made_for(chain[0])) and _keeps_order(before, chain[0], context):
                chain = (before, *chain)
            if len(chain) > 1:
                chains[chain[0].name] = chain
    gone = {node.name for _, *later in chains.values() for node in later}
    return graph.with_nodes(
        _as_one(chains[node.name]) if node.name in chains else node for node in graph.nodes if node.name not in gone)


def _takes_maxima(node: Node, context: PassContext) -> bool:
    """Of windows that hang over the border, but see a cell each.

    Of others XLA:CPU computes bias and ReLU in the pooling's own loop, which it repeats for every reader, such as the
    two of an LRN. And a ReLU would make 0 of the -inf of a window without any cell.
    """
    layer = None if node.parts else context.inferred.layers[node.name]
    if not isinstance(layer, Pooling) or layer.p.pool != PoolingParameter.MAX or len(node.tops) != 1:
        return False
    shape = context.inferred.shapes[node.bottoms[0]]
    geometry = layer.geometry(shape)
    stretches = [geometry.stretches(size, axis) for axis, size in enumerate(shape[2:])]
    return any(len(one) > 1 for one in stretches) and all(one.cells for axis in stretches for one in axis)


def _keeps_order(node: Node, reader: Node, context: PassContext) -> bool:
    """Whether it may be moved behind the pooling that begins with ``reader``."""
    if reader.type in ("Convolution", "Folded") or len(node.bottoms) != 1:
        return False  # whose bias it has by then
    layer = context.inferred.layers[node.name]
    if node.type == "Folded":
        return isinstance(layer, Convolution)
    if node.parts or layer.foreign:
        return False
    if isinstance(layer, ReLU):
        return bool(layer.p.negative_slope >= 0)
    return isinstance(layer, ReLU6) or (isinstance(layer, Convolution) and layer.p.axis == 1 and layer.p.bias_term)


def _as_one(chain: tuple[Node, ...]) -> Node:
    return replace(chain[0], type="Pooled", tops=chain[-1].tops, loss_weights=chain[-1].loss_weights, shared={},
                   parts=chain)
