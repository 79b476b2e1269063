"""Convolution, Deconvolution and the depthwise convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from jaffe.compile.layer import Array, Context, Shape, Weight, built_in
from jaffe.compile.layers.windows import Windowed, shown
from jaffe.compile.lowering import Lowering, convolution, deconvolution, shift_channels
from jaffe.compile.lowering.candidates import Pass
from jaffe.compile.lowering.convolution import explain, explain_transpose
from jaffe.compile.lowering.geometry import flops, out_size, transposed_size


@built_in("Convolution")
class Convolution(Windowed):
    """N-dimensional cross-correlation with zero padding, groups and dilation.

    Shapes: (N..., C, in...) -> (N..., num_output, out...), channels at ``axis``;
    ``out = floor((in + 2 pad - dilation (kernel - 1) - 1) / stride) + 1``.
    Weights: weight (num_output, C / group, kernel...), bias (num_output).
    ``y[o, p] = bias[o] + sum over c, k of weight[o, c, k] * x[group of o, c, p stride + k dilation - pad]``.
    Several bottoms of one shape share the weights; bottom i gives top i.
    Source: Caffe 1.0, ``conv_layer.cpp``, ``base_conv_layer.cpp``. ``engine`` and ``force_nd_im2col``
    chose an implementation there and are ignored here. ``stride_h`` without ``stride_w`` is refused.
    Forks' ``pad_t``, ``pad_b``, ``pad_l``, ``pad_r`` pad each side of a plane on its own: 2 pad is their sum then, and
    the offset the one before.
    """

    bottoms = (1, None)
    tops = (1, None)
    arithmetic = "products"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        node = self.node
        if len(node.tops) != len(bottoms):
            raise node.error(f"expected as many tops as bottoms ({len(bottoms)}); found {len(node.tops)}")
        if any(shape != bottoms[0] for shape in bottoms):
            raise node.error(f"bottoms share one shape; found {', '.join(map(str, bottoms))}")
        axis = self.axis(self.p.axis, len(bottoms[0]))
        channels, spatial = bottoms[0][axis], bottoms[0][axis + 1 :]
        outputs = self._outputs(channels)
        geometry = self.geometry(len(spatial), self._group(channels))
        if channels % geometry.group or outputs % geometry.group:
            raise node.error(f"group {geometry.group} does not divide {channels} input channels "
                             f"and {outputs} outputs")
        kernel = self.kernel(len(spatial))
        axes = zip(spatial, kernel, geometry.stride, geometry.pad, geometry.dilation, strict=True)
        out = tuple(self._out_size(*one) for one in axes)
        if any(size <= 0 for size in out):
            raise node.error(f"kernel {kernel} with pad {shown(geometry.pad)} and dilation "
                             f"{geometry.dilation} {self._misfit} {spatial}")
        return [(*bottoms[0][:axis], outputs, *out)] * len(bottoms)

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        channels = bottoms[0][axis]
        shape = (*self._weight_channels(channels), *self.kernel(len(bottoms[0]) - axis - 1))
        weights = [Weight("weight", shape, self.p.weight_filler)]
        if self.p.bias_term:
            weights.append(Weight("bias", (self._outputs(channels),), self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [self._one(weights, x, ctx.lowering) for x in bottoms]

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return self.axis(self.p.axis, len(bottoms[0])) > 0

    def scaled(self, weight: Array, factor: Array) -> Array:
        """The weight that gives each output times its ``factor`` (num_output)."""
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))

    def lowered(self, bottoms: Sequence[Shape], lowering: Lowering, dtype: Any) -> Mapping[Pass, str]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        shape = (math.prod(bottoms[0][:axis]), *bottoms[0][axis:])
        geometry = self.geometry(len(shape) - 2, self._group(shape[1]))
        return self._explain(shape, self.weights(bottoms)[0].shape, geometry, dtype, lowering)

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        weight = self.weights(bottoms)[0].shape
        products = sum(self._flops(bottom, weight, top) for bottom, top in zip(bottoms, tops, strict=True))
        return products + (sum(map(math.prod, tops)) if self.p.bias_term else 0)

    def _one(self, weights: Mapping[str, Array], x: Array, lowering: Lowering) -> Array:
        axis = self.axis(self.p.axis, x.ndim)
        spatial = x.ndim - axis - 1
        batch, geometry = x.shape[:axis], self.geometry(spatial, self._group(x.shape[axis]))
        weight = weights["weight"].astype(x.dtype)
        y = self._product(x.reshape(-1, *x.shape[axis:]) if axis != 1 else x, weight, geometry, lowering)
        if "bias" in weights:
            y = shift_channels(y, weights["bias"], lowering)
        return y.reshape(*batch, *y.shape[1:]) if axis != 1 else y

    def _group(self, channels: int) -> int:
        if self.p.group < 1:
            raise self.node.error(f"group is positive; found {self.p.group}")
        return self.p.group

    def _outputs(self, channels: int) -> int:
        if not self.p.num_output:
            raise self.node.error("expected num_output > 0; found none")
        return self.p.num_output

    # What Deconvolution turns round.

    _misfit: ClassVar = "does not fit an input of"

    def _weight_channels(self, channels: int) -> tuple[int, int]:
        return self._outputs(channels), channels // self._group(channels)

    _out_size = staticmethod(out_size)
    _product = staticmethod(convolution)
    _explain = staticmethod(explain)

    def _flops(self, bottom: Shape, weight: Shape, top: Shape) -> int:
        return flops(weight, top)


@built_in("Deconvolution")
class Deconvolution(Convolution):
    """The transpose of Convolution: its gradient with respect to the input, as a layer.

    Shapes: (N..., C, in...) -> (N..., num_output, out...), channels at ``axis``;
    ``out = stride (in - 1) + dilation (kernel - 1) + 1 - 2 pad``.
    Weights: weight (C, num_output / group, kernel...), bias (num_output).
    ``y[o, p stride + k dilation - pad] = bias[o] + sum over c, k of x[c, p] * weight[c, o, k]``, c in the group of o.
    Several bottoms of one shape share the weights; bottom i gives top i.
    Source: Caffe 1.0, ``deconv_layer.cpp``. Bilinear upsampling by f is ``kernel_size`` 2f - f % 2, ``stride`` f,
    ``pad`` ceil((f - 1) / 2), ``group`` and ``num_output`` C, the bilinear filler, and ``lr_mult`` 0.
    Forks' ``pad_t``, ``pad_b``, ``pad_l``, ``pad_r`` take off each side of a plane on its own.
    """

    _misfit = "leaves no output for an input of"

    def scaled(self, weight: Array, factor: Array) -> Array:
        channels, outputs = weight.shape[:2]
        by_group = factor.reshape(-1, 1, outputs)
        each = jnp.broadcast_to(by_group, (len(by_group), channels // len(by_group), outputs))
        return weight * each.reshape(channels, outputs, *[1] * (weight.ndim - 2))

    def _weight_channels(self, channels: int) -> tuple[int, int]:
        return channels, self._outputs(channels) // self._group(channels)

    _out_size = staticmethod(transposed_size)
    _product = staticmethod(deconvolution)
    _explain = staticmethod(explain_transpose)

    def _flops(self, bottom: Shape, weight: Shape, top: Shape) -> int:
        return 2 * math.prod(bottom) * math.prod(weight[1:])


@built_in("DepthwiseConvolution")
class DepthwiseConvolution(Convolution):
    """Convolution of every channel with kernels of its own.

    Shapes: as Convolution with as many groups as channels; ``num_output`` is a multiple of C, C by default.
    Weights: weight (num_output, 1, kernel...), bias (num_output).
    Source: the forks that brought MobileNet to Caffe (``depthwise_conv_layer.cpp``, ``conv_dw_layer.cpp``), which
    wanted it fast. ``group`` may be left out; another number than C is refused.
    """

    def _group(self, channels: int) -> int:
        if self.p.HasField("group") and self.p.group != channels:
            raise self.node.error(f"{self.node.type} has a group for each of {channels} channels; "
                                  f"found group {self.p.group}")
        return channels

    def _outputs(self, channels: int) -> int:
        return self.p.num_output or channels


@built_in("ConvolutionDepthwise")
class ConvolutionDepthwise(DepthwiseConvolution):
    """Another name of DepthwiseConvolution: ``num_output`` is a multiple of C, C by default.

    Source: ``conv_dw_layer.cpp``, which did not read ``num_output`` and always had C outputs.
    """
