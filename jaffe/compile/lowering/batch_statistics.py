"""Batch normalisation by the batch's own statistics, with a gradient of its own."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import in_memory


def normalise_batch(x: jax.Array, eps: float, lowering: Lowering) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``y = (x - mean) / sqrt(variance + eps)`` over every axis but the second.

    x: (N, C, ...). Returns y, and mean and biased variance, (C).
    """
    if lowering.plain:
        mean = x.mean(_others(x))
        variance = jnp.square(x - _spread(mean, x)).mean(_others(x))
        return (x - _spread(mean, x)) * _spread(lax.rsqrt(variance + eps), x), mean, variance
    return _normalised(x, eps)


# The sums are taken of arrays that are in memory: XLA:CPU sums those fast, but not what it computes on the way. What is
# differentiated by hand passes over the blob twice, not five times.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalised(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, eps)[0]


def _forward(x: jax.Array, eps: float) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    mean = _mean(x)
    centred = in_memory(x - _spread(mean, x))
    variance = _mean(in_memory(centred * centred))
    inverse = lax.rsqrt(variance + eps)
    return (centred * _spread(inverse, x), mean, variance), (x, mean, inverse)


def _backward(
    eps: float, kept: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array]:
    """``dx = inverse (dy - mean(dy) - y mean(dy y))``, and what comes by way of mean and variance."""
    x, mean, inverse = kept
    back, by_mean, by_variance = gradients
    y = (x - _spread(mean, x)) * _spread(inverse, x)
    back = in_memory(back)
    first, second = _mean(back), _mean(in_memory(back * y))
    dx = _spread(inverse, x) * (back - _spread(first, x) - y * _spread(second, x))
    count = x.size // x.shape[1]
    return (dx + _spread(by_mean / count, x) + y * _spread(2 * by_variance / (count * inverse), x),)


_normalised.defvjp(_forward, _backward)


def _others(x: jax.Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _mean(x: jax.Array) -> jax.Array:
    return x.sum(_others(x)) / (math.prod(x.shape) // x.shape[1])


def _spread(values: jax.Array, x: jax.Array) -> jax.Array:
    """(C) over the channels of x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))
