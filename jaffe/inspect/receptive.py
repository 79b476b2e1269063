"""Receptive fields: which pixels a unit of each blob can see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from jaffe.compile.layers.convolution import Convolution, Deconvolution
from jaffe.compile.layers.normalisation import LRN
from jaffe.compile.layers.pooling import Pooling
from jaffe.compile.layers.rearranging import Crop
from jaffe.compile.layers.resampling import Interp, Upsample
from jaffe.compile.layers.unfolding import Unfolding
from jaffe.compile.net import CompiledNet
from jaffe.inspect.part import image_input
from jaffe.inspect.table import Table
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import LRNParameter

# Layers whose tops at a place depend on their bottoms at that place only.
_POINTWISE = frozenset((
    "AbsVal", "BatchNorm", "BN", "BNLL", "Bias", "Clip", "Concat", "CReLU", "Dropout", "ELU", "Eltwise", "Exp", "Log",
    "LRN", "Maxout", "PReLU", "Power", "ReLU", "ReLU6", "Scale", "ShuffleChannel", "Sigmoid", "Slice", "Softmax",
    "Split", "Swish", "TanH", "Threshold",
))


@dataclass(frozen=True)
class ReceptiveField:
    """What a unit of a value can see of the image; pairs are (vertical, horizontal).

    Attributes:
        layer, type: what wrote the value.
        shape: of the value.
        size: pixels, of the unit that sees most, were the image endless. ``None``: all of the image.
        stride: pixels from one unit's field to the next's; ``None`` with ``size``.
        offset: pixel in the middle of the first unit's field, 0 being the middle of the first pixel; ``None`` with
            ``size``.
    """

    layer: str
    type: str
    shape: tuple[int, ...]
    size: tuple[int, int] | None
    stride: tuple[float, float] | None
    offset: tuple[float, float] | None


@dataclass(frozen=True)
class _Axis:
    """Along one axis: unit p of the first period sees pixels low[p] to high[p]; a period on, ``shift`` pixels on.

    A unit that sees nothing has infinite ends, high below low.
    """

    low: np.ndarray
    high: np.ndarray
    shift: int

    @property
    def period(self) -> int:
        """Units after which the pattern comes again."""
        return len(self.low)

    @property
    def stride(self) -> float:
        """Pixels from unit to unit, on average."""
        return self.shift / self.period

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last pixel of these units, of which there are endlessly many, before the first too."""
        turns, inside = np.divmod(places, self.period)
        return self.low[inside] + turns * self.shift, self.high[inside] + turns * self.shift

    def reading(self, places: np.ndarray, moved: int) -> _Axis:
        """The axis whose first units read these of here, (period, number); a period on, those ``moved`` further on."""
        low, high = self.at(places)
        return _Axis(low.min(1), high.max(1), self.shift * moved // self.period)

    def windows(self, stride: int, pad: int, kernel: int, dilation: int) -> _Axis:
        """The axis after windows that begin at ``p * stride - pad``."""
        period = self.period // math.gcd(self.period, stride)
        return self.reading(np.arange(period)[:, None] * stride - pad + np.arange(kernel) * dilation, period * stride)

    def spread(self, stride: int, pad: int, kernel: int, dilation: int) -> _Axis:
        """The axis after the transpose of those windows."""
        places = np.arange(self.period * stride)[:, None] + pad - np.arange(kernel) * dilation
        low, high = self.at(places // stride)
        reached = places % stride == 0
        return _Axis(np.where(reached, low, np.inf).min(1), np.where(reached, high, -np.inf).max(1), self.shift)

    def repeated(self, times: int) -> _Axis:
        """The axis after each unit stands so often."""
        return self.reading(np.arange(self.period * times)[:, None] // times, self.period)

    def interpolated(self, start: int, size: int, out: int) -> _Axis:
        """The axis after ``out`` places between the first and the last of ``size`` units, each read from two."""
        step = Fraction(size - 1, max(out - 1, 1))
        turns = self.period // math.gcd(self.period, step.numerator)
        exact = np.arange(step.denominator * turns) * step.numerator
        places = np.stack([exact // step.denominator, -(-exact // step.denominator)], 1)
        return self.reading(places + start, step.numerator * turns)

    def moved(self, by: int) -> _Axis:
        """The axis without its first units."""
        return self.reading(np.arange(self.period)[:, None] + by, self.period)

    def joined(self, other: _Axis) -> _Axis | None:
        """What units see by either way; ``None`` where the two go over the image at different speeds."""
        if self.shift * other.period != other.shift * self.period:
            return None
        period = math.lcm(self.period, other.period)
        (low, high), (low2, high2) = self.at(np.arange(period)), other.at(np.arange(period))
        return _Axis(np.minimum(low, low2), np.maximum(high, high2), self.shift * period // self.period)


_Field = tuple[_Axis, _Axis] | None  # None: all of the image


def receptive_fields(net: CompiledNet, input: str | None = None) -> Table[ReceptiveField]:  # noqa: A002  the net's word
    """The receptive field of every value that depends on an image: size, stride and offset in pixels, by value.

    Where several ways lead to a value, its field is the smallest that holds those of all. Convolution, Deconvolution,
    Pooling, Im2col, LocallyConnected, LRN, Upsample (as if the windows of its mask did not overlap), Interp, Crop, and
    what works place by place are followed; every other layer (InnerProduct, global pooling, Flatten, MVN, ...) counts
    as seeing all of the image. The statistics of a batch that BatchNorm takes in phase TRAIN are not counted.
    ``size' = size + (kernel - 1) dilation stride``, ``stride' = stride * layer's stride``.
    Source: Araujo, Norris and Sim 2019, Computing Receptive Fields of Convolutional Neural Networks, Distill.

    Args:
        input: the input with the image; by default the first of shape (N, C, H, W).

    Returns:
        A table by value, in the order of the net; prints as text.

    Raises:
        JaffeError: there is no such input.
    """
    one = _Axis(np.zeros(1), np.zeros(1), 1)
    found: dict[str, _Field] = {image_input(net, input): (one, one)}
    rows: dict[str, ReceptiveField] = {}
    for node in net.graph.nodes:
        seeing = [value for value in node.bottoms if value in found]
        for i, top in enumerate(node.tops if seeing else ()):
            shape = net.inferred.shapes[top]
            field = _after(net, node, i, found) if len(shape) == 4 else None
            found[top] = field
            rows[top] = ReceptiveField(node.name, node.type, shape, *_numbers(field))
    return Table(rows, ("value", "layer", "type", "shape", "size", "stride", "offset"), _cells)


def _after(net: CompiledNet, node: Node, top: int, found: dict[str, _Field]) -> _Field:
    """The field of a top of a layer."""
    layer = net.inferred.layers[node.name]
    read = {"Crop": node.bottoms[:1], "Interp": node.bottoms[:1]}.get(node.type, node.bottoms)
    if isinstance(layer, Convolution):
        read = node.bottoms[top : top + 1]
    field = _union([found[value] for value in read if value in found])
    shape, out = net.inferred.shapes[read[0]], net.inferred.shapes[node.tops[top]]
    if field is None or len(shape) != 4:
        return None
    if isinstance(layer, Convolution | Unfolding):
        if layer.axis(layer.p.axis, 4) != 1:
            return None
        geometry, kernel = layer.geometry(2), layer.kernel(2)
        before = [pad for pad, _ in geometry.pad]
        windows = list(zip(geometry.stride, before, kernel, geometry.dilation, strict=True))
        if isinstance(layer, Deconvolution):
            return _pair(axis.spread(*window) for axis, window in zip(field, windows, strict=True))
        return _pair(axis.windows(*window) for axis, window in zip(field, windows, strict=True))
    if isinstance(layer, Pooling) and not layer.p.global_pooling:
        pool = layer.geometry(shape)
        return _pair(axis.windows(stride, before, kernel, 1) for axis, stride, (before, _), kernel in
                     zip(field, pool.stride, pool.pad, pool.kernel, strict=True))
    if isinstance(layer, LRN) and layer.p.norm_region == LRNParameter.WITHIN_CHANNEL:
        return _pair(axis.windows(1, layer.p.local_size // 2, layer.p.local_size, 1) for axis in field)
    if isinstance(layer, Upsample):
        return _pair(axis.repeated(-(-o // n)) for axis, n, o in zip(field, shape[2:], out[2:], strict=True))
    if isinstance(layer, Interp):
        start, taken = -layer.p.pad_beg, layer.p.pad_beg + layer.p.pad_end
        sizes = zip(field, shape[2:], out[2:], strict=True)
        return _pair(axis.interpolated(start, size + taken, to) for axis, size, to in sizes)
    if isinstance(layer, Crop):
        starts = [0, 0, *layer._starts(4)][-2:]
        return _pair(axis.moved(start) for axis, start in zip(field, starts, strict=True))
    if node.type == "Softmax" and layer.axis(node.proto.softmax_param.axis, 4) != 1:
        return None
    return field if node.type in _POINTWISE and shape[2:] == out[2:] else None


def _pair(axes: Iterable[_Axis]) -> _Field:
    vertical, horizontal = axes
    return vertical, horizontal


def _union(fields: Sequence[_Field]) -> _Field:
    """What a unit sees that reads all of these at one place."""
    first, *rest = fields
    for other in rest:
        if first is None or other is None:
            return None
        joined = [axis.joined(theirs) for axis, theirs in zip(first, other, strict=True)]
        vertical, horizontal = joined
        first = None if vertical is None or horizontal is None else (vertical, horizontal)
    return first


def _numbers(
    field: _Field,
) -> tuple[tuple[int, int] | None, tuple[float, float] | None, tuple[float, float] | None]:
    """Size, stride and offset."""
    if field is None:
        return None, None, None
    sizes = [int(max(np.max(axis.high - axis.low) + 1, 0)) for axis in field]
    offsets = []
    for axis in field:
        first = int(np.argmax(np.isfinite(axis.low)))  # the first that sees anything
        offsets.append(float(axis.low[first] + axis.high[first]) / 2)
    return (sizes[0], sizes[1]), (field[0].stride, field[1].stride), (offsets[0], offsets[1])


def _cells(value: str, row: ReceptiveField) -> list[str]:
    pairs = [row.size, row.stride, row.offset]
    shown = ["all" if i == 0 and pair is None else "" if pair is None else
             " x ".join(f"{one:g}" for one in dict.fromkeys(pair)) for i, pair in enumerate(pairs)]
    return [value, row.layer, row.type, "x".join(map(str, row.shape)) or "scalar", *shown]
