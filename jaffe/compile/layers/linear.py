"""InnerProduct and Scale: layers that multiply by learned weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in


@built_in("InnerProduct")
class InnerProduct(Layer):
    """Fully connected layer: ``y = x W^T + b`` (``transpose: true`` stores W the other way: ``y = x W + b``).

    Shapes: (N..., K...) -> (N..., num_output); axes from ``axis`` on are flattened to K, in C, H, W order.
    Weights: weight (num_output, K), or (K, num_output) when transposed; bias (num_output).
    Source: Caffe 1.0, ``inner_product_layer.cpp``.
    """

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
        x, w = bottoms[0], weights["weight"]
        axis = self.axis(self.p.axis, x.ndim)
        x = x.reshape(*x.shape[:axis], w.shape[0 if self.p.transpose else 1])
        y = x @ (w if self.p.transpose else w.T)
        return [y + weights["bias"] if self.p.bias_term else y]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        inputs = math.prod(bottoms[0][self.axis(self.p.axis, len(bottoms[0])) :])
        return math.prod(tops[0]) * (2 * inputs + int(self.p.bias_term))


@built_in("Scale")
class Scale(Layer):
    """Multiplication by a learned blob, or by the second bottom, broadcast from ``axis``; and an optional bias.

    Shapes: any, unchanged. The multiplier has the shape of the bottom's axes [axis, axis + num_axes)
    (num_axes -1: to the end; 0: a scalar), or that of the second bottom.
    Weights: scale (one bottom only, starts at 1), bias (``bias_term``, starts at 0).
    Source: Caffe 1.0, ``scale_layer.cpp``.
    """

    bottoms = (1, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        axis, shape = self._span(bottoms)
        if x[axis : axis + len(shape)] != shape:
            raise self.node.error(f"the multiplier's shape {shape} is not that of the bottom {x} "
                                  f"from axis {axis}, {x[axis : axis + len(shape)]}")
        return [x]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        _, shape = self._span(bottoms)
        weights = []
        if len(bottoms) == 1:
            weights.append(Weight("scale", shape, self.p.filler if self.p.HasField("filler") else constant(1)))
        if self.p.bias_term:
            weights.append(Weight("bias", shape, self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        axis, shape = self._span([bottom.shape for bottom in bottoms])
        broadcast = (*shape, *[1] * (x.ndim - axis - len(shape)))
        y = x * (bottoms[1] if len(bottoms) == 2 else weights["scale"]).reshape(broadcast)
        return [y + weights["bias"].reshape(broadcast) if self.p.bias_term else y]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * (1 + int(self.p.bias_term))

    def _span(self, bottoms: Sequence[Shape]) -> tuple[int, Shape]:
        """First axis of the multiplier, and its shape."""
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
