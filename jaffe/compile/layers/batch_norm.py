"""Batch normalisation: Caffe's BatchNorm, and the BN layers of its forks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.lowering import normalise_batch
from jaffe.netdef.jaffe_pb2 import BNParameter, FillerParameter


@built_in("BatchNorm")
class BatchNorm(Layer):
    """Batch normalisation without scale and shift (a Scale layer adds them).

    Shapes: (N, C, ...), unchanged; with one axis only, C = 1.
    State: mean (C), variance (C), factor (1): Caffe's three blobs, all 0 at first.
    In phase TRAIN, or with ``use_global_stats: false``: ``y = (x - mean) / sqrt(var + eps)`` with the batch's
    mean and biased variance over every axis but the channels', m values each; and the state becomes
    ``factor = f factor + 1``, ``mean = f mean + batch mean``, ``variance = f variance + m/(m-1) batch var``,
    f = ``moving_average_fraction``. Otherwise the state is used: mean and variance divided by the factor
    (a factor of 0 stands for mean 0 and variance 0). The batch is that of all devices
    along ``compile_net(axis_name=...)``.
    Source: Ioffe and Szegedy 2015; Caffe 1.0, ``batch_norm_layer.cpp``. Caffe fails on one-axis input.
    """

    arithmetic = "sums"

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
        if not self.uses_state:
            return self.apply_scaled(weights, bottoms[0], ctx)
        x = bottoms[0] if bottoms[0].ndim > 1 else bottoms[0][:, None]
        mean, variance = (one.reshape(-1, *[1] * (x.ndim - 2)) for one in self._stored(weights))
        return [((x - mean) * lax.rsqrt(variance + self.p.eps)).reshape(bottoms[0].shape)], {}

    def apply_scaled(
        self, weights: Mapping[str, Array], x: Array, ctx: Context, scale: Array | None = None,
        shift: Array | None = None,
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        """By the batch's statistics, then times ``scale`` and plus ``shift``, (C), of a Scale layer."""
        shape, x = x.shape, x if x.ndim > 1 else x[:, None]
        y, mean, variance = normalise_batch(x, self.p.eps, ctx.lowering, scale, shift, ctx.axis_name)
        count = x.size // x.shape[1] * (1 if ctx.axis_name is None else lax.axis_size(ctx.axis_name))
        return [y.reshape(shape)], self._updated(weights, mean, variance, count)

    def is_channel_affine(self, bottoms: Sequence[Shape]) -> bool:
        return self.uses_state and len(bottoms[0]) > 1

    def channel_affine(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        mean, variance = self._stored(weights)
        factor = lax.rsqrt(variance + self.p.eps)
        return factor, -mean * factor

    def _stored(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        """Mean and variance."""
        factor = weights["factor"]
        inverse = jnp.where(factor == 0, 0, 1 / jnp.where(factor == 0, 1, factor))
        return weights["mean"] * inverse, weights["variance"] * inverse

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


@built_in("BN")
class BN(Layer):
    """Batch normalisation with scale and shift in one layer. Forks have two of that name.

    PSPNet's and ICNet's (``slope_filler``, ``bias_filler``, ``momentum``, ``eps``, ``frozen``; also with no settings).
    Shapes: (N, C, ...), unchanged. Weights: slope (1, C, 1, 1), bias (1, C, 1, 1).
    State: mean (1, C, 1, 1), variance (1, C, 1, 1).
    In phase TRAIN: ``y = slope (x - mean) / sqrt(var + eps) + bias`` with the batch's mean and biased variance over
    every axis but the channels', and the state becomes ``momentum * state + (1 - momentum) * batch's``. In TEST, or
    with ``frozen: true``, the state is used as it is; frozen, slope and bias do not learn either.
    Slope starts at 1 unless its filler says other (the fork: at 0); mean at 0; variance at 0, frozen at 1.
    Source: ``bn_layer.cpp`` of github.com/hszhao/PSPNet (after github.com/yjxiong/caffe).

    SegNet's (``scale_filler``, ``shift_filler``, ``bn_mode``).
    Shapes: (N, C, ...), unchanged. Weights: scale (1, C, 1, 1), shift (1, C, 1, 1); it keeps no statistics.
    ``bn_mode: LEARN`` (the default), in both phases: ``y = scale (x - mean) / sqrt(var + 1e-9) + shift`` with the
    batch's. ``INFERENCE``: ``y = scale x + shift``, into which SegNet's script writes the statistics of a data set.
    Scale starts at 1 unless its filler says other (the fork: at 0). The second and third top are not supported.
    Source: ``bn_layer.cpp`` of github.com/alexgkendall/caffe-segnet.
    """

    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.node.error(f"expected a blob of at least 2 axes (N, C, ...); found {bottoms[0]}")
        stated = [field.name for field, _ in self.p.ListFields()]
        theirs = [name for name in stated if name not in _SEGNET]
        if self.segnet and theirs:
            ours = next(name for name in stated if name in _SEGNET)
            raise self.node.error(f"{ours} is of SegNet's BN, {theirs[0]} of PSPNet's; expected fields of one of them")
        if not self.p.eps >= 0:
            raise self.node.error(f"eps is not negative; found {self.p.eps:g}")
        if not 0 <= self.p.momentum <= 1:
            raise self.node.error(f"expected a momentum from 0 to 1; found {self.p.momentum:g}")
        return [bottoms[0]]

    @property
    def segnet(self) -> bool:
        """Whether it is SegNet's layer rather than PSPNet's."""
        return any(self.p.HasField(name) for name in _SEGNET)

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        shape = (1, bottoms[0][1], 1, 1)

        def filler(field: str, value: float) -> FillerParameter:
            return getattr(self.p, field) if self.p.HasField(field) else constant(value)

        if self.segnet:
            scale = Weight("scale", shape, filler("scale_filler", 1))
            return [scale, Weight("shift", shape, filler("shift_filler", 0))]
        return [
            Weight("slope", shape, filler("slope_filler", 1), frozen=self.p.frozen),
            Weight("bias", shape, filler("bias_filler", 0), frozen=self.p.frozen),
            Weight("mean", shape, constant(0), trained=False),
            Weight("variance", shape, constant(1 if self.p.frozen else 0), trained=False),
        ]

    def apply_with_state(
        self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        x = bottoms[0]
        shape = (1, x.shape[1], *[1] * (x.ndim - 2))
        stored = {name: array.reshape(shape) for name, array in weights.items()}
        if self.segnet:
            scale, shift = stored["scale"], stored["shift"]
            if self.p.bn_mode == BNParameter.INFERENCE:
                return [x * scale + shift], {}
            return [normalise_batch(x, 1e-9, ctx.lowering, scale.reshape(-1), shift.reshape(-1), ctx.axis_name)[0]], {}
        if self._uses_state:
            inverse = lax.rsqrt(stored["variance"] + self.p.eps)
            return [(x - stored["mean"]) * (stored["slope"] * inverse) + stored["bias"]], {}
        slope, bias = stored["slope"].reshape(-1), stored["bias"].reshape(-1)
        y, mean, variance = normalise_batch(x, self.p.eps, ctx.lowering, slope, bias, ctx.axis_name)
        kept, new = self.p.momentum, {}
        for name, value in (("mean", mean), ("variance", variance)):
            average = kept * weights[name].reshape(-1) + (1 - kept) * lax.stop_gradient(value)
            new[name] = average.reshape(weights[name].shape)
        return [y], new

    def is_channel_affine(self, bottoms: Sequence[Shape]) -> bool:
        return self._uses_state

    def channel_affine(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        stored = {name: array.reshape(-1) for name, array in weights.items()}
        if self.segnet:
            return stored["scale"], stored["shift"]
        factor = stored["slope"] * lax.rsqrt(stored["variance"] + self.p.eps)
        return factor, stored["bias"] - stored["mean"] * factor

    @property
    def _uses_state(self) -> bool:
        """Whether what it computes with is stored, rather than the batch's."""
        return self.p.bn_mode == BNParameter.INFERENCE if self.segnet else self.p.frozen or not self.train

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * (8 if not self._uses_state else 2 if self.segnet else 4)


_SEGNET = ("scale_filler", "shift_filler", "bn_mode")
