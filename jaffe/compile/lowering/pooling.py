"""Pooling with Caffe's geometry: ceil rounding, windows clipped at the border, padding in the divisor."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory
from jaffe.compile.lowering.unfold import Pads, unfold


class Stretch(NamedTuple):
    """Neighbouring outputs along an axis, ``size`` of them, the first of which is output ``out``.

    Attributes:
        cells: those of their windows that are inside the image.
        begin: where the first window begins, counted from the image's first cell.
        stride: from window to window.
    """

    out: int
    size: int
    cells: range
    begin: int
    stride: int

    def seen(self, cell: int) -> tuple[int, int, int]:
        """What all windows see in a cell of theirs: start, stop and step in the image."""
        start = self.begin + cell
        return start, start + (self.size - 1) * self.stride + 1, self.stride


@dataclass(frozen=True)
class PoolGeometry:
    """Per spatial axis: kernel, stride, and padding before and after; and whether sizes round up (Caffe) or down."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: Pads
    ceil: bool = True

    def out(self, size: int, axis: int) -> int:
        """Output size for an input size: ``round((size + before + after - kernel) / stride) + 1``.

        With padding on any axis, the last window must start inside the image or the padding before it, else it is
        dropped.
        """
        k, s, (before, after) = self.kernel[axis], self.stride[axis], self.pad[axis]
        steps = (size + before + after - k) / s
        out = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
        if any(map(any, self.pad)) and (out - 1) * s >= size + before:
            out -= 1
        return out

    def outs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The output sizes of all axes."""
        return tuple(self.out(size, axis) for axis, size in enumerate(spatial))

    def along(self, axis: int) -> PoolGeometry:
        """The windows' extent along one axis only."""
        n = len(self.kernel)
        kernel, stride, pad = [1] * n, [1] * n, [(0, 0)] * n
        kernel[axis], stride[axis], pad[axis] = self.kernel[axis], self.stride[axis], self.pad[axis]
        return PoolGeometry(tuple(kernel), tuple(stride), tuple(pad), self.ceil)

    def padding(self, size: int, axis: int) -> tuple[int, int]:
        """Zero or more cells before and after the axis that make XLA's windows the ones of ``out``."""
        k, s, (before, _) = self.kernel[axis], self.stride[axis], self.pad[axis]
        return before, max((self.out(size, axis) - 1) * s + k - size - before, 0)

    def stretches(self, size: int, axis: int) -> list[Stretch]:
        """The outputs along an axis, cut where windows see other cells of theirs than the window before."""
        k, s, (before, _) = self.kernel[axis], self.stride[axis], self.pad[axis]
        begins = [out * s - before for out in range(self.out(size, axis))]
        inside = [range(max(-begin, 0), max(min(k, size - begin), 0)) for begin in begins]
        firsts = [out for out in range(len(begins)) if not out or inside[out] != inside[out - 1]]
        return [Stretch(one, after - one, inside[one], begins[one], s)
                for one, after in itertools.pairwise([*firsts, len(begins)])]

    def divisors(self, size: int, axis: int) -> np.ndarray:
        """Window lengths that averages divide by: clipped at ``size + after``, not at the image."""
        before, after = self.pad[axis]
        start = np.arange(self.out(size, axis)) * self.stride[axis] - before
        return np.minimum(start + self.kernel[axis], size + after) - start


Cut = tuple[slice, ...]
Cells = dict[tuple[int, ...], jax.Array]

MOST_TAPS = 16  # what takes more slices is left to XLA: their programs grow with the window
MOST_REGIONS = 9  # as of windows of 3 by 3 that hang over on all sides


@compiled("geometry", "lowering")
def max_pool(x: jax.Array, geometry: PoolGeometry, lowering: Lowering) -> jax.Array:
    """Largest value of each window; the gradient goes to the first of equal maxima, in row-major order.

    x: (N, C, spatial...). A NaN in a window makes its output NaN; a window with no cell at all gives -inf.
    """
    if pooling_way(geometry, lowering) != "slices":
        return _reduce(x, -jnp.inf, lax.max, geometry)
    return channels_first(_max_by_slices(channels_last(x), geometry))


def average_pool(x: jax.Array, geometry: PoolGeometry, lowering: Lowering) -> jax.Array:
    """Mean of each window, padding counted in the divisor but not what hangs over beyond it.

    x: (N, C, spatial...). A window with no cell at all (stride > kernel at the border) gives 0.
    """
    lengths = [geometry.divisors(size, axis) for axis, size in enumerate(x.shape[2:])]
    divisor = np.maximum(functools.reduce(np.multiply.outer, lengths), 1)
    return sum_pool(x, geometry, lowering) / jnp.asarray(divisor, x.dtype)


@compiled("geometry", "lowering")
def sum_pool(x: jax.Array, geometry: PoolGeometry, lowering: Lowering) -> jax.Array:
    """Sum of each window, 0 outside. x: (N, C, spatial...)."""
    if geometry.kernel == x.shape[2:] and not any(map(any, geometry.pad)):
        return x.sum(tuple(range(2, x.ndim)), keepdims=True)
    if pooling_way(geometry, lowering, sums=True) != "slices":
        return _reduce(x, 0.0, lax.add, geometry)
    return channels_first(sum_by_slices(channels_last(x), geometry))


def pooling_way(geometry: PoolGeometry, lowering: Lowering, *, sums: bool = False) -> str:
    """``"plain"`` and ``"xla"``: XLA's own windows, as declared or by choice; ``"slices"``: slices combined, of sums
    axis by axis."""
    if lowering.plain:
        return "plain"
    taps = sum(geometry.kernel) if sums else math.prod(geometry.kernel)
    return "slices" if lowering.on_cpu and taps <= MOST_TAPS else "xla"


# What XLA:CPU makes of reduce_window is a scalar loop a window, of its gradient a scatter. Here slices of the blob,
# one for each cell of the window, are combined in vectors over the channels. The gradient is put together by the
# remainders of places by the stride: all cells of one remainder see the same cells of their windows.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_by_slices(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """(N, spatial..., C) -> (N, out..., C)."""
    stretches = _stretches(x, geometry)
    if math.prod(map(len, stretches)) > MOST_REGIONS:
        x, stretches = _surrounded(x, geometry)
    return _by_region(x, stretches, -np.inf, _largest)


def _surrounded(x: jax.Array, geometry: PoolGeometry) -> tuple[jax.Array, list[list[Stretch]]]:
    """A copy with -inf around it, of which all windows are alike: one stretch an axis."""
    config = [(*geometry.padding(size, axis), 0) for axis, size in enumerate(x.shape[1:-1])]
    outs = zip(geometry.outs(x.shape[1:-1]), geometry.kernel, geometry.stride, strict=True)
    return (lax.pad(x, np.array(-np.inf, x.dtype), [(0, 0, 0), *config, (0, 0, 0)]),
            [[Stretch(0, out, range(k), 0, s)] for out, k, s in outs])


def _largest(outs: Cut, cells: Cells) -> jax.Array:
    return functools.reduce(jnp.maximum, cells.values())


def _max_forward(x: jax.Array, geometry: PoolGeometry) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # With several regions training was not faster, and took half as long again to compile.
    sizes = x.shape[1:-1]
    x, one = _surrounded(x, geometry)
    best = in_memory(_by_region(x, one, -np.inf, _largest))

    def first(outs: Cut, cells: Cells) -> jax.Array:
        most = best[outs]
        *others, last = cells
        found = jnp.full(most.shape, numbers[last], jnp.int32)
        for at in reversed(others):
            found = jnp.where(cells[at] < most, found, numbers[at])  # where there is a NaN, the first cell
        return found

    numbers = _numbers(geometry)
    places = in_memory(_by_region(x, one, 0, first).astype(jnp.uint8))
    return best, (places, jnp.zeros((0, *sizes)))


def _numbers(geometry: PoolGeometry) -> dict[tuple[int, ...], int]:
    """Of the cells of a window, in row-major order."""
    return {at: i for i, at in enumerate(np.ndindex(*geometry.kernel))}


def _max_backward(
    geometry: PoolGeometry, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    first, sizes = kept
    numbers = _numbers(geometry)
    zero = jnp.zeros((), gradient.dtype)

    def share(at: tuple[int, ...], place: jax.Array, back: jax.Array) -> jax.Array:
        return jnp.where(place == numbers[at], back, zero)

    return (_gather(geometry, sizes.shape[1:], (first, gradient), share),)


_max_by_slices.defvjp(_max_forward, _max_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def sum_by_slices(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """(N, spatial..., C) -> (N, out..., C), axis by axis."""
    for axis, along in enumerate(_stretches(x, geometry)):
        whole = [[Stretch(0, size, range(1), 0, 1)] for size in x.shape[1:-1]]
        whole[axis] = along
        x = _by_region(x, whole, 0, lambda outs, cells: functools.reduce(jnp.add, cells.values()))
    return x


def _sum_forward(x: jax.Array, geometry: PoolGeometry) -> tuple[jax.Array, jax.Array]:
    return sum_by_slices(x, geometry), jnp.zeros((0, *x.shape[1:-1]))


def _sum_backward(geometry: PoolGeometry, sizes: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Axis by axis."""
    for axis, size in enumerate(sizes.shape[1:]):
        outs = [*gradient.shape[1:-1]]
        outs[axis] = size
        gradient = _gather(geometry.along(axis), outs, (gradient,), lambda at, back: back)
    return (gradient,)


sum_by_slices.defvjp(_sum_forward, _sum_backward)


def _stretches(x: jax.Array, geometry: PoolGeometry) -> list[list[Stretch]]:
    """Of each axis. x: (N, spatial..., C)."""
    return [geometry.stretches(size, axis) for axis, size in enumerate(x.shape[1:-1])]


def _by_region(
    x: jax.Array, stretches: Sequence[Sequence[Stretch]], empty: float, combine: Callable[[Cut, Cells], jax.Array]
) -> jax.Array:
    """(N, spatial..., C) -> (N, out..., C): what ``combine`` makes of each region of windows that see the same cells of
    theirs, without a padded copy of the blob.

    ``combine`` gets the region's place among the outputs and, by their places in the window, in row-major order, what
    all its windows see in those cells. Windows without any cell are ``empty``.
    """
    x = in_memory(x)

    def region(chosen: Sequence[Stretch]) -> jax.Array:
        cells = {}
        for at in itertools.product(*(one.cells for one in chosen)):
            starts, stops, steps = zip(*(one.seen(cell) for one, cell in zip(chosen, at, strict=True)), strict=True)
            cells[at] = lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *steps, 1))
        if not cells:
            return jnp.full((x.shape[0], *(one.size for one in chosen), x.shape[-1]), empty, x.dtype)
        return combine((slice(None), *(slice(one.out, one.out + one.size) for one in chosen)), cells)

    def joined(*chosen: Stretch) -> jax.Array:
        axis = len(chosen)
        if axis == len(stretches):
            return region(chosen)
        parts = [joined(*chosen, one) for one in stretches[axis]]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis + 1)

    return joined()


def _gather(
    geometry: PoolGeometry, sizes: Sequence[int], windows: Sequence[jax.Array], share: Callable[..., jax.Array]
) -> jax.Array:
    """The input's gradient: for every cell the sum of its shares of the windows that see it.

    ``share(at, *windows)`` is what windows give to their cell ``at``, from arrays over windows, (N, out..., C).
    """
    spatial = len(sizes)
    befores = [before for before, _ in geometry.pad]
    wholes = [before + size for before, size in zip(befores, sizes, strict=True)]
    counts = [-(-whole // s) for whole, s in zip(wholes, geometry.stride, strict=True)]
    reach = [-(-k // s) for k, s in zip(geometry.kernel, geometry.stride, strict=True)]
    padded = [_padded(one, reach, counts) for one in windows]
    phases = []
    for phase in np.ndindex(*geometry.stride):
        total: jax.Array | None = None
        for steps in np.ndindex(*reach):
            at = tuple(r + t * s for r, t, s in zip(phase, steps, geometry.stride, strict=True))
            if any(a >= k for a, k in zip(at, geometry.kernel, strict=True)):
                continue
            starts = [r - 1 - t for r, t in zip(reach, steps, strict=True)]  # cell q is cell ``steps`` of window q - t
            cut = (slice(None), *(slice(start, start + n) for start, n in zip(starts, counts, strict=True)))
            term = share(at, *(one[cut] for one in padded))
            total = term if total is None else total + term
        phases.append(total)
    like = next(one for one in phases if one is not None)
    cells = jnp.stack([jnp.zeros_like(like) if one is None else one for one in phases])
    cells = cells.reshape(*geometry.stride, *like.shape)  # (stride..., N, count..., C)
    order = [spatial, *(axis for i in range(spatial) for axis in (spatial + 1 + i, i)), 2 * spatial + 1]
    whole = cells.transpose(order).reshape(
        like.shape[0], *(n * s for n, s in zip(counts, geometry.stride, strict=True)), like.shape[-1]
    )
    return whole[(slice(None), *(slice(b, w) for b, w in zip(befores, wholes, strict=True)))]


def _padded(over_windows: jax.Array, reach: Sequence[int], counts: Sequence[int]) -> jax.Array:
    """With ``reach - 1`` cells more before each axis and up to ``reach - 1 + counts`` in all: 0 or, of places, 255."""
    config = [(r - 1, n - size, 0) for r, n, size in zip(reach, counts, over_windows.shape[1:-1], strict=True)]
    fill = np.array(255 if over_windows.dtype == jnp.uint8 else 0, over_windows.dtype)
    return in_memory(lax.pad(over_windows, fill, [(0, 0, 0), *config, (0, 0, 0)]))


def max_places(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Where each window's largest value stands in its channel, counted row by row (``h * W + w``), as float32 or wider.

    x: (N, C, spatial...). The first of equal ones; -1 where there is none; the first NaN where there is one. Has no
    gradient.
    """
    x = lax.stop_gradient(x)
    count = math.prod(x.shape[2:])
    places = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32).reshape(x.shape[2:]), x.shape)

    def larger(one: Any, other: Any) -> Any:
        (a, i), (b, j) = one, other
        equal = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        first = jnp.where(equal, i < j, jnp.isnan(a) | (a > b))  # NaN above all
        return jnp.where(first, a, b), jnp.where(first, i, j)

    start = (np.array(-np.inf, x.dtype)[()], np.int32(-1))
    _, found = lax.reduce_window((x, places), start, larger, *_window(x, geometry))
    return found.astype(jnp.promote_types(x.dtype, jnp.float32))


def windows(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Every window's values in row-major order, 0 outside the image: (cells of a window, N, C, out...)."""
    spatial = len(geometry.kernel)
    values = unfold(x, geometry.kernel, geometry.stride, (1,) * spatial, _window(x, geometry)[2][2:])
    first = jnp.moveaxis(values, range(2, 2 + spatial), range(spatial))
    return first.reshape(-1, *first.shape[spatial:])


def stochastic_pool(x: jax.Array, geometry: PoolGeometry, key: jax.Array | None) -> jax.Array:
    """Stochastic pooling (Zeiler and Fergus 2013) of non-negative x, (N, C, spatial...).

    With a key: each window's value is drawn with probability proportional to it. Without (TEST): the mean
    weighted by those probabilities, ``sum x^2 / sum x``, 0 where the sum is not positive.
    """
    values = windows(x, geometry)
    sums = jnp.cumsum(values, 0)
    total = sums[-1]
    if key is None:
        safe = jnp.where(total > 0, total, 1)
        return jnp.where(total > 0, (values * values).sum(0) / safe, 0)
    threshold = (1 - jax.random.uniform(key, total.shape, x.dtype)) * total  # in (0, total]
    chosen = jnp.argmax(lax.stop_gradient(sums >= threshold), 0)
    return jnp.take_along_axis(values, chosen[None], 0)[0]


def _reduce(x: jax.Array, init: float, op: Any, geometry: PoolGeometry) -> jax.Array:
    # A NumPy scalar: under jit a JAX one would hide from JAX's rules which reduction this is.
    return lax.reduce_window(x, np.array(init, x.dtype)[()], op, *_window(x, geometry))


def _window(x: jax.Array, geometry: PoolGeometry) -> tuple[Sequence[int], Sequence[int], list[tuple[int, int]]]:
    """Window, strides and padding on all axes."""
    pads = [geometry.padding(size, axis) for axis, size in enumerate(x.shape[2:])]
    return (1, 1, *geometry.kernel), (1, 1, *geometry.stride), [(0, 0), (0, 0), *pads]
