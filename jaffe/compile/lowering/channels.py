"""A number a channel, multiplied or added: scales, biases, and their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory

LEAST_TOGETHER, MOST_TOGETHER = 4, 8  # cells


@compiled("lowering")
def scale_channels(x: jax.Array, scale: jax.Array, lowering: Lowering) -> jax.Array:
    """``y[n, c] = x[n, c] scale[c]``. x: (N, C, ...)."""
    if lowering.plain:
        return x * scale.reshape(-1, *[1] * (x.ndim - 2))
    return channels_first(_scaled(channels_last(x), scale))


@compiled("lowering")
def shift_channels(x: jax.Array, shift: jax.Array, lowering: Lowering) -> jax.Array:
    """``y[n, c] = x[n, c] + shift[c]``. x: (N, C, ...)."""
    if lowering.plain:
        return x + shift.reshape(-1, *[1] * (x.ndim - 2))
    return channels_first(_shifted(channels_last(x), shift))


def sum_of_channels(x: jax.Array) -> jax.Array:
    """(..., C) -> (C). Of an array that is in memory: XLA:CPU sums that fast, but not what it computes on the way."""
    return in_memory(x).sum(tuple(range(x.ndim - 1)))


def sum_over_cells(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """The sum over all axes but the last of what an elementwise function makes of arrays (..., C).

    On the CPU some cells at a time are computed and added in one loop of XLA's, without what it makes of each in
    memory.
    """
    channels = arrays[0].shape[-1]
    cells = arrays[0].size // channels
    known = isinstance(cells, int)  # else of any number, in an export
    together = max(n for n in range(1, MOST_TOGETHER + 1) if cells % n == 0) if known else 1
    if jax.default_backend() != "cpu" or arrays[0].dtype != jnp.float32 or together < LEAST_TOGETHER:
        return function(*arrays).sum(tuple(range(arrays[0].ndim - 1)))
    rows = [one.reshape(-1, together, channels) for one in arrays]
    parts = functools.reduce(jnp.add, [function(*(row[:, i] for row in rows)) for i in range(together)])
    # This changes nothing, but XLA would leave all that comes before to YNN, which gets each slice as a copy.
    return lax.reduce_precision(parts, 8, 23).sum(0)


@jax.custom_vjp
def _scaled(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * scale


def _scaled_backward(kept: tuple[jax.Array, jax.Array], back: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, scale = kept
    return (back * scale).astype(x.dtype), sum_over_cells(jnp.multiply, in_memory(back), x).astype(scale.dtype)


_scaled.defvjp(lambda x, scale: (x * scale, (x, scale)), _scaled_backward)


@jax.custom_vjp
def _shifted(x: jax.Array, shift: jax.Array) -> jax.Array:
    return x + shift


def _shifted_backward(kept: tuple[jax.Array, jax.Array], back: jax.Array) -> tuple[jax.Array, jax.Array]:
    like_x, like_shift = kept
    return back.astype(like_x.dtype), sum_of_channels(back.astype(like_shift.dtype))


_shifted.defvjp(
    lambda x, shift: (x + shift, (jnp.zeros(0, x.dtype), jnp.zeros(0, shift.dtype))), _shifted_backward
)
