"""The ways to compute a convolution and its two gradients, by name, and what each costs in work.

Adding one is a function of the logical arrays and an entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from jaffe.compile.lowering import conv_patches, conv_plain, depthwise, fourier, onednn, strided, winograd
from jaffe.compile.lowering.geometry import ConvGeometry

Pass = Literal["forward", "input", "weight"]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """One pass of one convolution: all that a choice depends on.

    Attributes:
        which: the pass: the output, or the gradient by input or weight.
        x: (N, C, spatial...), the convolution's input.
        weight: (O, C / group, kernel...).
        dtype: name of the dtype, such as ``"float32"``.
    """

    which: Pass
    x: tuple[int, ...]
    weight: tuple[int, ...]
    geometry: ConvGeometry
    dtype: str = "float32"

    @cached_property
    def out(self) -> tuple[int, ...]:
        """(N, O, out...)."""
        return (self.x[0], self.weight[0], *self.geometry.outs(self.x[2:], self.weight[2:]))

    @property
    def key(self) -> str:
        """A text that stands for it in files."""
        g = self.geometry
        parts = (self.which, self.x, self.weight, g.stride, g.pad, g.dilation, g.group, self.dtype)
        return " ".join(str(part).replace(" ", "") for part in parts)

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def cells(self) -> int:
        """Output cells, over the batch."""
        return self.out[0] * math.prod(self.out[2:])

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def products(self) -> float:
        """Floating point operations of the direct way."""
        return 2.0 * self.cells * math.prod(self.weight)

    @property
    def patches(self) -> int:
        """Floats in the patches of all taps."""
        return self.cells * math.prod(self.weight[1:]) * self.geometry.group

    def tiles(self, m: int) -> int:
        """Tiles of m output cells an axis, over the batch."""
        return self.out[0] * math.prod(-(-size // m) for size in self.out[2:])

    @property
    def dense(self) -> bool:
        """Stride and dilation 1."""
        return set(self.geometry.stride) | set(self.geometry.dilation) == {1}

    def swapped(self) -> Problem:
        """Of an input gradient of stride 1: the convolution of the output's gradient that it is."""
        turned = (self.weight[1] * self.geometry.group, self.weight[0] // self.geometry.group, *self.kernel)
        return Problem("forward", self.out, turned, self.geometry.turned(self.kernel), self.dtype)


class Work(NamedTuple):
    """What a way has to do, as the cost model sees it.

    Attributes:
        products: floating point operations inside matrix products or XLA's convolution.
        operands: floats that those read and write.
        moved: floats read and written beside them: patches, tiles, sums.
    """

    products: float
    operands: float
    moved: float


@dataclass(frozen=True)
class Candidate:
    """One way.

    Attributes:
        function: forward ``(x, weight, geometry)``, input ``(gradient, weight, geometry, spatial)``, weight
            ``(x, gradient, geometry, kernel)``.
        fits: whether it can compute a problem.
        work: what it does for one.
    """

    function: Function
    fits: Callable[[Problem], bool]
    work: Callable[[Problem], Work]


def _sizes(p: Problem) -> tuple[float, float, float]:
    return math.prod(p.x), math.prod(p.weight), math.prod(p.out)


# XLA:CPU computes grouped convolutions in scalar loops: depthwise ones at 0.4 operations a nanosecond, others at 100.
GROUPED = 200
MOST_ONEHOT = 100  # values of a patch, as many operations each


def _direct(p: Problem) -> Work:
    return Work(p.products, sum(_sizes(p)), 0)


def _reordered(p: Problem) -> Work:
    """oneDNN brings a convolution's weight into an order of its own at every call."""
    return _direct(p)._replace(moved=math.prod(p.weight))


def _direct_by_xla(p: Problem) -> Work:
    return Work(p.products * (GROUPED if p.geometry.group > 1 else 1), sum(_sizes(p)), 0)


def _patches(fraction: Callable[[Problem], float], partial_sums: Callable[[Problem], int]) -> Callable[[Problem], Work]:
    """``fraction`` of all taps' patches are written and read; so many partial results are added up."""

    def work(p: Problem) -> Work:
        x, weight, out = _sizes(p)
        sums = partial_sums(p)
        return Work(p.products, p.patches + weight + sums * out,
                    (2 * p.patches * fraction(p) + x) * (p.taps > 1) + 3 * (sums - 1) * out)

    return work


_im2col = _patches(lambda p: 1, lambda p: 1)
_rows = _patches(lambda p: 1 / math.prod(p.kernel[:-1]), lambda p: math.prod(p.kernel[:-1]))
_shifted = _patches(lambda p: 0, lambda p: p.taps)


def _spread(p: Problem) -> Work:
    x, weight, out = _sizes(p)
    return Work(p.products, p.patches + weight + out, 2 * p.patches + x)


def _winograd(m: int) -> Callable[[Problem], Work]:
    def work(p: Problem) -> Work:
        x, _, out = _sizes(p)
        tiles, points = p.tiles(m), (m + 2) ** 2
        inputs, outputs, taps = points * tiles * p.x[1], points * tiles * p.out[1], points * p.x[1] * p.out[1]
        operands = inputs + outputs + taps
        return Work(2.0 * points * tiles * p.x[1] * p.out[1], operands, operands + x + out)

    return work


def _depthwise(p: Problem) -> Work:
    x, _, out = _sizes(p)
    return Work(0, 0, x + out * p.taps)


def _fourier(p: Problem) -> Work:
    area = math.prod(size + sum(pad) for size, pad in zip(p.x[2:], p.geometry.pad, strict=True))
    planes = p.x[0] * p.x[1] + p.weight[0] * p.weight[1] + p.out[0] * p.out[1]
    return Work(4.0 * area * p.out[0] * p.x[1] * p.out[1], area * planes, area * planes * math.log2(area + 1))


def _blocks_inner(p: Problem) -> Problem:
    """The problem of stride 1 that space to depth makes."""
    stride = math.prod(p.geometry.stride)
    counts = strided.block_counts(p.kernel, p.geometry)
    sizes = tuple(o + n - 1 for o, n in zip(p.out[2:], counts, strict=True))
    return Problem(p.which, (p.x[0], p.x[1] * stride, *sizes), (p.weight[0], p.weight[1] * stride, *counts),
                   strided.inner_geometry(p.geometry), p.dtype)


def _spread_out(p: Problem) -> Work:
    """Of an output's gradient with zeros between its cells, which are multiplied too."""
    x, weight, out = _sizes(p)
    spread = out * math.prod(p.geometry.stride)
    added = 2 * spread if spread > out else 0
    return Work(2.0 * x * p.taps * p.weight[0] / p.geometry.group, x + weight + spread, added)


def _direct_weight(p: Problem) -> Work:
    """oneDNN computes as much for few channels as for a block of them."""
    channels = p.x[1] if p.geometry.group == 1 else onednn.BLOCK
    return _direct(p)._replace(products=p.products * max(1.0, onednn.BLOCK / channels))


def _onehot(p: Problem) -> Work:
    x, weight, out = _sizes(p)
    return Work(p.products + 2.0 * p.patches * p.x[1] * p.taps, x + weight + out + 2 * p.patches, 0)


def _through_blocks(work: Callable[[Problem], Work]) -> Callable[[Problem], Work]:
    def whole(p: Problem) -> Work:
        found = work(_blocks_inner(p))
        return found._replace(moved=found.moved + 2 * math.prod(p.x))

    return whole


def _one_group(p: Problem) -> bool:
    return p.geometry.group == 1 and p.geometry.spatial > 0


def _several_taps(p: Problem) -> bool:
    return _one_group(p) and p.taps > 1


def _many_rows(p: Problem) -> bool:
    return _one_group(p) and math.prod(p.kernel[:-1]) > 1


def _by_winograd(p: Problem) -> bool:
    return _one_group(p) and p.kernel == (3, 3) and p.dense and min(p.x[1], p.out[1]) >= 8


def _by_blocks(p: Problem) -> bool:
    stride = p.geometry.stride
    return (_several_taps(p) and set(p.geometry.dilation) == {1} and min(stride) > 1
            and all(k >= s for k, s in zip(p.kernel, stride, strict=True)))


def _each_channel(p: Problem) -> bool:
    return p.geometry.group == p.x[1] and p.geometry.spatial > 0 and p.geometry.group > 1


def _large_kernel(p: Problem) -> bool:
    return _one_group(p) and p.dense and p.taps >= 49


def _xla(p: Problem) -> bool:
    """Not where XLA:CPU of JAX 0.10.2 ends the process while it compiles a plain convolution ("Window dimensions do not
    match RHS shape", in its algebraic simplifier): some weight gradients of one image of one channel, as x
    (1, 1, 10, 5), weight (4, 1, 2, 4), stride (2, 3), and for small maps input gradients with an axis of kernel and
    stride 2 and padding, as x (2, 4, 6, 10), weight (3, 4, 4, 2), stride (2, 2), pad (1, 1)."""
    if p.which == "weight":
        return p.geometry.spatial > 0 and p.x[0] * p.weight[1] > 1
    g = p.geometry
    axes = zip(p.kernel, g.stride, g.pad, g.dilation, strict=True)
    return g.spatial > 0 and not (p.which == "input" and any(k == s == 2 and d == 1 and any(b) for k, s, b, d in axes))


def _calls_onednn(p: Problem) -> bool:
    return p.dtype == "float32" and onednn.available()


def _onednn(p: Problem) -> bool:
    return 0 < p.geometry.spatial <= onednn.MOST_AXES and _calls_onednn(p)


def _onednn_product(p: Problem) -> bool:
    return _one_group(p) and _calls_onednn(p)


def _few_values(p: Problem) -> bool:
    return _several_taps(p) and _onednn(p) and p.x[1] * p.taps <= MOST_ONEHOT


def _onednn_weight(p: Problem) -> bool:
    """Of one group, the channels are one more axis."""
    return _onednn(p) and (_each_channel(p) or (_one_group(p) and p.geometry.spatial < onednn.MOST_AXES))


class _Way(NamedTuple):
    """Of one name: the forward pass, the weight's gradient, and what both fit and cost."""

    forward: Function
    weight: Function
    fits: Callable[[Problem], bool]
    work: Callable[[Problem], Work]


# XLA's own comes first: it is the reference, and what an unknown problem gets.
_WAYS: dict[str, _Way] = {
    "xla": _Way(conv_plain.last, conv_plain.weight_gradient, _xla, _direct_by_xla),
    "im2col": _Way(conv_patches.im2col, conv_patches.im2col_weight, _several_taps, _im2col),
    "rows": _Way(conv_patches.rows, conv_patches.rows_weight, _many_rows, _rows),
    "shifted": _Way(conv_patches.shifted, conv_patches.shifted_weight, _one_group, _shifted),
    **{
        f"winograd{m}": _Way(partial(winograd.forward, m=m), partial(winograd.weight_gradient, m=m), _by_winograd,
                             _winograd(m))
        for m in winograd.POINTS
    },
    "depthwise": _Way(depthwise.forward, depthwise.weight_gradient, _each_channel, _depthwise),
    "fourier": _Way(fourier.forward, fourier.weight_gradient, _large_kernel, _fourier),
}
_WAYS |= {
    f"blocks+{name}": _Way(partial(strided.forward, inner=_WAYS[name].forward),
                           partial(strided.weight_gradient, inner=_WAYS[name].weight), _by_blocks,
                           _through_blocks(_WAYS[name].work))
    for name in ("xla", "im2col", "rows")
}


def _turned(way: _Way) -> Candidate:
    """The input's gradient as a forward pass of the output's gradient with the turned kernel. Stride 1."""

    def gradient(back: Any, weight: Any, geometry: ConvGeometry, spatial: Any) -> Any:
        return way.forward(back, conv_plain.turned(weight), geometry.turned(weight.shape[2:]))

    return Candidate(
        gradient,
        lambda p: set(p.geometry.stride) == {1} and way.fits(p.swapped()),
        lambda p: way.work(p.swapped()),
    )


_INPUT: dict[str, Candidate] = {
    "xla": Candidate(conv_plain.input_gradient, _xla, _direct_by_xla),
    "spread": Candidate(conv_patches.spread, _one_group, _spread),
    "depthwise": Candidate(depthwise.input_gradient, _each_channel, _depthwise),
    **{name: _turned(_WAYS[name]) for name in ("im2col", "rows", "shifted", "winograd2", "winograd4", "fourier")},
    "onednn": Candidate(onednn.input_gradient, _onednn, _spread_out),
    "blocks+onednn": Candidate(
        partial(strided.input_gradient, inner=onednn.input_gradient), lambda p: _by_blocks(p) and _onednn(p),
        _through_blocks(_direct)),
    "onednn+spread": Candidate(partial(conv_patches.spread, product=onednn.product), _onednn_product, _spread),
}
_FORWARD = {name: Candidate(way.forward, way.fits, way.work) for name, way in _WAYS.items()} | {
    "onednn": Candidate(onednn.forward, _onednn, _reordered),
    "onednn+im2col": Candidate(
        partial(conv_patches.im2col, product=partial(onednn.product, transposed=(False, True))), _onednn_product,
        _im2col),
}
_onednn_over_rows = partial(onednn.product, transposed=(True, False))
_WEIGHT = {name: Candidate(way.weight, way.fits, way.work) for name, way in _WAYS.items()} | {
    "onednn": Candidate(onednn.weight_gradient, _onednn_weight, _direct_weight),
    "blocks+onednn": Candidate(
        partial(strided.weight_gradient, inner=onednn.weight_gradient), lambda p: _by_blocks(p) and _onednn_weight(p),
        _through_blocks(_direct_weight)),
    "onednn+im2col": Candidate(
        partial(conv_patches.im2col_weight, product=_onednn_over_rows), _onednn_product, _im2col),
    "onednn+onehot": Candidate(
        partial(conv_patches.onehot_weight, convolution=onednn.forward, product=_onednn_over_rows), _few_values,
        _onehot),
}


def _also_by_images(which: Pass, candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Those that make patches, also for some images at a time."""
    return {**candidates, **{
        f"{name}/images": Candidate(
            partial(_by_images, which, one.function), partial(_worth_by_images, one.fits), one.work)
        for name, one in candidates.items() if name.endswith(("im2col", "rows", "spread"))
    }}


def _worth_by_images(fits: Callable[[Problem], bool], p: Problem) -> bool:
    return fits(p) and conv_patches.images_at_once(p.x[0], p.patches) < p.x[0]


def _by_images(which: Pass, function: Function, first: Any, second: Any, geometry: ConvGeometry, *rest: Any) -> Any:
    batch = first.shape[0]
    if which == "forward":
        whole = Problem(which, first.shape, second.shape, geometry)
    elif which == "input":
        whole = Problem(which, (batch, second.shape[1], *rest[0]), second.shape, geometry)
    else:
        whole = Problem(which, first.shape, (second.shape[1], first.shape[1], *rest[0]), geometry)
    cut = conv_patches.weight_by_images if which == "weight" else conv_patches.by_images
    return cut(function, conv_patches.images_at_once(batch, whole.patches))(first, second, geometry, *rest)


CANDIDATES: dict[Pass, dict[str, Candidate]] = {
    "forward": _also_by_images("forward", _FORWARD),
    "input": _also_by_images("input", _INPUT),
    "weight": _also_by_images("weight", _WEIGHT),
}


def fitting(problem: Problem) -> dict[str, Candidate]:
    """The candidates for a problem, XLA's own first."""
    return {name: one for name, one in CANDIDATES[problem.which].items() if one.fits(problem)}


def shared_bytes(problem: Problem, name: str) -> int:
    """The size of what a forward pass of this way makes of the input that the weight gradient of the same way can use:
    patches of all taps, or of a row, or tiles; 0 where there is nothing, or it is made for some images at a time."""
    itemsize = 8 if problem.dtype == "float64" else 4
    inner = _blocks_inner(problem) if name.startswith("blocks+") else problem
    if name.endswith("im2col"):
        return itemsize * inner.patches
    if name.endswith("rows"):
        return itemsize * inner.patches // math.prod(inner.kernel[:-1])
    if name.startswith("winograd"):
        m = int(name.removeprefix("winograd"))
        return itemsize * (m + 2) ** 2 * problem.tiles(m) * problem.x[1]
    return 0
