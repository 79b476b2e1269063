"""ArgMax, BatchReindex and Filter in ONNX, and rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaffe.compile.exported import Dim
from jaffe.compile.onnx.writer import Call, Value, writes


@writes("ArgMax")
def argmax(call: Call) -> Sequence[str]:
    """TopK over a reversed axis: ONNX puts the smaller index of a tie first, Caffe the larger."""
    p = call.p
    if p.HasField("axis"):
        axis = call.layer.axis(p.axis, len(call.shape))
        values, index = _largest(call, call.x, axis, call.shape[axis])
        return [values if p.out_max_val else index]
    count = math.prod(call.shape[1:])
    values, index = _largest(call, call.reshape(call.x, (call.shape[0], count)), 1, count)
    rows = [index, values] if p.out_max_val else [index]
    return [call.reshape(call.op("Concat", *rows, axis=1), call.tops[0])]


def _largest(call: Call, x: str, axis: int, size: Dim) -> tuple[str, str]:
    """The largest values of an axis, and where they stand, as floats."""
    reverse = [call.ints([number]) for number in (-1, np.iinfo(np.int64).min, axis, -1)]
    values, index = call.ops("TopK", 2, call.op("Slice", x, *reverse), call.ints([call.p.top_k]), axis=axis)
    return values, call.floats(call.op("Sub", call.ints([size - 1]), index))


@writes("BatchReindex")
def batch_reindex(call: Call) -> Sequence[str]:
    """Gather of items, with NaN for those outside."""
    return [take_rows(call, call.bottoms[0], call.bottoms[1].name)]


def take_rows(call: Call, table: Value, index: str) -> str:
    """``table[index]`` along the first axis, fractions cut off; NaN where the index is outside."""
    row = np.full((1, *(int(size) for size in table.shape[1:])), np.nan)
    rows = call.floats(call.size(table.name, 0))
    inside = call.op("And", call.op("Greater", index, -1.0), call.op("Less", index, rows))
    whole = call.whole(call.op("Where", inside, index, rows))
    return call.op("Gather", call.op("Concat", table.name, row, axis=0), whole, axis=0)


@writes("Filter")
def select(call: Call) -> Sequence[str]:
    """Items in the order of a score that puts the selected ones first, then zeros."""
    *items, selector = call.bottoms
    count = call.size(selector.name, 0)
    chosen = call.floats(call.op("Not", call.op("Equal", call.reshape(selector.name, selector.shape[:1]), 0.0)))
    scalar = call.op("Squeeze", count)
    place = call.floats(call.op("Range", np.int64(0), scalar, np.int64(1)))
    score = call.op("Sub", call.op("Mul", chosen, call.floats(count)), place)
    _, order = call.ops("TopK", 2, score, count)
    kept = call.op("Less", place, call.op("ReduceSum", chosen))
    tops = []
    for item in items:
        mask = call.reshape(kept, (*item.shape[:1], *[1] * (item.ndim - 1)))
        tops.append(call.op("Where", mask, call.op("Gather", item.name, order, axis=0), 0.0))
    return tops
