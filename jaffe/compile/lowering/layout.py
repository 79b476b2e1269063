"""Channels last inside, channels first at the borders.

Every lowering takes and gives (N, C, spatial...). Those that work channels-last transpose on the way in and out; XLA's
layout assignment makes such transposes part of the layout of what is between them, so that a whole net runs
channels-last and only its ends are copied.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def channels_last(x: jax.Array) -> jax.Array:
    """(N, C, spatial...) -> (N, spatial..., C)."""
    return jnp.moveaxis(x, 1, -1)


def channels_first(x: jax.Array) -> jax.Array:
    """(N, spatial..., C) -> (N, C, spatial...)."""
    return jnp.moveaxis(x, -1, 1)


def kernel_last(weight: jax.Array) -> jax.Array:
    """(O, C, kernel...) -> (kernel..., C, O)."""
    return jnp.moveaxis(weight, (0, 1), (-1, -2))


def kernel_first(weight: jax.Array) -> jax.Array:
    """(kernel..., C, O) -> (O, C, kernel...)."""
    return jnp.moveaxis(weight, (-1, -2), (0, 1))


def in_memory(x: jax.Array) -> jax.Array:
    """The same values, computed once: XLA would compute them anew for every reader that it fuses them into."""
    return lax.optimization_barrier(x)
