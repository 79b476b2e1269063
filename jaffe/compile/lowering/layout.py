"""Channels last inside, channels first at the borders.

Every lowering takes and gives (N, C, spatial...). Those that work channels-last transpose on the way in and out; XLA's
layout assignment makes such transposes part of the layout of what is between them, so that a whole net runs
channels-last and only its ends are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

if TYPE_CHECKING:
    from jaffe.compile.lowering.choose import Lowering

F = TypeVar("F", bound=Callable[..., Any])


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


def compiled(*static: str) -> Callable[[F], F]:
    """``jax.jit`` that leaves no trace in a larger program: outside of one an operation of many parts is compiled and
    run as one, inside it is traced once for all calls of equal shapes. ``static``: names of what is no array."""
    return cast("Callable[[F], F]", partial(jax.jit, static_argnames=static, inline=True))


def in_memory(x: jax.Array) -> jax.Array:
    """The same values, computed once: XLA would compute them anew for every reader that it fuses them into."""
    return lax.optimization_barrier(x)


def concatenate(parts: Sequence[jax.Array], axis: int, lowering: Lowering) -> jax.Array:
    """``jnp.concatenate``; of channels, channels last."""
    if axis != 1 or lowering.plain or parts[0].ndim < 3:
        return jnp.concatenate(parts, axis)
    return channels_first(jnp.concatenate([channels_last(part) for part in parts], -1))


def split(x: jax.Array, points: Sequence[int], axis: int, lowering: Lowering) -> list[jax.Array]:
    """``jnp.split``; of channels, channels last."""
    if axis != 1 or lowering.plain or x.ndim < 3:
        return jnp.split(x, points, axis)
    return [channels_first(part) for part in jnp.split(channels_last(x), points, -1)]


def laid_out(x: jax.Array, lowering: Lowering) -> jax.Array:
    """The same values, channels last in memory, and their gradient likewise. x: (N, C, spatial...).

    XLA's layout assignment finds that by itself in most places, but not where a value has many readers, as in a
    backward pass; oneDNN's calls leave it no choice. What it becomes cannot be exported, so only the training loss asks
    for it.
    """
    if (x.ndim < 3 or lowering.plain or lowering.onednn or not lowering.on_cpu
            or not isinstance(x, jax.core.Tracer)):
        return x
    return with_layout_constraint(x, Layout((0, *range(2, x.ndim), 1)))
