"""Reduction and Axpy in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from jaffe.compile.onnx.neuron import affine
from jaffe.compile.onnx.writer import Call, writes
from jaffe.netdef.jaffe_pb2 import ReductionParameter


@writes("Reduction")
def reduction(call: Call) -> Sequence[str]:
    """ReduceSum, ReduceL1, ReduceSumSquare or ReduceMean over the last axes."""
    p = call.p
    axes = list(range(call.layer.axis(p.axis, len(call.shape)), len(call.shape)))
    op = {
        ReductionParameter.SUM: "ReduceSum", ReductionParameter.ASUM: "ReduceL1",
        ReductionParameter.SUMSQ: "ReduceSumSquare", ReductionParameter.MEAN: "ReduceMean",
    }[p.operation]
    return [affine(call, call.reduce(op, call.x, axes), p.coeff, 0)]


@writes("Axpy")
def axpy(call: Call) -> Sequence[str]:
    """Mul with a factor for each channel, and Add."""
    a, x, y = call.bottoms
    factor = call.reshape(a.name, (*x.shape[:2], *[1] * (x.ndim - 2)))
    return [call.op("Add", call.op("Mul", factor, x.name), y.name)]
