"""Layers that move values, and Eltwise, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from jaffe.compile.onnx.writer import Call, writes
from jaffe.netdef.jaffe_pb2 import EltwiseParameter


@writes("Flatten", "Reshape")
def reshape(call: Call) -> Sequence[str]:
    """Reshape to the shape that the layer's shape rule found."""
    return [call.reshape(call.x, call.tops[0])]


@writes("Concat")
def concat(call: Call) -> Sequence[str]:
    """Concat."""
    return [call.op("Concat", *call.names, axis=call.layer._axis_or_dim("concat_dim", len(call.shape)))]


@writes("Slice")
def split(call: Call) -> Sequence[str]:
    """Split into the sizes that the layer's shape rule found."""
    axis = call.layer._axis_or_dim("slice_dim", len(call.shape))
    if len(call.tops) == 1:
        return [call.op("Identity", call.x)]
    return call.ops("Split", len(call.tops), call.x, call.ints([top[axis] for top in call.tops]), axis=axis)


@writes("Split")
def copies(call: Call) -> Sequence[str]:
    """The bottom itself, for every top."""
    return [call.x] * len(call.tops)


@writes("Eltwise")
def eltwise(call: Call) -> Sequence[str]:
    """Mul, weighted Add, or Max."""
    if call.p.operation == EltwiseParameter.PROD:
        return [reduce(lambda a, b: call.op("Mul", a, b), call.names)]
    if call.p.operation == EltwiseParameter.MAX:
        return [call.op("Max", *call.names)]
    coeff = call.p.coeff or [1.0] * len(call.bottoms)
    terms = [x if c == 1 else call.op("Mul", x, float(c)) for c, x in zip(coeff, call.names, strict=True)]
    return [reduce(lambda a, b: call.op("Add", a, b), terms)]
