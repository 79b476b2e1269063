"""LRN, BatchNorm and Softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
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

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.node.error(f"expected a blob of 4 axes (N, C, H, W); found {bottoms[0]}")
        if self.p.local_size % 2 == 0:
            raise self.node.error(f"local_size is odd; found {self.p.local_size}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        within = p.norm_region == LRNParameter.WITHIN_CHANNEL
        # Half widths of the window; a wider one than the blob sums nothing more.
        reach = [min((p.local_size - 1) // 2, n - 1) for n in x.shape]
        reach = [0, 0, *reach[2:]] if within else [0, reach[1], 0, 0]
        total = lax.reduce_window(
            x * x, np.zeros((), x.dtype)[()], lax.add, [2 * r + 1 for r in reach], [1] * 4, [(r, r) for r in reach]
        )
        if within:
            return [x * (1 + p.alpha / p.local_size**2 * total) ** -p.beta]
        return [x * (p.k + p.alpha / p.local_size * total) ** -p.beta]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        size = self.p.local_size
        window = size * size if self.p.norm_region == LRNParameter.WITHIN_CHANNEL else size
        return math.prod(tops[0]) * (window + 4)


@built_in("BatchNorm")
class BatchNorm(Layer):
    """Batch normalisation without scale and shift (a Scale layer adds them).

    Shapes: (N, C, ...), unchanged; with one axis only, C = 1.
    State: mean (C), variance (C), factor (1): Caffe's three blobs, all 0 at first.
    In phase TRAIN, or with ``use_global_stats: false``: ``y = (x - mean) / sqrt(var + eps)`` with the batch's
    mean and biased variance over every axis but the channels', m values each; and the state becomes
    ``factor = f factor + 1``, ``mean = f mean + batch mean``, ``variance = f variance + m/(m-1) batch var``,
    f = ``moving_average_fraction``. Otherwise the state is used: mean and variance divided by the factor
    (a factor of 0 stands for mean 0 and variance 0).
    Source: Ioffe and Szegedy 2015; Caffe 1.0, ``batch_norm_layer.cpp``. Caffe fails on one-axis input.
    """

    @property
    def uses_state(self) -> bool:
        """Whether the stored statistics are used, rather than the batch's."""
        return self.p.use_global_stats if self.p.HasField("use_global_stats") else not self.train

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        if not self.p.eps >= 0:
            raise self.node.error(f"eps is not negative; found {self.p.eps:g}")
        for i, param in enumerate(self.node.proto.param):
            if param.lr_mult != 0 and len(self.node.proto.param) != 3:
                raise self.node.error(f"BatchNorm's statistics are not learned: expected lr_mult 0 in param {i}; "
                                      f"found {param.lr_mult:g}")
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        zero = constant(0)
        return [
            Weight("mean", (channels,), zero, trained=False),
            Weight("variance", (channels,), zero, trained=False),
            Weight("factor", (1,), zero, trained=False),
        ]

    def apply_with_state(
        self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        x = bottoms[0]
        shape = (1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (-1,)
        if self.uses_state:
            factor = weights["factor"]
            inverse = jnp.where(factor == 0, 0, 1 / jnp.where(factor == 0, 1, factor))
            mean, variance = weights["mean"] * inverse, weights["variance"] * inverse
            new = {}
        else:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axes).reshape(-1)
            variance = jnp.square(x - mean.reshape(shape)).mean(axes).reshape(-1)
            new = self._updated(weights, mean, variance, x.size // mean.size)
        return [(x - mean.reshape(shape)) * lax.rsqrt(variance + self.p.eps).reshape(shape)], new

    def _updated(self, weights: Mapping[str, Array], mean: Array, variance: Array, count: int) -> dict[str, Array]:
        kept = self.p.moving_average_fraction
        unbiased = variance * (count / (count - 1) if count > 1 else 1.0)
        return {
            "mean": kept * weights["mean"] + lax.stop_gradient(mean),
            "variance": kept * weights["variance"] + lax.stop_gradient(unbiased),
            "factor": kept * weights["factor"] + 1,
        }

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * (2 if self.uses_state else 6)


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
