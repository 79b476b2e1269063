"""Planes made larger or smaller, in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.exported import Dims
from jaffe.compile.onnx.writer import Call, writes


@writes("Interp")
def interp(call: Call) -> Sequence[str]:
    """Resize, linear, with corners on corners."""
    start, cropped = -call.p.pad_beg, call.layer._cropped(call.shape)
    x = call.x
    for axis, size in zip((2, 3), cropped, strict=True):
        if size != call.shape[axis]:
            x = call.slice(x, axis, start, start + size)
    out = call.tops[0][2:]
    return [x if out == cropped else _resize(call, x, out, mode="linear", coordinate="align_corners")]


@writes("Upsample")
def upsample(call: Call) -> Sequence[str]:
    """Resize, nearest; or values scattered to the places of a mask."""
    out = call.tops[0][2:]
    if len(call.bottoms) == 1:
        return [_resize(call, call.x, out, mode="nearest", coordinate="asymmetric", nearest_mode="floor")]
    return [_unpool(call, out)]


def _resize(call: Call, x: str, out: Dims, *, coordinate: str, **attributes: str) -> str:
    return call.op("Resize", x, "", "", call.ints(out), coordinate_transformation_mode=coordinate, axes=[2, 3],
                   **attributes)


def _unpool(call: Call, out: Dims) -> str:
    """Of several values for one place the last stays; a place outside makes its plane NaN."""
    n, channels, *spatial = call.shape
    count, cells = (math.prod(int(size) for size in sizes) for sizes in (spatial, out))
    flat = (n, channels, count)
    values = call.reshape(call.x, flat)
    place = call.whole(call.reshape(call.bottoms[1].name, flat))
    inside = call.op("And", call.op("GreaterOrEqual", place, np.int64(0)), call.op("Less", place, np.int64(cells)))
    safe = call.op("Where", inside, place, np.int64(0))
    order = call.op("Expand", np.arange(count), call.op("Shape", safe))
    planes = call.op("Concat", call.op("Slice", call.op("Shape", safe), call.ints([0]), call.ints([2])),
                     call.ints([cells]), axis=0)
    last = call.op("ScatterElements", call.op("Expand", np.int64(-1), planes), safe, order, axis=2, reduction="max")
    stays = call.op("Equal", call.op("GatherElements", last, safe, axis=2), order)
    y = call.op("ScatterElements", call.op("Expand", 0.0, planes), safe, call.op("Where", stays, values, 0.0),
                axis=2, reduction="add")
    outside = call.reduce("ReduceMax", call.floats(call.op("Not", inside)), [2], keep=True)
    y = call.op("Where", call.op("Greater", outside, 0.0), np.nan, y)
    return call.reshape(y, call.tops[0])
