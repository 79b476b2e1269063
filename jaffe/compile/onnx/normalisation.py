"""Normalisations in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.onnx.writer import Call, writes
from jaffe.netdef.jaffe_pb2 import BNParameter, LRNParameter


@writes("LRN")
def lrn(call: Call) -> Sequence[str]:
    """LRN; within a channel, and with numbers that onnxruntime refuses, by an AveragePool of the squares."""
    p, size = call.p, call.p.local_size
    within = p.norm_region == LRNParameter.WITHIN_CHANNEL
    n, channels, height, width = call.shape
    axes = (height, width) if within else (channels,)
    reach = [min((size - 1) // 2, int(axis) - 1) for axis in axes]  # a wider window sums nothing more
    kernel = [2 * r + 1 for r in reach]
    alpha = p.alpha * math.prod(kernel) / size ** len(kernel)
    if not within and p.alpha > 0 and p.beta > 0:
        return [call.op("LRN", call.x, size=kernel[0], alpha=alpha, beta=p.beta, bias=p.k)]
    square = call.op("Mul", call.x, call.x)
    if not within:
        square = call.reshape(square, (n, channels, height * width))
        square, kernel, reach = call.op("Unsqueeze", square, call.ints([1])), [*kernel, 1], [*reach, 0]
    mean = call.op("AveragePool", square, kernel_shape=kernel, pads=reach * 2, count_include_pad=1)
    total = call.op("Add", call.op("Mul", mean, alpha), 1.0 if within else p.k)
    scale = call.op("Pow", total, -p.beta)
    return [call.op("Mul", call.x, scale if within else call.reshape(scale, call.shape))]


@writes("BatchNorm")
def batch_norm(call: Call) -> Sequence[str]:
    """BatchNormalization by the stored statistics, or a few nodes that take those of the batch."""
    eps = call.p.eps
    if not call.layer.uses_state:
        return [_by_batch(call, eps)]
    factor = float(call.weights["factor"][0])
    mean, variance = (call.weights[name] * (1 / factor if factor else 0) for name in ("mean", "variance"))
    if len(call.shape) == 1:
        return [call.op("Div", call.op("Sub", call.x, mean), np.sqrt(variance + eps))]
    return [call.op("BatchNormalization", call.x, np.ones_like(mean), np.zeros_like(mean), mean, variance, epsilon=eps)]


@writes("BN")
def bn(call: Call) -> Sequence[str]:
    """The forks' BatchNormalization with scale and shift."""
    broadcast = (-1, *[1] * (len(call.shape) - 2))
    scale, shift = ("scale", "shift") if call.layer.segnet else ("slope", "bias")
    stored = not call.layer.segnet and not (call.layer.train and not call.p.frozen)
    if stored:
        arrays = [call.weights[name].reshape(-1) for name in (scale, shift, "mean", "variance")]
        return [call.op("BatchNormalization", call.x, *arrays, epsilon=call.p.eps)]
    y = call.x
    if not call.layer.segnet:
        y = _by_batch(call, call.p.eps)
    elif call.p.bn_mode == BNParameter.LEARN:
        y = _by_batch(call, 1e-9)
    return [call.op("Add", call.op("Mul", y, call.weight(scale, *broadcast)), call.weight(shift, *broadcast))]


def _by_batch(call: Call, eps: float) -> str:
    """Mean 0 and variance 1 of each channel in the batch at hand."""
    axes = [axis for axis in range(len(call.shape)) if axis != 1]
    centred = call.op("Sub", call.x, call.reduce("ReduceMean", call.x, axes, keep=True))
    variance = call.reduce("ReduceMean", call.op("Mul", centred, centred), axes, keep=True)
    return call.op("Div", centred, call.op("Sqrt", call.op("Add", variance, eps)))


@writes("MVN")
def mvn(call: Call) -> Sequence[str]:
    """Sub of the mean, Div by the standard deviation plus eps."""
    axes = range(1 if call.p.across_channels else 2, len(call.shape))
    centred = call.op("Sub", call.x, call.reduce("ReduceMean", call.x, axes, keep=True))
    if not call.p.normalize_variance:
        return [centred]
    variance = call.reduce("ReduceMean", call.op("Mul", centred, centred), axes, keep=True)
    return [call.op("Div", centred, call.op("Add", call.op("Sqrt", variance), call.p.eps))]


@writes("Normalize")
def normalize(call: Call) -> Sequence[str]:
    """Div by the L2 norm, Mul with the scale."""
    axes = range(1, len(call.shape) if call.p.across_spatial else 2)
    square = call.reduce("ReduceSumSquare", call.x, axes, keep=True)
    y = call.op("Div", call.x, call.op("Sqrt", call.op("Add", square, call.p.eps)))
    return [call.op("Mul", y, call.weight("scale", -1, *[1] * (len(call.shape) - 2)))]
