"""Pooling with Caffe's geometry: ceil rounding, windows clipped at the border, padding in the divisor."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory
from jaffe.compile.lowering.unfold import Pads, unfold


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

    def divisors(self, size: int, axis: int) -> np.ndarray:
        """Window lengths that averages divide by: clipped at ``size + after``, not at the image."""
        before, after = self.pad[axis]
        start = np.arange(self.out(size, axis)) * self.stride[axis] - before
        return np.minimum(start + self.kernel[axis], size + after) - start


MOST_TAPS = 16  # what takes more slices is left to XLA: their programs grow with the window


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
    return channels_first(_sum_by_slices(channels_last(x), geometry))


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
    return functools.reduce(jnp.maximum, _slices(x, geometry, -np.inf))


def _max_forward(x: jax.Array, geometry: PoolGeometry) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    slices = _slices(x, geometry, -np.inf)
    best = in_memory(functools.reduce(jnp.maximum, slices))
    first = jnp.full(best.shape, len(slices) - 1, jnp.int32)
    for i in reversed(range(len(slices) - 1)):
        first = jnp.where(slices[i] < best, first, i)  # where there is a NaN, the first cell
    first = in_memory(first.astype(jnp.uint8))
    return best, (first, jnp.zeros((0, *x.shape[1:-1])))  # the second tells the sizes


def _max_backward(
    geometry: PoolGeometry, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    first, sizes = kept
    numbers = {at: i for i, at in enumerate(np.ndindex(*geometry.kernel))}
    zero = jnp.zeros((), gradient.dtype)

    def share(at: tuple[int, ...], place: jax.Array, back: jax.Array) -> jax.Array:
        return jnp.where(place == numbers[at], back, zero)

    return (_gather(geometry, sizes.shape[1:], (first, gradient), share),)


_max_by_slices.defvjp(_max_forward, _max_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_by_slices(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """(N, spatial..., C) -> (N, out..., C), axis by axis."""
    for axis, (k, s) in enumerate(zip(geometry.kernel, geometry.stride, strict=True), 1):
        size, last = x.shape[axis], (geometry.out(x.shape[axis], axis - 1) - 1) * s + 1
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (*geometry.padding(size, axis - 1), 0)
        whole = lax.pad(x, np.zeros((), x.dtype), config)
        x = functools.reduce(jnp.add, [lax.slice_in_dim(whole, i, i + last, s, axis) for i in range(k)])
    return x


def _sum_forward(x: jax.Array, geometry: PoolGeometry) -> tuple[jax.Array, jax.Array]:
    return _sum_by_slices(x, geometry), jnp.zeros((0, *x.shape[1:-1]))


def _sum_backward(geometry: PoolGeometry, sizes: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Axis by axis."""
    for axis, size in enumerate(sizes.shape[1:]):
        outs = [*gradient.shape[1:-1]]
        outs[axis] = size
        gradient = _gather(geometry.along(axis), outs, (gradient,), lambda at, back: back)
    return (gradient,)


_sum_by_slices.defvjp(_sum_forward, _sum_backward)


def _slices(x: jax.Array, geometry: PoolGeometry, fill: float) -> list[jax.Array]:
    """For each cell of the window, in row-major order, what all windows see there; ``fill`` outside."""
    sizes = x.shape[1:-1]
    config = [(*geometry.padding(size, axis), 0) for axis, size in enumerate(sizes)]
    whole = in_memory(lax.pad(x, np.array(fill, x.dtype), [(0, 0, 0), *config, (0, 0, 0)]))
    lasts = [(out - 1) * s + 1 for out, s in zip(geometry.outs(sizes), geometry.stride, strict=True)]
    found = []
    for at in np.ndindex(*geometry.kernel):
        stops = [start + last for start, last in zip(at, lasts, strict=True)]
        found.append(lax.slice(whole, (0, *at, 0), (x.shape[0], *stops, x.shape[-1]), (1, *geometry.stride, 1)))
    return found


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
