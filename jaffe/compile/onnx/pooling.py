"""Pooling in ONNX: Caffe's windows as explicit padding, its divisors as a constant map."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.exported import Dims
from jaffe.compile.lowering import PoolGeometry
from jaffe.compile.onnx.convolution import flat
from jaffe.compile.onnx.writer import Call, writes
from jaffe.netdef.jaffe_pb2 import PoolingParameter


@writes("Pooling")
def pooling(call: Call) -> Sequence[str]:
    """MaxPool or AveragePool over windows that are whole once the image is padded."""
    geometry = call.layer.geometry(call.shape)
    return _with_places(call, geometry) if len(call.tops) == 2 else [_pool(call, geometry)]


@writes("SPP")
def pyramid(call: Call) -> Sequence[str]:
    """A pooling a level, flattened and joined."""
    pooled = [_pool(call, geometry) for geometry in call.layer.levels(call.shape)]
    if len(pooled) == 1:
        return pooled
    return [call.op("Concat", *(call.op("Flatten", level, axis=1) for level in pooled), axis=1)]


def _pool(call: Call, geometry: PoolGeometry) -> str:
    """The enum of ``spp_param`` has the numbers of ``pooling_param``'s."""
    if call.p.pool == PoolingParameter.AVE:
        return average_pool(call, call.x, call.shape, geometry)
    if call.p.pool == PoolingParameter.STOCHASTIC:
        return _expected(call, geometry)
    return max_pool(call, call.x, call.shape, geometry)


def max_pool(call: Call, x: str, shape: Dims, geometry: PoolGeometry) -> str:
    """Largest value of each window; -inf where a window has no cell."""
    if _is_global(shape, geometry):
        return call.op("GlobalMaxPool", x)
    x, attributes = _padded(call, x, shape, geometry, -np.inf)
    y = call.op("MaxPool", x, **attributes)
    empty = _divisors(shape, geometry) <= 0
    return call.op("Where", empty, -np.inf, y) if empty.any() else y


def average_pool(call: Call, x: str, shape: Dims, geometry: PoolGeometry) -> str:
    """Mean of each window: AveragePool divides by the kernel's size, the map makes that Caffe's divisor."""
    if _is_global(shape, geometry):
        return call.op("GlobalAveragePool", x)
    divisors = np.maximum(_divisors(shape, geometry), 1)
    y = _whole_means(call, x, shape, geometry)
    full = math.prod(geometry.kernel)
    return y if (divisors == full).all() else call.op("Mul", y, full / divisors)


def _whole_means(call: Call, x: str, shape: Dims, geometry: PoolGeometry) -> str:
    """Sums of the windows divided by the kernel's size; cells outside the image count as 0."""
    x, attributes = _padded(call, x, shape, geometry, 0.0)
    return call.op("AveragePool", x, count_include_pad=1, **attributes)


def _expected(call: Call, geometry: PoolGeometry) -> str:
    """Stochastic pooling in phase TEST: ``sum x^2 / sum x``, 0 where the sum is not positive."""
    if call.layer.train:
        raise call.missing("draws at random, as its own phase is TRAIN")
    total = _whole_means(call, call.x, call.shape, geometry)
    squares = _whole_means(call, call.op("Mul", call.x, call.x), call.shape, geometry)
    positive = call.op("Greater", total, 0.0)
    return call.op("Where", positive, call.op("Div", squares, call.op("Where", positive, total, 1.0)), 0.0)


def _with_places(call: Call, geometry: PoolGeometry) -> list[str]:
    """MaxPool's indices count through the whole tensor; Caffe's through one channel of one image."""
    empty = (_divisors(call.shape, geometry) <= 0).any()
    if not _fits(call.shape, geometry) or empty:
        raise call.missing("the places of maxima, with windows that lie outside the image")
    y, places = call.ops("MaxPool", 2, call.x, **_attributes(call.shape, geometry))
    return [y, call.floats(call.op("Mod", places, call.ints([math.prod(call.shape[2:])])))]


def _divisors(shape: Dims, geometry: PoolGeometry) -> np.ndarray:
    """What each window's sum is divided by; 0 where it has no cell."""
    lengths = [np.maximum(geometry.divisors(int(size), axis), 0) for axis, size in enumerate(shape[2:])]
    return functools.reduce(np.multiply.outer, lengths)


def _pads(shape: Dims, geometry: PoolGeometry) -> list[tuple[int, int]]:
    return [geometry.padding(int(size), axis) for axis, size in enumerate(shape[2:])]


def _fits(shape: Dims, geometry: PoolGeometry) -> bool:
    """Whether the pools of ONNX take this padding themselves: it is less than the kernel."""
    return all(max(pad) < kernel for pad, kernel in zip(_pads(shape, geometry), geometry.kernel, strict=True))


def _is_global(shape: Dims, geometry: PoolGeometry) -> bool:
    return shape[2:] == geometry.kernel and not any(map(any, geometry.pad))


def _attributes(shape: Dims, geometry: PoolGeometry) -> dict[str, list[int]]:
    return {"kernel_shape": list(geometry.kernel), "strides": list(geometry.stride),
            "pads": flat(_pads(shape, geometry))}


def _padded(
    call: Call, x: str, shape: Dims, geometry: PoolGeometry, fill: float
) -> tuple[str, dict[str, list[int]]]:
    """x, padded by a node of its own where a pool cannot, and the pool's attributes."""
    attributes = _attributes(shape, geometry)
    if _fits(shape, geometry):
        return x, attributes
    del attributes["pads"]
    return call.pad(x, [(0, 0), (0, 0), *_pads(shape, geometry)], fill), attributes
