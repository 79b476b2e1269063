"""Layers that repeat, cut out or reorder, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from jaffe.compile.onnx.writer import Call, writes


@writes("Tile")
def tile(call: Call) -> Sequence[str]:
    """Tile along one axis."""
    repeats = [1] * len(call.shape)
    repeats[call.layer.axis(call.p.axis, len(call.shape))] = call.p.tiles
    return [call.op("Tile", call.x, call.ints(repeats))]


@writes("Crop")
def crop(call: Call) -> Sequence[str]:
    """A Slice of each axis that is cut."""
    starts = call.layer._starts(len(call.shape))
    y = call.x
    for axis, start in enumerate(starts, len(call.shape) - len(starts)):
        size = call.tops[0][axis]
        if size != call.shape[axis]:
            y = call.slice(y, axis, start, int(size) + start)
    return [y]


@writes("Permute")
def permute(call: Call) -> Sequence[str]:
    """Transpose."""
    return [call.transpose(call.x, call.layer._order(len(call.shape)))]


@writes("ShuffleChannel")
def shuffle_channel(call: Call) -> Sequence[str]:
    """Reshape, Transpose, Reshape."""
    n, channels, *rest = call.shape
    group = call.p.group
    parts = call.reshape(call.x, (n, group, channels // group, *rest))
    return [call.reshape(call.transpose(parts, [0, 2, 1, *range(3, len(call.shape) + 1)]), call.shape)]
