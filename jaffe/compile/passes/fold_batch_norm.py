"""BatchNorm with stored statistics, and Scale, become part of the product before them."""

from __future__ import annotations

import math

from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.layers.linear import InnerProduct
from jaffe.compile.passes.absorb import absorb
from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node


def fold_batch_norm(graph: Graph, context: PassContext) -> Graph:
    """In phase TEST, make one ``Folded`` node of a Convolution, Deconvolution or InnerProduct and the layers behind it
    that scale and shift each channel (``Layer.is_channel_affine``: BatchNorm, BN, Scale, Bias).

    Weights are arguments of the program, which scales them at every call: not where they are more than the values that
    are spared it.
    """
    if graph.phase != "TEST":
        return graph
    return absorb(graph, context, "Folded", lambda node: _is_product(node, context),
                  lambda node: _scales_channels(node, context))


def _is_product(node: Node, context: PassContext) -> bool:
    """Whether it has one output, whose channels are axis 1, of at least as many values as its weight."""
    if node.type == "Divided":
        return False
    layer, shapes = context.inferred.layers[node.name], context.inferred.shapes
    if not isinstance(layer, Convolution | InnerProduct) or layer.foreign or layer.p.axis != 1 or len(node.tops) != 1:
        return False
    weight = layer.weights([shapes[value] for value in node.bottoms])[0]
    return math.prod(shapes[node.tops[0]]) >= math.prod(weight.shape)


def _scales_channels(node: Node, context: PassContext) -> bool:
    layer = context.inferred.layers[node.name]
    shapes = [context.inferred.shapes[value] for value in node.bottoms]
    return not layer.foreign and layer.is_channel_affine(shapes)
