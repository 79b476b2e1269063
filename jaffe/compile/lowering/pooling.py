"""Pooling with Caffe's geometry: ceil rounding, windows clipped at the border, padding in the divisor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class PoolGeometry:
    """Kernel, stride and leading pad for height and width, and whether sizes round up (Caffe) or down."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    ceil: bool = True

    def out(self, size: int, axis: int) -> int:
        """Output size for an input size: ``round((size + 2 pad - kernel) / stride) + 1``.

        With padding, the last window must start inside the image or the leading pad, else it is dropped.
        """
        k, s, p = self.kernel[axis], self.stride[axis], self.pad[axis]
        steps = (size + 2 * p - k) / s
        out = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
        if any(self.pad) and (out - 1) * s >= size + p:
            out -= 1
        return out

    def padding(self, size: int, axis: int) -> tuple[int, int]:
        """Zero or more cells before and after the axis that make XLA's windows the ones of ``out``."""
        k, s, p = self.kernel[axis], self.stride[axis], self.pad[axis]
        return p, max((self.out(size, axis) - 1) * s + k - size - p, 0)

    def divisors(self, size: int, axis: int) -> np.ndarray:
        """Window lengths that averages divide by: clipped at ``size + pad``, not at the image."""
        start = np.arange(self.out(size, axis)) * self.stride[axis] - self.pad[axis]
        return np.minimum(start + self.kernel[axis], size + self.pad[axis]) - start


def max_pool(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Largest value of each window; the gradient goes to the first of equal maxima, in row-major order.

    x: (N, C, H, W). A NaN in a window makes its output NaN.
    """
    return _reduce(x, -jnp.inf, lax.max, geometry)


def average_pool(x: jax.Array, geometry: PoolGeometry) -> jax.Array:
    """Mean of each window, padding counted in the divisor but not what hangs over beyond it.

    x: (N, C, H, W). A window with no cell at all (stride > kernel at the border) gives 0.
    """
    total = _reduce(x, 0.0, lax.add, geometry)
    divisor = np.maximum(np.outer(geometry.divisors(x.shape[2], 0), geometry.divisors(x.shape[3], 1)), 1)
    return total / jnp.asarray(divisor, x.dtype)


def windows(x: jax.Array, geometry: PoolGeometry, fill: float) -> tuple[jax.Array, np.ndarray]:
    """Every window's values, and where they come from.

    Returns:
        values, (kh * kw, N, C, oh, ow), ``fill`` outside the image; and their places ``h * W + w``,
        (kh * kw, oh, ow), in row-major order of the window.
    """
    height, width = x.shape[2:]
    out = [geometry.out(height, 0), geometry.out(width, 1)]
    pads = [geometry.padding(height, 0), geometry.padding(width, 1)]
    padded = jnp.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    values, places = [], []
    (sh, sw), (ph, pw) = geometry.stride, geometry.pad
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            values.append(padded[:, :, i : i + (out[0] - 1) * sh + 1 : sh, j : j + (out[1] - 1) * sw + 1 : sw])
            rows = np.arange(out[0]) * sh - ph + i
            columns = np.arange(out[1]) * sw - pw + j
            places.append(rows[:, None] * width + columns[None, :])
    return jnp.stack(values), np.stack(places)


def stochastic_pool(x: jax.Array, geometry: PoolGeometry, key: jax.Array | None) -> jax.Array:
    """Stochastic pooling (Zeiler and Fergus 2013) of non-negative x, (N, C, H, W).

    With a key: each window's value is drawn with probability proportional to it. Without (TEST): the mean
    weighted by those probabilities, ``sum x^2 / sum x``, 0 where the sum is not positive.
    """
    values, _ = windows(x, geometry, 0.0)
    total = values.sum(0)
    if key is None:
        safe = jnp.where(total > 0, total, 1)
        return jnp.where(total > 0, (values * values).sum(0) / safe, 0)
    threshold = (1 - jax.random.uniform(key, total.shape, x.dtype)) * total  # in (0, total]
    reached = jnp.cumsum(values, 0) >= threshold
    chosen = jnp.argmax(lax.stop_gradient(reached), 0)
    return jnp.take_along_axis(values, chosen[None], 0)[0]


def _reduce(x: jax.Array, init: float, op: Any, geometry: PoolGeometry) -> jax.Array:
    pads = [geometry.padding(x.shape[2], 0), geometry.padding(x.shape[3], 1)]
    # A NumPy scalar: under jit a JAX one would hide from XLA's rules which reduction this is.
    return lax.reduce_window(
        x, np.array(init, x.dtype)[()], op, (1, 1, *geometry.kernel), (1, 1, *geometry.stride), [(0, 0), (0, 0), *pads]
    )
