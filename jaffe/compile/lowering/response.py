"""Local response normalisation, across channels or within each, with a gradient of its own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory
from jaffe.compile.lowering.pooling import MOST_TAPS, PoolGeometry, sum_by_slices

MOST_TERMS = 64  # a window's lengths, added; wider ones are left to XLA


@compiled("reach", "alpha", "beta", "k", "lowering")
def normalise_response(
    x: jax.Array, reach: tuple[int, ...], alpha: float, beta: float, k: float, lowering: Lowering
) -> jax.Array:
    """``y = x s^-beta``, ``s = k + alpha * sum of x^2`` over a window that reaches so far on each side.

    x: (N, C, H, W); reach: of C, H and W.
    """
    if lowering.plain or not lowering.on_cpu or 2 * sum(reach) + len(reach) > MOST_TERMS:
        window, pads = (1, *(2 * r + 1 for r in reach)), [(0, 0), *((r, r) for r in reach)]
        total = lax.reduce_window(x * x, np.zeros((), x.dtype)[()], lax.add, window, (1,) * x.ndim, pads)
        return x * (k + alpha * total) ** -beta
    return channels_first(_normalised(channels_last(x), (*reach[1:], reach[0]), alpha, beta, k))


# reduce_window is a scalar loop on the CPU: sums are slices of the padded blob instead, which is in memory by then. And
# the power is taken from roots where it is one.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _normalised(x: jax.Array, reach: tuple[int, ...], alpha: float, beta: float, k: float) -> jax.Array:
    kernel = tuple(2 * r + 1 for r in reach[:-1])
    if reach[-1] or sum(kernel) > MOST_TAPS:
        return x * _power(k + alpha * _neighbours(x * x, reach), beta)
    # Within channels: without padded copies.
    geometry = PoolGeometry(kernel, (1,) * len(kernel), tuple((r, r) for r in reach[:-1]))
    return x * _power(k + alpha * sum_by_slices(x * x, geometry), beta)


def _forward(
    x: jax.Array, reach: tuple[int, ...], alpha: float, beta: float, k: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    scale = k + alpha * _neighbours(x * x, reach)
    return x * _power(scale, beta), (x, scale)


def _backward(
    reach: tuple[int, ...], alpha: float, beta: float, k: float, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    """``dx = dy s^-beta - 2 alpha beta x * sum over the window of dy y / s``: windows see each other."""
    x, scale = kept
    power = _power(scale, beta)
    shares = _neighbours(gradient * x * power / scale, reach)
    return (gradient * power - (2 * alpha * beta) * x * shares,)


_normalised.defvjp(_forward, _backward)


def _neighbours(x: jax.Array, reach: tuple[int, ...]) -> jax.Array:
    """For every value the sum over its window, axis by axis from the second on."""
    for axis, r in enumerate(reach, 1):
        if r:
            padded = in_memory(jnp.pad(x, [(r, r) if i == axis else (0, 0) for i in range(x.ndim)]))
            parts = [lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(2 * r + 1)]
            x = functools.reduce(jnp.add, parts)
    return x


def _power(scale: jax.Array, beta: float) -> jax.Array:
    """``scale^-beta``; the 0.75 of nearly every net by two roots, which are much cheaper."""
    if beta == 0.75:
        root = lax.rsqrt(scale)
        return root * jnp.sqrt(root)
    return scale**-beta
