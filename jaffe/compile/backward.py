"""What the backward pass of a net has to compute."""

from __future__ import annotations

from dataclasses import dataclass

from jaffe.compile.infer import Inferred
from jaffe.netdef.graph import Graph


@dataclass(frozen=True)
class Gradients:
    """The gradients that training asks of one layer.

    Attributes:
        weights: names of those of its weights that learn.
        bottoms: for each bottom, whether its gradient is needed.
    """

    weights: tuple[str, ...]
    bottoms: tuple[bool, ...]

    @property
    def needed(self) -> bool:
        """Whether the layer has a backward pass at all."""
        return bool(self.weights) or any(self.bottoms)


def needed_gradients(graph: Graph, inferred: Inferred) -> dict[str, Gradients]:
    """For each layer the gradients that ``jax.grad`` of the net's loss by its parameters has to compute.

    A layer's backward pass is needed if one of its parameters learns (``lr_mult`` is not 0) or a bottom depends on one
    that does, and if one of its tops leads to a loss. Gradients do not pass bottoms and tops that have none
    (``Layer.differentiable``), nor ``propagate_down: false``. With ``force_backward`` all parameters count as learning,
    and ``propagate_down`` is not read.
    Source: Caffe 1.0, ``Net::Init``. There ``force_backward`` and ``propagate_down: true`` also compute the gradients
    of inputs; here those are computed when the caller differentiates by them, and are not counted.
    """
    asked: dict[str, Gradients] = {}
    dependent: set[str] = set()  # values that change with parameters that learn
    for node in graph.nodes:
        able, varying = inferred.layers[node.name].differentiable()
        allowed = able if graph.force_backward else node.proto.propagate_down or able
        own = Gradients(
            weights=tuple(one.weight.name for one in inferred.stored[node.name]
                          if one.weight.trained and (one.lr_mult != 0 or graph.force_backward)),
            bottoms=tuple(value in dependent and can and may
                          for value, can, may in zip(node.bottoms, able, allowed, strict=True)),
        )
        asked[node.name] = own
        if own.needed:
            dependent.update(top for top, varies in zip(node.tops, varying, strict=True) if varies)
    leading = {top for node in graph.nodes for top, weight in zip(node.tops, node.loss_weights, strict=True) if weight}
    for node in reversed(graph.nodes):
        if leading.isdisjoint(dependent.intersection(node.tops)):
            asked[node.name] = Gradients((), (False,) * len(node.bottoms))
        leading.update(value for value, one in zip(node.bottoms, asked[node.name].bottoms, strict=True) if one)
    return asked
