"""Batch normalisation by the batch's own statistics, with a gradient of its own."""

from __future__ import annotations

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.channels import sum_of_channels, sum_over_cells
from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory

Optional = jax.Array | None
AxisName = str | tuple[str, ...] | None
T = TypeVar("T")


def normalise_batch(
    x: jax.Array, eps: float, lowering: Lowering, scale: Optional = None, shift: Optional = None,
    axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``y = (x - mean) / sqrt(variance + eps)`` over every axis but the second, then ``y scale + shift``.

    x: (N, C, ...); scale and shift: (C), or None. With ``axis_name``, of the items of all devices along mapped axes.
    Returns y, and mean and biased variance, (C).
    """
    if lowering.plain:
        others, shape = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
        mean = over_devices(x.mean(others), axis_name)
        variance = over_devices(jnp.square(x - mean.reshape(shape)).mean(others), axis_name)
        y = (x - mean.reshape(shape)) * lax.rsqrt(variance + eps).reshape(shape)
        y = y if scale is None else y * scale.reshape(shape)
        return y if shift is None else y + shift.reshape(shape), mean, variance
    y, mean, variance = _as_one(channels_last(x), scale, shift, eps, axis_name)
    return channels_first(y), mean, variance


# Differentiated by hand, it passes over the blob less often: the sums of the scale's gradient are those of the
# normalisation's too. All channels last.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalised(
    x: jax.Array, scale: Optional, shift: Optional, eps: float, axis_name: AxisName
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, scale, shift, eps, axis_name)[0]


def _forward(
    x: jax.Array, scale: Optional, shift: Optional, eps: float, axis_name: AxisName
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[Optional, ...]]:
    count = x.size // x.shape[-1]
    mean = over_devices(sum_of_channels(x) / count, axis_name)
    variance = over_devices(sum_over_cells(lambda x: jnp.square(x - mean), x) / count, axis_name)
    inverse = lax.rsqrt(variance + eps)
    y = (x - mean) * (inverse if scale is None else inverse * scale)
    return (y if shift is None else y + shift, mean, variance), (x, mean, inverse, scale, shift)


def _backward(
    eps: float, axis_name: AxisName, kept: tuple[Optional, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array, Optional, Optional]:
    """With ``u = (x - mean) inverse``: ``dx = inverse scale (dy - mean(dy) - u mean(dy u))``, ``dscale = sum(dy u)``,
    ``dshift = sum(dy)``; and what comes by way of mean and variance. Means are over the items of all devices, sums over
    those of this one: gradients are those of the sum of all their losses."""
    x, mean, inverse, scale, shift = kept
    assert x is not None
    assert mean is not None
    assert inverse is not None
    back, by_mean, by_variance = gradients
    back = in_memory(back)
    unit = (x - mean) * inverse
    count = x.size // x.shape[-1]
    sums = sum_of_channels(back)
    products = sum_over_cells(lambda back, x: back * ((x - mean) * inverse), back, x)
    means = over_devices((sums / count, products / count, by_mean, by_variance), axis_name)
    dx = (inverse if scale is None else inverse * scale) * (back - means[0] - unit * means[1])
    by_mean, by_variance = means[2:]
    dx += by_mean / count + unit * (2 * by_variance / (count * inverse))
    return dx, None if scale is None else products, None if shift is None else sums


_normalised.defvjp(_forward, _backward)
_as_one = compiled("eps", "axis_name")(_normalised)


def over_devices(values: T, axis_name: AxisName) -> T:
    """Means over mapped axes; as they are where there are none."""
    return values if axis_name is None else lax.pmean(values, axis_name)
