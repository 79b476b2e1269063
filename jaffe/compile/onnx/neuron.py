"""Activations in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.onnx.writer import Call, writes


@writes("ReLU", "ReLU6")
def relu(call: Call) -> Sequence[str]:
    """Relu or LeakyRelu, and Clip for what stops at 6."""
    slope = call.p.negative_slope if call.node.type == "ReLU" else 0
    if call.node.type == "ReLU" and not call.p.relu6:
        return [call.op("LeakyRelu", call.x, alpha=slope) if slope else call.op("Relu", call.x)]
    if not slope:
        return [call.op("Clip", call.x, 0.0, 6.0)]
    return [call.op("Min", call.op("LeakyRelu", call.x, alpha=slope), 6.0)]


@writes("Sigmoid")
def sigmoid(call: Call) -> Sequence[str]:
    """Sigmoid."""
    return [call.op("Sigmoid", call.x)]


@writes("TanH")
def tanh(call: Call) -> Sequence[str]:
    """Tanh."""
    return [call.op("Tanh", call.x)]


@writes("Power")
def power(call: Call) -> Sequence[str]:
    """``(shift + scale x)^power``; a constant where power or scale is 0."""
    p = call.p
    if p.power * p.scale == 0:
        with np.errstate(all="ignore"):
            value = 1.0 if p.power == 0 else np.power(np.float64(p.shift), p.power)
        return [call.filled(value, call.x)]
    y = affine(call, call.x, p.scale, p.shift)
    return [y if p.power == 1 else call.op("Pow", y, p.power)]


@writes("Dropout")
def dropout(call: Call) -> Sequence[str]:
    """Nothing: what is exported does not drop out."""
    if not call.layer.is_identity([]):
        raise call.missing("drops at random, as its own phase is TRAIN")
    return [call.op("Identity", call.x)]


@writes("Softmax")
def softmax(call: Call) -> Sequence[str]:
    """Softmax along one axis."""
    return [call.op("Softmax", call.x, axis=call.layer.axis(call.p.axis, call.bottoms[0].ndim))]


def affine(call: Call, x: str, scale: float, shift: float) -> str:
    """``shift + scale x``, without what changes nothing."""
    y = x if scale == 1 else call.op("Mul", x, float(scale))
    return y if shift == 0 else call.op("Add", y, float(shift))


@writes("CReLU")
def crelu(call: Call) -> Sequence[str]:
    """Relu of x and -x, one after the other."""
    both = call.op("Concat", call.x, call.op("Neg", call.x), axis=call.layer.axis(call.p.axis, len(call.shape)))
    return [call.op("Relu", both)]


@writes("PReLU")
def prelu(call: Call) -> Sequence[str]:
    """PRelu, with a slope that broadcasts from the channels."""
    return [call.op("PRelu", call.x, call.weight("slope", -1, *[1] * (len(call.shape) - 2)))]


@writes("ELU")
def elu(call: Call) -> Sequence[str]:
    """Elu."""
    return [call.op("Elu", call.x, alpha=call.p.alpha)]


@writes("BNLL")
def bnll(call: Call) -> Sequence[str]:
    """Softplus."""
    return [call.op("Softplus", call.x)]


@writes("Swish")
def swish(call: Call) -> Sequence[str]:
    """Mul with a Sigmoid."""
    return [call.op("Mul", call.x, call.op("Sigmoid", affine(call, call.x, call.p.beta, 0)))]


@writes("Maxout")
def maxout(call: Call) -> Sequence[str]:
    """Max of equal pieces."""
    axis = call.layer.axis(call.p.axis, len(call.shape))
    pieces = call.p.pieces
    if pieces == 1:
        return [call.x]
    sizes = [call.tops[0][axis]] * pieces
    return [call.op("Max", *call.ops("Split", pieces, call.x, call.ints(sizes), axis=axis))]


@writes("Exp")
def exp(call: Call) -> Sequence[str]:
    """Exp of ``log(base) (shift + scale x)``."""
    y = affine(call, call.x, call.p.scale, call.p.shift)
    return [call.op("Exp", y if call.p.base == -1 else affine(call, y, math.log(call.p.base), 0))]


@writes("Log")
def log(call: Call) -> Sequence[str]:
    """Log of ``shift + scale x``, over the base's."""
    y = call.op("Log", affine(call, call.x, call.p.scale, call.p.shift))
    return [y if call.p.base == -1 else call.op("Div", y, math.log(call.p.base))]


@writes("AbsVal")
def absval(call: Call) -> Sequence[str]:
    """Abs."""
    return [call.op("Abs", call.x)]


@writes("Threshold")
def threshold(call: Call) -> Sequence[str]:
    """Greater, as numbers."""
    return [call.floats(call.op("Greater", call.x, call.p.threshold))]


@writes("Clip")
def clip(call: Call) -> Sequence[str]:
    """Clip."""
    return [call.op("Clip", call.x, call.p.min, call.p.max)]
