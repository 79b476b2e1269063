"""Im2col and LocallyConnected: layers that take a blob apart into its windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from jaffe.compile.layer import Array, Context, Shape, Weight, built_in
from jaffe.compile.layers.windows import Windowed, shown
from jaffe.compile.lowering import unfold
from jaffe.compile.lowering.geometry import out_size


class Unfolding(Windowed):
    """Base of both: the windows of a blob, and how many there are."""

    def outs(self, spatial: Shape) -> Shape:
        """Sizes of the grid of windows. Raises SpecError when none fits."""
        if not spatial:
            raise self.node.error("expected at least 1 spatial axis; found none")
        geometry, kernel = self.geometry(len(spatial)), self.kernel(len(spatial))
        axes = zip(spatial, kernel, geometry.stride, geometry.pad, geometry.dilation, strict=True)
        out = tuple(out_size(*one) for one in axes)
        if min(out) <= 0:
            raise self.node.error(f"kernel {kernel} with pad {shown(geometry.pad)} and dilation "
                                  f"{geometry.dilation} does not fit an input of {spatial}")
        return out

    def columns(self, x: Array) -> Array:
        """(N, C, in...) -> (N, C * cells of the kernel, out...), index ``(c kh + i) kw + j``."""
        spatial = x.ndim - 2
        geometry = self.geometry(spatial)
        values = unfold(x, self.kernel(spatial), geometry.stride, geometry.dilation, geometry.pad)
        return values.reshape(x.shape[0], -1, *values.shape[2 + spatial :])


@built_in("Im2col")
class Im2col(Unfolding):
    """The values that a convolution's windows see, laid out along the channels.

    Shapes: (N..., C, in...) -> (N..., C * cells of the kernel, out...), channels at ``axis``, sizes as Convolution's.
    ``y[(c kh + i) kw + j, p, q] = x[c, p stride + i dilation - pad, q stride + j dilation - pad]``, 0 outside.
    Source: Caffe 1.0, ``im2col_layer.cpp``. Reads kernel, stride, pad, dilation and axis. A convolution's
    other settings, ``num_output``, ``group``, ``bias_term`` and the fillers, are ignored, as in Caffe.
    """

    arithmetic = "elementwise"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        channels, spatial = bottoms[0][axis], bottoms[0][axis + 1 :]
        out = self.outs(spatial)
        return [(*bottoms[0][:axis], channels * math.prod(self.kernel(len(spatial))), *out)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        axis = self.axis(self.p.axis, x.ndim)
        y = self.columns(x.reshape(-1, *x.shape[axis:]))
        return [y.reshape(*x.shape[:axis], *y.shape[1:])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0


@built_in("LocallyConnected")
class LocallyConnected(Unfolding):
    """Convolution whose every place has weights of its own.

    Shapes: (N, C, in...) -> (N, num_output, out...), sizes as Convolution's.
    Weights: weight (num_output, 1, C * cells of the kernel, places), index ``(c kh + i) kw + j`` as Im2col's and
    places in row-major order; bias (1, 1, num_output, places).
    ``y[o, p] = bias[0, 0, o, p] + sum over k of weight[o, 0, k, p] * im2col(x)[k, p]``.
    Source: the layouts are those of ``locally_connected_layer.cpp`` (after ``local_layer.cpp`` of Caffe's pull request
    1271); the settings are ``convolution_param``'s here. ``axis`` and ``group`` have no meaning and are refused.
    """

    arithmetic = "products"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.p.num_output:
            raise self.node.error("expected num_output > 0; found none")
        for field, value in (("axis", 1), ("group", 1)):
            if getattr(self.p, field) != value:
                raise self.node.error(f"LocallyConnected has {field} {value} only; found {getattr(self.p, field)}")
        self.axis(1, len(bottoms[0]))
        return [(bottoms[0][0], self.p.num_output, *self.outs(bottoms[0][2:]))]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        spatial = bottoms[0][2:]
        places = math.prod(self.outs(spatial))
        cells = bottoms[0][1] * math.prod(self.kernel(len(spatial)))
        weights = [Weight("weight", (self.p.num_output, 1, cells, places), self.p.weight_filler)]
        if self.p.bias_term:
            weights.append(Weight("bias", (1, 1, self.p.num_output, places), self.p.bias_filler))
        return weights

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        columns = self.columns(bottoms[0])
        n, cells, *out = columns.shape
        weight = weights["weight"][:, 0].astype(columns.dtype)
        y = jnp.einsum("nkp,okp->nop", columns.reshape(n, cells, -1), weight)
        if self.p.bias_term:
            y = y + weights["bias"][0]
        return [y.reshape(n, -1, *out)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        cells = bottoms[0][1] * math.prod(self.kernel(len(bottoms[0]) - 2))
        return math.prod(tops[0]) * (2 * cells + int(self.p.bias_term))
