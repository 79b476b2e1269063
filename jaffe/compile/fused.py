"""Layers that passes make of several: each runs its parts as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Arithmetic, Array, Context, Layer, Shape, make_layer
from jaffe.compile.layers.batch_norm import BatchNorm
from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.layers.indexing import row_index, take_rows
from jaffe.compile.layers.linear import Embed, InnerProduct
from jaffe.compile.layers.neuron import ReLU, ReLU6
from jaffe.compile.layers.recurrent import Recurrent
from jaffe.compile.lowering import shift_channels
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
        self.parts = [_make(part) for part in node.parts]


class Folded(Fused):
    """A product, then layers that scale and shift each channel, as one product: the net has phase TEST.

    ``(w x + b) factor + shift = (w factor) x + (b factor + shift)``. Weights are multiplied in their own dtype, before
    the product rounds them to that of its bottom.
    Source: Ioffe and Szegedy 2015, section 3.1.
    """

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return self.parts[0].itemwise(bottoms)

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return self.parts[0].apply(self.folded(weights), bottoms, ctx)

    def folded(self, weights: Mapping[str, Any]) -> dict[str, Array]:
        """Weight and bias of the product."""
        product, *rest = self.parts
        assert isinstance(product, Convolution | InnerProduct)
        own = weights[product.node.name]
        factor: Any = 1.0
        shift: Any = own.get("bias", 0.0)
        for layer in rest:
            scale, offset = layer.channel_affine(weights[layer.node.name])
            factor, shift = factor * scale, shift * scale + offset
        return {"weight": product.scaled(own["weight"], factor), "bias": shift}


class Merged(Fused):
    """Convolutions with kernel 1 that read one value, as one whose outputs are theirs one after another."""

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        each = [weights[part.node.name] for part in self.parts]
        joined = {name: jnp.concatenate([one[name] for one in each]) for name in each[0]}
        (y,) = self.parts[0].apply(joined, bottoms, ctx)
        ends = list(accumulate(len(one["weight"]) for one in each))
        return split(y, ends[:-1], 1, ctx.lowering)


class Pooled(Fused):
    """A Convolution, folded perhaps, or ReLUs, or both, and the Pooling (MAX) behind them, which comes first here."""

    def __init__(self, node: Node):
        super().__init__(node)
        self.arithmetic = self.parts[0].arithmetic

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return True

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        *relus, pool = self.parts
        bias = None
        if not isinstance(relus[0], ReLU | ReLU6):
            product, *relus = relus
            own = weights[product.node.name]
            if isinstance(product, Folded):
                own, product = product.folded(own), product.parts[0]
            bias = own["bias"]
            bottoms = product.apply({"weight": own["weight"]}, bottoms, ctx)
        (y,) = pool.apply({}, bottoms, ctx)
        if bias is not None:
            y = shift_channels(y, bias, ctx.lowering)
        for relu in relus:
            (y,) = relu.apply({}, [y], ctx)
        return [y]


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


class Embedded(Fused):
    """An Embed, and the LSTM or RNN that alone reads it: the rows of the table are multiplied by the input weight, and
    the products are looked up."""

    arithmetic: Arithmetic = "products"

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        (_, *others), tops = self.parts[1].differentiable()
        return [False, *others], tops

    def apply_with_state(
        self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        embed, recurrent = self.parts
        assert isinstance(recurrent, Recurrent)
        own, table = weights[recurrent.node.name], weights[embed.node.name]
        rows = recurrent.input_products(own, table["weight"] + table.get("bias", 0), ctx.lowering)
        return recurrent.apply_to_products(own, take_rows(rows, bottoms[0]), rows.dtype, bottoms, ctx)


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


class Divided(Fused):
    """A layer of which each device along an axis computes a part, for the items of all of them.

    With n items on each of M devices and K features in, C out: by outputs (n, K) -> gathered (M n, K) -> (M n, C / M);
    by inputs (M n, K / M) -> partial sums (M n, C) -> scattered (n, C). What has its features apart and should not, or
    the other way round, is exchanged: (M n, C / M) <-> (n, C). A layer that is not divided itself only reads, or gives,
    features apart. Their gradients are those of the sum of the losses of all devices.
    """

    def __init__(self, node: Node):
        super().__init__(node)
        (self.layer,) = self.parts
        self.arithmetic = self.layer.arithmetic

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        return self.layer.differentiable()

    def apply(self, weights: Mapping[str, Any], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        how, own, (x,) = self.node.plan, weights[self.node.name], bottoms
        embeds = isinstance(self.layer, Embed)
        if how.way == "output" or embeds:
            x = lax.all_gather(x, how.axis, axis=0, tiled=True)
        elif how.way == "input" and not how.apart:
            x = lax.all_to_all(x, how.axis, how.features, 0, tiled=True)
        if how.way == "input":
            return [self._summed(own, x, ctx)]
        (y,) = self.layer.apply(own, [x], ctx)
        return [y if how.stays else lax.all_to_all(y, how.axis, 0, how.features, tiled=True)]

    def _summed(self, own: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        how, bias = self.node.plan, own.get("bias")
        if isinstance(self.layer, Embed):
            y = _rows(own["weight"], x, how.axis)
        else:
            (y,) = self.layer.apply({"weight": own["weight"]}, [x], ctx)
        y = lax.psum_scatter(y, how.axis, scatter_dimension=0, tiled=True)
        return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - how.features - 1))


def _rows(table: Array, index: Array, axis: str) -> Array:
    """Of the rows of a table that is divided over an axis those that are here, else zeros; NaN for an index outside."""
    here, whole = table.shape[0], table.shape[0] * lax.axis_size(axis)
    row = row_index(index, whole)
    mine = row - here * lax.axis_index(axis)
    inside = (mine >= 0) & (mine < here)
    found = jnp.where(inside[..., None], take_rows(table, jnp.where(inside, mine, 0)), 0)
    return jnp.where((row == whole)[..., None], jnp.nan, found)


_FUSED: Mapping[str, Callable[[Node], Layer]] = {
    "Folded": Folded, "Merged": Merged, "Pooled": Pooled, "ScaledNorm": ScaledNorm, "Embedded": Embedded,
    "Recomputed": Recomputed, "Join": Joined, "Steps": Stepped, "Divided": Divided}


def make_program(nodes: Iterable[Node]) -> Program:
    """What ``execute`` runs: the nodes of a graph after all passes, each with its layer."""
    return tuple((node, _make(node)) for node in nodes)


def _make(node: Node) -> Layer:
    return _FUSED[node.type](node) if node.parts else make_layer(node)
