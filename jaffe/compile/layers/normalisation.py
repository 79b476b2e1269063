"""LRN, MVN, Normalize and Softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.lowering import normalise_response
from jaffe.netdef.jaffe_pb2 import LRNParameter


@built_in("LRN")
class LRN(Layer):
    """Local response normalisation.

    Shapes: (N, C, H, W), unchanged.
    ACROSS_CHANNELS: ``y = x (k + alpha / local_size * sum of x^2 over local_size channels around)^-beta``.
    WITHIN_CHANNEL: ``y = x (1 + alpha * mean of x^2 over a local_size square)^-beta``; ``k`` is not used
    there, and the mean counts the zero padding (it divides by local_size^2 everywhere).
    Source: Krizhevsky et al. 2012; Caffe 1.0, ``lrn_layer.cpp``.
    """

    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.node.error(f"expected a blob of 4 axes (N, C, H, W); found {bottoms[0]}")
        if self.p.local_size % 2 == 0:
            raise self.node.error(f"local_size is odd; found {self.p.local_size}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        half = (p.local_size - 1) // 2  # a window wider than the blob sums nothing more
        if p.norm_region == LRNParameter.WITHIN_CHANNEL:
            reach = (0, *(min(half, n - 1) for n in x.shape[2:]))
            return [normalise_response(x, reach, p.alpha / p.local_size**2, p.beta, 1, ctx.lowering)]
        reach = (min(half, x.shape[1] - 1), 0, 0)
        return [normalise_response(x, reach, p.alpha / p.local_size, p.beta, p.k, ctx.lowering)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        size = self.p.local_size
        window = size * size if self.p.norm_region == LRNParameter.WITHIN_CHANNEL else size
        return math.prod(tops[0]) * (window + 4)


@built_in("MVN")
class MVN(Layer):
    """Mean and variance normalisation of each image's channels, or of the whole image (``across_channels``).

    Shapes: (N, C, ...), unchanged (Caffe makes four axes of fewer).
    ``y = (x - mean) / (std + eps)``, eps outside the root, std of the biased variance; ``normalize_variance: false``
    takes off the mean only.
    Source: Caffe 1.0, ``mvn_layer.cpp``. Its gradient leaves out eps, a share of ``eps / std``; this one does not.
    """

    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.node.error(f"expected a blob of at least 2 axes (N, C, ...); found {bottoms[0]}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        axes = tuple(range(1 if self.p.across_channels else 2, x.ndim))
        centred = x - x.mean(axes, keepdims=True)
        if not self.p.normalize_variance:
            return [centred]
        variance = jnp.square(centred).mean(axes, keepdims=True)
        # The root has no gradient at 0; there y is 0 whatever the divisor.
        std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
        return [centred / (std + self.p.eps)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * (5 if self.p.normalize_variance else 2)


@built_in("Normalize")
class Normalize(Layer):
    """Division by the L2 norm over the channels of each place, or over the whole image, and a learned scale.

    Shapes: (N, C, ...), unchanged. ``y = scale x / sqrt(sum of x^2 + eps)``, the sum over C, or over all axes but N
    (``across_spatial``, the default).
    Weights: scale, () if ``channel_shared`` (the default), else (C); it starts at 1 unless ``scale_filler`` says other.
    Source: Liu et al. 2016 (SSD); its Caffe, ``normalize_layer.cpp``.
    """

    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.node.error(f"expected a blob of at least 2 axes (N, C, ...); found {bottoms[0]}")
        if not self.p.eps >= 0:
            raise self.node.error(f"eps is not negative; found {self.p.eps:g}")
        return [bottoms[0]]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        filler = self.p.scale_filler if self.p.HasField("scale_filler") else constant(1)
        return [Weight("scale", () if self.p.channel_shared else (bottoms[0][1],), filler)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        axes = tuple(range(1, x.ndim if self.p.across_spatial else 2))
        scale = weights["scale"].reshape(-1, *[1] * (x.ndim - 2))
        return [scale * x * lax.rsqrt(jnp.square(x).sum(axes, keepdims=True) + self.p.eps)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 4 * math.prod(tops[0])


@built_in("Softmax")
class Softmax(Layer):
    """``y = exp(x - max) / sum of exp(x - max)`` along ``axis``. Shapes: any, unchanged.

    Source: Caffe 1.0, ``softmax_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.axis(self.p.axis, len(bottoms[0]))
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jax.nn.softmax(bottoms[0], axis=self.axis(self.p.axis, bottoms[0].ndim))]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 4 * math.prod(tops[0])
