"""Layers that take a blob apart into its windows, in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.exported import Dims
from jaffe.compile.onnx.convolution import flat
from jaffe.compile.onnx.writer import Call, writes


@writes("Im2col")
def im2col(call: Call) -> Sequence[str]:
    """A Conv whose kernels each pick one cell."""
    axis = call.layer.axis(call.p.axis, len(call.shape))
    rows = call.x if axis == 1 else call.reshape(call.x, (math.prod(call.shape[:axis]), *call.shape[axis:]))
    y = _columns(call, rows, call.shape[axis:])
    return [y if axis == 1 else call.reshape(y, call.tops[0])]


@writes("LocallyConnected")
def locally_connected(call: Call) -> Sequence[str]:
    """A matrix product for each place."""
    n, outputs, *out = call.tops[0]
    weight = call.weights["weight"][:, 0]
    columns = call.reshape(_columns(call, call.x, call.shape[1:]), (n, *weight.shape[1:]))
    by_place = call.op("MatMul", call.transpose(columns, [2, 0, 1]), weight.transpose(2, 1, 0))
    y = call.transpose(by_place, [1, 2, 0])
    if call.p.bias_term:
        y = call.op("Add", y, call.weights["bias"][0])
    return [call.reshape(y, (n, outputs, *out))]


def _columns(call: Call, x: str, shape: Dims) -> str:
    """(N, C, in...) -> (N, C * cells, out...); ``shape`` is (C, in...)."""
    channels, spatial = int(shape[0]), len(shape) - 1
    geometry, kernel = call.layer.geometry(spatial), call.layer.kernel(spatial)
    cells = math.prod(kernel)
    picks = np.tile(np.eye(cells).reshape(cells, 1, *kernel), (channels, *[1] * (spatial + 1)))
    return call.op("Conv", x, picks, kernel_shape=list(kernel), strides=list(geometry.stride),
                   dilations=list(geometry.dilation), pads=flat(geometry.pad), group=channels)
