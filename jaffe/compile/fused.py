"""Layers that passes make of several: each runs its parts as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax.numpy as jnp

from jaffe.compile.layer import Arithmetic, Array, Context, Layer, Shape, make_layer
from jaffe.compile.layers.batch_norm import BatchNorm
from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.layers.linear import InnerProduct
from jaffe.compile.lowering.layout import split
from jaffe.compile.reroll.gather import join
from jaffe.compile.reroll.run import Program as Program
from jaffe.netdef.graph import Node


class Fused(Layer):
    """Base. ``weights``, where they are passed, are those of each part, by its name.

    Attributes:
        parts: the layers of ``node.parts``.
    """

    foreign = False
    arithmetic: Arithmetic = "products"

    def __init__(self, node: Node):
        self.node = node
        self.parts = [make_layer(part) for part in node.parts]


class Folded(Fused):
    """A product, then layers that scale and shift each channel, as one product: the net has phase TEST.

    ``(w x + b) factor + shift = (w factor) x + (b factor + shift)``. Weights are multiplied in their own dtype, before
    the product rounds them to that of its bottom.
    Source: Ioffe and Szegedy 2015, section 3.1.
    """

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return self.parts[0].itemwise(bottoms)

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        product, *rest = self.parts
        assert isinstance(product, Convolution | InnerProduct)
        own = weights[product.node.name]
        factor: Any = 1.0
        shift: Any = own.get("bias", 0.0)
        for layer in rest:
            scale, offset = layer.channel_affine(weights[layer.node.name])
            factor, shift = factor * scale, shift * scale + offset
        return product.apply({"weight": product.scaled(own["weight"], factor), "bias": shift}, bottoms, ctx)


class Merged(Fused):
    """Convolutions with kernel 1 that read one value, as one whose outputs are theirs one after another."""

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        each = [weights[part.node.name] for part in self.parts]
        joined = {name: jnp.concatenate([one[name] for one in each]) for name in each[0]}
        (y,) = self.parts[0].apply(joined, bottoms, ctx)
        ends = list(accumulate(len(one["weight"]) for one in each))
        return split(y, ends[:-1], 1, ctx.lowering)


class ScaledNorm(Fused):
    """BatchNorm by the batch's statistics, and the Scale behind it."""

    arithmetic: Arithmetic = "sums"

    def apply_with_state(
        self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        norm, scale = self.parts
        assert isinstance(norm, BatchNorm)
        own = weights[scale.node.name]
        return norm.apply_scaled(weights[norm.node.name], bottoms[0], ctx, own["scale"], own.get("bias"))


class Recomputed(Layer):
    """Layers whose inner values are not kept for the backward pass: it runs them once more. ``execute`` does it.

    Attributes:
        program: the layers.
    """

    def __init__(self, node: Node):
        self.node = node
        self.program = make_program(node.parts)


class Joined(Fused):
    """A Concat that reads many values together, as its plan says."""

    arithmetic: Arithmetic = "elementwise"

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        plan = self.node.plan
        return [join(plan.series, plan.axis, dict(zip(self.node.bottoms, bottoms, strict=True)))]


class Stepped(Layer):
    """Layers that are the same at many steps. ``execute`` runs them.

    Attributes:
        program: the layers of a step.
    """

    def __init__(self, node: Node):
        self.node = node
        self.program = make_program(node.plan.body)


_FUSED: Mapping[str, Callable[[Node], Layer]] = {
    "Folded": Folded, "Merged": Merged, "ScaledNorm": ScaledNorm, "Recomputed": Recomputed, "Join": Joined,
    "Steps": Stepped}


def make_program(nodes: Iterable[Node]) -> Program:
    """What ``execute`` runs: the nodes of a graph after all passes, each with its layer."""
    return tuple((node, _FUSED[node.type](node) if node.parts else make_layer(node)) for node in nodes)
