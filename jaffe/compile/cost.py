"""What a net costs: parameters, activations and FLOPs, forward and backward, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaffe.compile.backward import Gradients, needed_gradients
from jaffe.compile.infer import Inferred
from jaffe.compile.layer import Shape
from jaffe.netdef.graph import Graph


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer in one forward pass, and in the backward pass of the net's loss.

    Attributes:
        params: trained values that the layer owns. ``state``: untrained ones (BatchNorm's statistics), without what is
            carried from call to call (LSTM's h and c).
        activations: values in its tops.
        flops: floating point operations of the forward pass, two for a multiply-add.
        gradients: which gradients the backward pass computes: see ``needed_gradients``. None of a frozen layer before
            the first that learns, nor of one that leads to no loss.
        weight_gradient_flops, bottom_gradient_flops: operations of those: see ``Layer.gradient_flops``.
    """

    name: str
    type: str
    outputs: tuple[Shape, ...]
    params: int
    state: int
    activations: int
    flops: int
    gradients: Gradients
    weight_gradient_flops: int
    bottom_gradient_flops: int

    @property
    def backward_flops(self) -> int:
        """Operations of the layer's backward pass."""
        return self.weight_gradient_flops + self.bottom_gradient_flops


@dataclass(frozen=True)
class Cost:
    """Costs of all layers, and their sums. ``backward_flops`` is 0 for a net without a loss."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def state(self) -> int:
        return sum(layer.state for layer in self.layers)

    @property
    def activations(self) -> int:
        return sum(layer.activations for layer in self.layers)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def backward_flops(self) -> int:
        return sum(layer.backward_flops for layer in self.layers)

    def __getitem__(self, name: str) -> LayerCost:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def cost(graph: Graph, inferred: Inferred) -> Cost:
    """The cost of a graph for the shapes it was compiled for."""
    layers = []
    asked = needed_gradients(graph, inferred)
    for node in graph.nodes:
        layer, gradients = inferred.layers[node.name], asked[node.name]
        bottoms = [inferred.shapes[value] for value in node.bottoms]
        tops = [inferred.shapes[value] for value in node.tops]
        owned = [stored.weight for stored in inferred.owned(node.name)]
        weights, inputs = 0, 0
        if gradients.needed:
            weights, inputs = layer.gradient_flops(bottoms, tops, gradients.weights, gradients.bottoms)
        layers.append(LayerCost(
            name=node.name,
            type=node.type,
            outputs=tuple(tops),
            params=sum(math.prod(weight.shape) for weight in owned if weight.trained),
            state=sum(math.prod(weight.shape) for weight in owned if not weight.trained),
            activations=sum(math.prod(shape) for shape in tops),
            flops=layer.flops(bottoms, tops),
            gradients=gradients,
            weight_gradient_flops=weights,
            bottom_gradient_flops=inputs,
        ))
    return Cost(tuple(layers))
