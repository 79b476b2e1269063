"""Layers that multiply by weights, in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaffe.compile.exported import Dims
from jaffe.compile.onnx.indexing import take_rows
from jaffe.compile.onnx.writer import Call, Value, writes


@writes("InnerProduct")
def inner_product(call: Call) -> Sequence[str]:
    """Reshape to a matrix, Gemm; and the leading axes again where there is more than one."""
    axis = call.layer.axis(call.p.axis, len(call.shape))
    weight = call.weights["weight"]
    inputs = weight.shape[0 if call.p.transpose else 1]
    rows = math.prod(call.shape[:axis])
    x = call.x if axis == 1 == len(call.shape) - 1 else call.reshape(call.x, (rows, inputs))
    bias = [call.weight("bias")] if call.p.bias_term else []
    y = call.op("Gemm", x, call.weight("weight"), *bias, transB=int(not call.p.transpose))
    return [y if axis == 1 else call.reshape(y, call.tops[0])]


@writes("Scale")
def scale(call: Call) -> Sequence[str]:
    """Mul with weights or the second bottom, broadcast from an axis; and Add."""
    axis, shape = call.layer._span([bottom.shape for bottom in call.bottoms])
    after = call.bottoms[0].ndim - axis - len(shape)
    if len(call.bottoms) == 2:
        y = call.op("Mul", call.x, trailing(call, call.bottoms[1].name, shape, after))
    else:
        y = call.op("Mul", call.x, call.weight("scale", *shape, *[1] * after))
    return [call.op("Add", y, call.weight("bias", *shape, *[1] * after)) if call.p.bias_term else y]


def trailing(call: Call, value: str, shape: Dims, count: int) -> str:
    """A tensor with axes of length 1 after its own, so that it broadcasts against the leading ones."""
    if not count or not shape:
        return value
    return call.op("Unsqueeze", value, call.ints(range(len(shape), len(shape) + count)))


@writes("Bias")
def bias(call: Call) -> Sequence[str]:
    """Add, broadcast from an axis."""
    axis, shape = call.layer._span([bottom.shape for bottom in call.bottoms])
    after = len(call.shape) - axis - len(shape)
    if len(call.bottoms) == 2:
        return [call.op("Add", call.x, trailing(call, call.bottoms[1].name, shape, after))]
    return [call.op("Add", call.x, call.weight("bias", *shape, *[1] * after))]


@writes("Embed")
def embed(call: Call) -> Sequence[str]:
    """Gather, with NaN for what is outside the table; and Add."""
    weight = call.weights["weight"]
    y = take_rows(call, Value(call.weight("weight"), weight.shape), call.x)
    return [call.op("Add", y, call.weight("bias")) if call.p.bias_term else y]


@writes("Parameter")
def parameter(call: Call) -> Sequence[str]:
    """A constant."""
    return [call.weight("weight")]
