"""Pooling with Caffe's geometry: ceil rounding, windows clipped at the border, padding in the divisor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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

    def padding(self, size: int, axis: int) -> tuple[int, int]:
        """Zero or more cells before and after the axis that make XLA's windows the ones of ``out``."""
        k, s, (before, _) = self.kernel[axis], self.stride[axis], self.pad[axis]
        return before, max((self.out(size, axis) - 1) * s + k - size - before, 0)

    def divisors(self, size: int, axis: int) -> np.ndarray:
        """Window lengths that averages divide by: clipped at ``size + after``, not at the image."""
        before, after = self.pad[axis]
        start = np.arange(self.out(size, axis)) * self.stride[axis] - before
        return np.minimum(start + self.kernel[axis], size + after) - start


def max_pool(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Largest value of each window; the gradient goes to the first of equal maxima, in row-major order.

    x: (N, C, spatial...). A NaN in a window makes its output NaN; a window with no cell at all gives -inf.
    """
    return _reduce(x, -jnp.inf, lax.max, geometry)


def average_pool(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Mean of each window, padding counted in the divisor but not what hangs over beyond it.

    x: (N, C, spatial...). A window with no cell at all (stride > kernel at the border) gives 0.
    """
    total = _reduce(x, 0.0, lax.add, geometry)
    lengths = [geometry.divisors(size, axis) for axis, size in enumerate(x.shape[2:])]
    divisor = np.maximum(functools.reduce(np.multiply.outer, lengths), 1)
    return total / jnp.asarray(divisor, x.dtype)


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
