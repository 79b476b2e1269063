"""Pooling over regions of interest in ONNX: a Scan over the regions.

ONNX's own MaxRoiPool finds the bins in float32, which now and then adds a row or column that is not in the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaffe.compile.exported import Dim
from jaffe.compile.onnx.writer import Call, writes


@writes("ROIPooling")
def roi_pooling(call: Call) -> Sequence[str]:
    """Maximum over the cells of each bin: along the columns, then along the rows."""
    image, corners = _regions(call)
    whole = call.whole(_round(call, call.op("Mul", corners, call.p.spatial_scale)))
    first, last = call.slice(whole, 1, 0, 2), call.slice(whole, 1, 2, 4)
    one = np.int64(1)
    length = call.op("Max", call.op("Add", call.op("Sub", last, first), one), one)
    columns, rows = (
        _bins(call, call.slice(first, 1, i, i + 1), call.slice(length, 1, i, i + 1), bins, call.shape[3 - i])
        for i, bins in enumerate((call.p.pooled_w, call.p.pooled_h))
    )

    def largest(plane: str, rows: str, columns: str) -> str:
        wide = call.op("Where", columns, call.op("Unsqueeze", plane, call.ints([2])), -np.inf)
        across = call.op("Unsqueeze", call.reduce("ReduceMax", wide, [3]), call.ints([1]))  # (C, 1, H, bins)
        by_row = call.op("Unsqueeze", rows, call.ints([2]))  # (bins, H, 1)
        return call.reduce("ReduceMax", call.op("Where", by_row, across, -np.inf), [2])

    top = _scan(call, image, rows, columns, largest)
    return [_outside(call, image, call.op("Where", call.op("Greater", _cells(call, rows, columns), 0.0), top, 0.0))]


@writes("PSROIPooling")
def psroi_pooling(call: Call) -> Sequence[str]:
    """Mean over the cells of each bin, of the channels that belong to it."""
    image, corners = _regions(call)
    group, scale = call.p.group_size, call.p.spatial_scale
    pixels = _round(call, corners)
    start = call.op("Mul", call.slice(pixels, 1, 0, 2), scale)
    end = call.op("Mul", call.op("Add", call.slice(pixels, 1, 2, 4), 1.0), scale)
    side = call.op("Max", call.op("Sub", end, start), 0.1)
    columns, rows = (
        _spans(call, call.slice(start, 1, i, i + 1), call.slice(side, 1, i, i + 1), group, call.shape[3 - i])
        for i in range(2)
    )

    def total(plane: str, rows: str, columns: str) -> str:
        maps = call.reshape(plane, (call.p.output_dim, group, group, *call.shape[2:]))
        by_row = call.op("Unsqueeze", call.floats(rows), call.ints([1, 3]))  # (g, 1, H, 1)
        by_column = call.op("Unsqueeze", call.floats(columns), call.ints([1]))  # (g, 1, W)
        return call.reduce("ReduceSum", call.op("Mul", maps, call.op("Mul", by_row, by_column)), [3, 4])

    cells = call.op("Max", _cells(call, rows, columns), 1.0)
    return [_outside(call, image, call.op("Div", _scan(call, image, rows, columns, total), cells))]


def _regions(call: Call) -> tuple[str, str]:
    """The image of each region, (R, 1), and its corners, (R, 4)."""
    regions = call.reshape(call.bottoms[1].name, (call.bottoms[1].shape[0], 5))
    return call.whole(call.slice(regions, 1, 0, 1)), call.slice(regions, 1, 1, 5)


def _round(call: Call, x: str) -> str:
    """To the nearest whole number, halves away from 0."""
    size = call.op("Abs", x)
    whole = call.op("Floor", size)
    up = call.floats(call.op("GreaterOrEqual", call.op("Sub", size, whole), 0.5))
    return call.op("Mul", call.op("Sign", x), call.op("Add", whole, up))


def _bins(call: Call, first: str, length: str, bins: int, size: Dim) -> str:
    """Which cells (R, bins, size) each bin holds; bounds are whole numbers."""
    starts = call.op("Div", call.op("Mul", length, np.arange(bins)), np.int64(bins))
    ends = call.op("Div", call.op("Add", call.op("Mul", length, np.arange(1, bins + 1)), np.int64(bins - 1)),
                   np.int64(bins))
    return _within(call, call.op("Add", first, starts), call.op("Add", first, ends), np.arange(int(size)))


def _spans(call: Call, start: str, side: str, bins: int, size: Dim) -> str:
    """Which cells (R, bins, size) each bin touches; an edge within 1e-4 of a whole number is that number."""
    step = call.op("Div", side, float(bins))
    edges = call.op("Add", start, call.op("Mul", step, np.arange(bins + 1.0)))
    whole = call.op("Round", edges)
    near = call.op("Less", call.op("Abs", call.op("Sub", edges, whole)), 1e-4)
    edges = call.op("Where", near, whole, edges)
    low, high = call.op("Floor", call.slice(edges, 1, 0, bins)), call.op("Ceil", call.slice(edges, 1, 1, bins + 1))
    return _within(call, low, high, np.arange(float(int(size))))


def _within(call: Call, start: str, end: str, place: np.ndarray) -> str:
    low, high = (call.op("Unsqueeze", value, call.ints([2])) for value in (start, end))
    return call.op("And", call.op("GreaterOrEqual", place, low), call.op("Less", place, high))


def _cells(call: Call, rows: str, columns: str) -> str:
    """How many cells each bin has, (R, 1, bins, bins)."""
    down, across = (call.reduce("ReduceSum", call.floats(mask), [2]) for mask in (rows, columns))
    return call.op("Mul", call.op("Unsqueeze", down, call.ints([1, 3])),
                   call.op("Unsqueeze", across, call.ints([1, 2])))


def _inside(call: Call, image: str) -> str:
    """Whether there is such an image, (R, 1)."""
    count = call.size(call.x, 0)
    return call.op("And", call.op("GreaterOrEqual", image, np.int64(0)), call.op("Less", image, count))


def _outside(call: Call, image: str, top: str) -> str:
    """NaN for regions of an image that is not there."""
    inside = call.op("Unsqueeze", _inside(call, image), call.ints([2, 3]))
    return call.op("Where", inside, top, np.nan)


def _scan(
    call: Call, image: str, rows: str, columns: str, one: Callable[[str, str, str], str]
) -> str:
    """``one`` of the plane, rows and columns of each region, one region after another."""
    from onnx import TensorProto, helper

    safe = call.op("Where", _inside(call, image), image, np.int64(0))
    names = [call.writer.fresh(f"{call.node.name}/{name}") for name in ("image", "rows", "columns")]
    with call.writer.body() as nodes:
        plane = call.op("Squeeze", call.op("Gather", call.x, names[0], axis=0), call.ints([0]))
        result = one(plane, names[1], names[2])
    height, width, *bins = (int(size) for size in (*call.shape[2:], *call.tops[0][2:]))
    masks = [[bins[0], height], [bins[1], width]]
    body = helper.make_graph(
        nodes, f"{call.node.name}/region",
        [helper.make_tensor_value_info(names[0], TensorProto.INT64, [1]),
         *(helper.make_tensor_value_info(name, TensorProto.BOOL, shape)
           for name, shape in zip(names[1:], masks, strict=True))],
        [helper.make_tensor_value_info(result, helper.np_dtype_to_tensor_dtype(call.dtype),
                                       [int(size) for size in call.tops[0][1:]])],
    )
    return call.op("Scan", safe, rows, columns, body=body, num_scan_inputs=3)
