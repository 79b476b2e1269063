"""Series of values as arrays with the steps as first axis, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaffe.compile.reroll.plan import Cut, Run, Series

Values = Mapping[str, jax.Array]


def gather(series: Series, env: Values) -> jax.Array:
    """The values, one after another along a new first axis."""
    return _concatenate([_stack(run, env) for run in series], 0)


def join(series: Series, axis: int, env: Values) -> jax.Array:
    """The values, one after another along an axis of theirs."""
    return _concatenate([_merge(_stack(run, env), axis) for run in series], axis)


def _concatenate(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _stack(run: Run, env: Values) -> jax.Array:
    value = env[run.value]
    if run.alone:
        return jnp.broadcast_to(value, (run.count, *value.shape))
    low, high = sorted((run.first, run.first + (run.count - 1) * run.stride))
    stack = _pieces(run.source, value, low, high + 1) if isinstance(run.source, Cut) else value[low : high + 1]
    return stack if run.stride == 1 else stack[:: run.stride]


def _pieces(cut: Cut, value: jax.Array, low: int, high: int) -> jax.Array:
    """Pieces ``low`` to ``high`` of what a Slice cuts, which need not be as large as declared."""
    axis, size = cut.axis, cut.size_in(value.shape)
    if high - low < cut.pieces:
        value = jax.lax.slice_in_dim(value, low * size, high * size, axis=axis)
    stack = value.reshape(*value.shape[:axis], high - low, size, *value.shape[axis + 1 :])
    return jnp.moveaxis(stack, axis, 0)


def _merge(stack: jax.Array, axis: int) -> jax.Array:
    moved = jnp.moveaxis(stack, 0, axis)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])
