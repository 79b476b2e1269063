"""Where the windows of a convolution lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaffe.compile.lowering.unfold import Pads


@dataclass(frozen=True)
class ConvGeometry:
    """Per spatial axis: stride, zero padding before and after, and dilation; and the number of groups."""

    stride: tuple[int, ...]
    pad: Pads
    dilation: tuple[int, ...]
    group: int = 1

    @property
    def spatial(self) -> int:
        """How many spatial axes."""
        return len(self.stride)

    def outs(self, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The output sizes for these input sizes."""
        axes = zip(spatial, kernel, self.stride, self.pad, self.dilation, strict=True)
        return tuple(out_size(*axis) for axis in axes)

    def transposed_outs(self, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The output sizes of the transpose, deconvolution, for these input sizes."""
        axes = zip(spatial, kernel, self.stride, self.pad, self.dilation, strict=True)
        return tuple(transposed_size(*axis) for axis in axes)

    def reach(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """How far a window's last cell lies from its first: ``dilation (kernel - 1)``."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True))

    def one_group(self) -> ConvGeometry:
        """The geometry of a single group."""
        return replace(self, group=1)

    def beyond(self, kernel: Sequence[int]) -> Pads:
        """The padding that only windows of nothing but zeros see: what exceeds ``reach``."""
        pads = zip(self.reach(kernel), self.pad, strict=True)
        return tuple((max(before - r, 0), max(after - r, 0)) for r, (before, after) in pads)

    def within(self, kernel: Sequence[int]) -> ConvGeometry:
        """Without the padding ``beyond``."""
        pads = zip(self.pad, self.beyond(kernel), strict=True)
        return replace(self, pad=tuple((before - b, after - a) for (before, after), (b, a) in pads))

    def turned(self, kernel: Sequence[int]) -> ConvGeometry:
        """That of the convolution that gives the input's gradient of the output's, spread out by the stride. Pads may
        be negative."""
        pads = zip(self.reach(kernel), self.pad, strict=True)
        return replace(self, pad=tuple((r - before, r - after) for r, (before, after) in pads))


def out_size(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Caffe's floor formula, with padding before and after; may be zero or negative where the kernel does not fit."""
    return (size + sum(pad) - (dilation * (kernel - 1) + 1)) // stride + 1


def transposed_size(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Output size of deconvolution; may be zero or negative where the padding takes everything away."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - sum(pad)


def flops(weight: Sequence[int], out: Sequence[int]) -> int:
    """Two operations a multiply-add. ``out``: the whole output shape, (N, O, out...)."""
    return 2 * math.prod(out) * math.prod(weight[1:])
