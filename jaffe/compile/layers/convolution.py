"""Convolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.lowering import ConvGeometry, convolution
from jaffe.compile.lowering.convolution import flops, out_size


@built_in("Convolution")
class Convolution(Layer):
    """N-dimensional cross-correlation with zero padding, groups and dilation.

    Shapes: (N..., C, in...) -> (N..., num_output, out...), channels at ``axis``;
    ``out = floor((in + 2 pad - dilation (kernel - 1) - 1) / stride) + 1``.
    Weights: weight (num_output, C / group, kernel...), bias (num_output).
    ``y[o, p] = bias[o] + sum over c, k of weight[o, c, k] * x[group of o, c, p stride + k dilation - pad]``.
    Several bottoms of one shape share the weights; bottom i gives top i.
    Source: Caffe 1.0, ``conv_layer.cpp``, ``base_conv_layer.cpp``. ``engine`` and ``force_nd_im2col``
    chose an implementation there and are ignored here. ``stride_h`` without ``stride_w`` is refused.
    """

    bottoms = (1, None)
    tops = (1, None)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        node, p = self.node, self.p
        if len(node.tops) != len(bottoms):
            raise node.error(f"expected as many tops as bottoms ({len(bottoms)}); found {len(node.tops)}")
        if any(shape != bottoms[0] for shape in bottoms):
            raise node.error(f"bottoms share one shape; found {', '.join(map(str, bottoms))}")
        axis = self.axis(p.axis, len(bottoms[0]))
        channels, spatial = bottoms[0][axis], bottoms[0][axis + 1 :]
        if not p.num_output:
            raise node.error("expected num_output > 0; found none")
        geometry = self._geometry(len(spatial))
        if channels % geometry.group or p.num_output % geometry.group:
            raise node.error(f"group {geometry.group} does not divide {channels} input channels "
                             f"and {p.num_output} outputs")
        out = tuple(
            out_size(size, *rest) for size, *rest in zip(
                spatial, self._kernel(len(spatial)), geometry.stride, geometry.pad, geometry.dilation, strict=True
            )
        )
        if any(size <= 0 for size in out):
            raise node.error(f"kernel {self._kernel(len(spatial))} with pad {geometry.pad} and dilation "
                             f"{geometry.dilation} does not fit an input of {spatial}")
        return [(*bottoms[0][:axis], p.num_output, *out)] * len(bottoms)

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        kernel = self._kernel(len(bottoms[0]) - axis - 1)
        shape = (self.p.num_output, bottoms[0][axis] // self.p.group, *kernel)
        weights = [Weight("weight", shape, self.p.weight_filler)]
        if self.p.bias_term:
            weights.append(Weight("bias", (self.p.num_output,), self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [self._one(weights, x) for x in bottoms]

    def _one(self, weights: Mapping[str, Array], x: Array) -> Array:
        axis = self.axis(self.p.axis, x.ndim)
        spatial = x.ndim - axis - 1
        batch = x.shape[:axis]
        y = convolution(x.reshape(-1, *x.shape[axis:]) if axis != 1 else x, weights["weight"], self._geometry(spatial))
        if self.p.bias_term:
            y = y + weights["bias"].reshape(-1, *[1] * spatial)
        return y.reshape(*batch, *y.shape[1:]) if axis != 1 else y

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        weight = self.weights(bottoms)[0].shape
        return sum(flops(weight, top) + (math.prod(top) if self.p.bias_term else 0) for top in tops)

    def _geometry(self, spatial: int) -> ConvGeometry:
        p = self.p
        stride = self._per_axis("stride", ("stride_h", "stride_w"), spatial, 1)
        if 0 in stride:
            raise self.node.error(f"stride is positive; found {stride}")
        dilation = self._per_axis("dilation", None, spatial, 1)
        if 0 in dilation:
            raise self.node.error(f"dilation is positive; found {dilation}")
        if p.group < 1:
            raise self.node.error(f"group is positive; found {p.group}")
        return ConvGeometry(stride, self._per_axis("pad", ("pad_h", "pad_w"), spatial, 0), dilation, p.group)

    def _kernel(self, spatial: int) -> tuple[int, ...]:
        kernel = self._per_axis("kernel_size", ("kernel_h", "kernel_w"), spatial, None)
        if 0 in kernel:
            raise self.node.error(f"kernel_size is positive; found {kernel}")
        return kernel

    def _per_axis(self, field: str, pair: tuple[str, str] | None, spatial: int, default: int | None) -> tuple[int, ...]:
        """One number a spatial axis, from a repeated field (once, or once an axis) or its _h and _w fields."""
        node, p = self.node, self.p
        values = list(getattr(p, field))
        given = [name for name in pair or () if p.HasField(name)]
        if given:
            if values:
                raise node.error(f"expected {field}, or {' and '.join(pair or ())}; found both")
            if spatial != 2:
                raise node.error(f"{given[0]} is for 2 spatial axes; found {spatial}; use {field}")
            if len(given) == 1 and field != "pad":
                raise node.error(f"expected {' and '.join(pair or ())}; found {given[0]} only")
            values = [getattr(p, name) for name in pair or ()]
        if not values:
            if default is None and spatial:
                raise node.error(f"expected {field}; found none")
            values = [default or 0]
        if len(values) not in (1, spatial) and spatial:
            raise node.error(f"expected {field} once, or once for each of {spatial} spatial axes; found {len(values)}")
        return tuple(values * spatial) if len(values) == 1 else tuple(values)
