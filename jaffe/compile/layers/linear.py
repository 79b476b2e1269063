"""Layers whose learned weights multiply, are added, or are looked up."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.layers.indexing import take_rows
from jaffe.compile.lowering import product, scale_channels, shift_channels


@built_in("InnerProduct")
class InnerProduct(Layer):
    """Fully connected layer: ``y = x W^T + b`` (``transpose: true`` stores W the other way: ``y = x W + b``).

    Shapes: (N..., K...) -> (N..., num_output); axes from ``axis`` on are flattened to K, in C, H, W order.
    Weights: weight (num_output, K), or (K, num_output) when transposed; bias (num_output).
    Source: Caffe 1.0, ``inner_product_layer.cpp``.
    """

    arithmetic = "products"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.p.num_output:
            raise self.node.error("expected num_output > 0; found none")
        return [(*bottoms[0][: self.axis(self.p.axis, len(bottoms[0]))], self.p.num_output)]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        inputs = math.prod(bottoms[0][self.axis(self.p.axis, len(bottoms[0])) :])
        shape = (inputs, self.p.num_output) if self.p.transpose else (self.p.num_output, inputs)
        weights = [Weight("weight", shape, self.p.weight_filler)]
        if self.p.bias_term:
            weights.append(Weight("bias", (self.p.num_output,), self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        w = weights["weight"].astype(x.dtype)
        axis = self.axis(self.p.axis, x.ndim)
        x = x.reshape(*x.shape[:axis], w.shape[0 if self.p.transpose else 1])
        y = product(x, w, ctx.lowering, transposed=not self.p.transpose)
        return [y + weights["bias"] if "bias" in weights else y]

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return self.axis(self.p.axis, len(bottoms[0])) > 0

    def scaled(self, weight: Array, factor: Array) -> Array:
        """The weight that gives each output times its ``factor`` (num_output)."""
        return weight * (factor if self.p.transpose else factor[:, None])

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        inputs = math.prod(bottoms[0][self.axis(self.p.axis, len(bottoms[0])) :])
        return math.prod(tops[0]) * (2 * inputs + int(self.p.bias_term))


class _Broadcast(Layer):
    """A learned blob, or the second bottom, meets the first from ``axis`` on."""

    bottoms = (1, 2)
    arithmetic = "sums"
    operand: ClassVar[str]

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        axis, shape = self._span(bottoms)
        if x[axis : axis + len(shape)] != shape:
            raise self.node.error(f"the {self.operand}'s shape {shape} is not that of the bottom {x} "
                                  f"from axis {axis}, {x[axis : axis + len(shape)]}")
        return [x]

    def _span(self, bottoms: Sequence[Shape]) -> tuple[int, Shape]:
        """First axis of the operand, and its shape."""
        x = bottoms[0]
        if len(bottoms) == 2 and not bottoms[1]:
            return 0, ()
        axis = self.axis(self.p.axis, len(x))
        if len(bottoms) == 2:
            return axis, bottoms[1]
        count = self.p.num_axes
        if count < -1 or axis + count > len(x):
            raise self.node.error(f"num_axes {count} from axis {axis} is out of range for a blob of shape {x}")
        return axis, x[axis:] if count == -1 else x[axis : axis + count]

    def is_channel_affine(self, bottoms: Sequence[Shape]) -> bool:
        return len(bottoms) == 1 and self._span(bottoms) == (1, bottoms[0][1:2])

    def _broadcast(self, bottoms: Sequence[Array]) -> Shape:
        """The shape in which the operand broadcasts over the first bottom."""
        axis, shape = self._span([bottom.shape for bottom in bottoms])
        return (*shape, *[1] * (bottoms[0].ndim - axis - len(shape)))


@built_in("Scale")
class Scale(_Broadcast):
    """Multiplication by a learned blob, or by the second bottom, broadcast from ``axis``; and an optional bias.

    Shapes: any, unchanged. The multiplier has the shape of the bottom's axes [axis, axis + num_axes)
    (num_axes -1: to the end; 0: a scalar), or that of the second bottom.
    Weights: scale (one bottom only, starts at 1), bias (``bias_term``, starts at 0).
    Source: Caffe 1.0, ``scale_layer.cpp``.
    """

    operand = "multiplier"

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        _, shape = self._span(bottoms)
        weights = []
        if len(bottoms) == 1:
            weights.append(Weight("scale", shape, self.p.filler if self.p.HasField("filler") else constant(1)))
        if self.p.bias_term:
            weights.append(Weight("bias", shape, self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        if self.is_channel_affine([x.shape for x in bottoms]):
            y = scale_channels(bottoms[0], weights["scale"], ctx.lowering)
            return [shift_channels(y, weights["bias"], ctx.lowering) if self.p.bias_term else y]
        broadcast = self._broadcast(bottoms)
        y = bottoms[0] * (bottoms[1] if len(bottoms) == 2 else weights["scale"]).reshape(broadcast)
        return [y + weights["bias"].reshape(broadcast) if self.p.bias_term else y]

    def channel_affine(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        scale = weights["scale"]
        return scale, weights["bias"] if self.p.bias_term else jnp.zeros_like(scale)

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * (1 + int(self.p.bias_term))


@built_in("Bias")
class Bias(_Broadcast):
    """Addition of a learned blob, or of the second bottom, broadcast from ``axis``.

    Shapes: any, unchanged. The bias has the shape of the bottom's axes [axis, axis + num_axes) (num_axes -1: to
    the end; 0: a scalar), or that of the second bottom. Weights: bias (one bottom only, starts at 0).
    Source: Caffe 1.0, ``bias_layer.cpp``.
    """

    operand = "bias"

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        return [Weight("bias", self._span(bottoms)[1], self.p.filler)] if len(bottoms) == 1 else []

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        if self.is_channel_affine([x.shape for x in bottoms]):
            return [shift_channels(bottoms[0], weights["bias"], ctx.lowering)]
        bias = bottoms[1] if len(bottoms) == 2 else weights["bias"]
        return [bottoms[0] + bias.reshape(self._broadcast(bottoms))]

    def channel_affine(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        return jnp.ones_like(weights["bias"]), weights["bias"]


@built_in("Embed")
class Embed(Layer):
    """Rows of a learned table: ``y[i] = W[x[i]] + b``, for x of whole numbers from 0 to input_dim - 1.

    Shapes: any (...) -> (..., num_output). Weights: weight (input_dim, num_output); bias (num_output).
    Fractions are cut off. An index outside gives a row of NaN, without gradient, where Caffe reads other memory.
    Source: Caffe 1.0, ``embed_layer.cpp``.
    """

    constant_bottoms = (0,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for field in ("num_output", "input_dim"):
            if not getattr(self.p, field):
                raise self.node.error(f"expected {field} > 0; found none")
        return [(*bottoms[0], self.p.num_output)]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        weights = [Weight("weight", (self.p.input_dim, self.p.num_output), self.p.weight_filler)]
        if self.p.bias_term:
            weights.append(Weight("bias", (self.p.num_output,), self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        y = take_rows(weights["weight"], bottoms[0])
        return [y + weights["bias"] if self.p.bias_term else y]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * int(self.p.bias_term)


@built_in("Parameter")
class Parameter(Layer):
    """A learned blob of the given ``shape`` as a top. Weights: weight (shape), starts at 0.

    Source: Caffe 1.0, ``parameter_layer.hpp``.
    """

    bottoms = (0, 0)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.p.HasField("shape"):
            raise self.node.error("expected a shape; found none")
        shape = tuple(self.p.shape.dim)
        if any(size < 1 for size in shape):
            raise self.node.error(f"sizes are positive; found {shape}")
        return [shape]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        return [Weight("weight", tuple(self.p.shape.dim), constant(0))]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [weights["weight"]]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0

    def gradient_flops(
        self, bottoms: Sequence[Shape], tops: Sequence[Shape], learned: Collection[str], wanted: Sequence[bool]
    ) -> tuple[int, int]:
        return 0, 0
