"""Convolutions in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaffe.compile.onnx.writer import Call, Value, writes


@writes("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(call: Call) -> Sequence[str]:
    """Conv, with the axes before the channels' merged into one."""
    return [_one(call, "Conv", bottom, i) for i, bottom in enumerate(call.bottoms)]


@writes("Deconvolution")
def deconvolution(call: Call) -> Sequence[str]:
    """ConvTranspose, which has Caffe's layout of weights."""
    return [_one(call, "ConvTranspose", bottom, i) for i, bottom in enumerate(call.bottoms)]


def _one(call: Call, op: str, bottom: Value, index: int) -> str:
    axis = call.layer.axis(call.p.axis, bottom.ndim)
    spatial = bottom.ndim - axis - 1
    geometry = call.layer.geometry(spatial, call.layer._group(bottom.shape[axis]))
    weight = call.weights["weight"]
    bias = [call.weight("bias")] if call.p.bias_term else []
    x = bottom.name
    if axis != 1 or not spatial:  # ONNX has one axis before the channels, and one after them at least
        x = call.reshape(x, (math.prod(bottom.shape[:axis]), *bottom.shape[axis:], *[1] * (not spatial)))
    y = call.op(
        op, x, call.weight("weight", *weight.shape, *[1] * (not spatial)), *bias,
        kernel_shape=list(weight.shape[2:] or (1,)), strides=list(geometry.stride or (1,)),
        dilations=list(geometry.dilation or (1,)), pads=flat(geometry.pad or ((0, 0),)), group=geometry.group,
    )
    return call.reshape(y, call.tops[index]) if axis != 1 or not spatial else y


def flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Pairs of padding before and after each axis as ONNX has them: all before, then all after."""
    return [before for before, _ in pads] + [after for _, after in pads]
