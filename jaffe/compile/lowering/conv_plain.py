"""XLA's own convolution, in both layouts: the reference for every other way.

Padding as wide as the kernel is done before it: the gradient would be a convolution with negative padding, for which
XLA:CPU of JAX 0.10.2 reads outside of the array where the maps are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.compile.lowering.layout import channels_first, channels_last, kernel_last


def plain(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Channels first, as declared."""
    x, within = _padded_beyond(x, geometry, weight.shape[2:])
    return lax.conv_general_dilated(
        x, weight, within.stride, within.pad, rhs_dilation=within.dilation, feature_group_count=within.group
    )


def transposed(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Deconvolution: XLA's convolution of x spread out by the stride with the turned kernel, channels first."""
    kernel = weight.shape[2:]
    within = geometry.within(kernel)
    y = lax.conv_general_dilated(
        x, turned(weight, geometry.group), [1] * geometry.spatial, within.turned(kernel).pad,
        lhs_dilation=geometry.stride, rhs_dilation=geometry.dilation, feature_group_count=geometry.group,
    )
    cells = (slice(b, size - a) for size, (b, a) in zip(y.shape[2:], geometry.beyond(kernel), strict=True))
    return y[(..., *cells)]


def last(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Channels last."""
    axes = "DEFGHW"[-geometry.spatial :]
    x, geometry = _padded_beyond(x, geometry, weight.shape[2:])
    y = lax.conv_general_dilated(
        channels_last(x), kernel_last(weight), geometry.stride, geometry.pad, rhs_dilation=geometry.dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"), feature_group_count=geometry.group,
    )
    return channels_first(y)


def input_gradient(
    gradient: jax.Array, weight: jax.Array, geometry: ConvGeometry, spatial: Sequence[int]
) -> jax.Array:
    """XLA's transposed convolution, channels last."""
    shape = (gradient.shape[0], weight.shape[1] * geometry.group, *spatial)
    x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda x: last(x, weight, geometry), x)(gradient)[0]


def weight_gradient(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """XLA's convolution of the input with the output's gradient, channels last."""
    shape = (gradient.shape[1], x.shape[1] // geometry.group, *kernel)
    weight = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda weight: last(x, weight, geometry), weight)(gradient)[0]


def turned(weight: jax.Array, group: int = 1) -> jax.Array:
    """The kernel of the transposed convolution: (O, C / group, kernel...) -> (C, O / group, kernel...), mirrored."""
    kernel = weight.shape[2:]
    parts = jnp.flip(weight, range(2, weight.ndim)).reshape(group, -1, *weight.shape[1:])
    return parts.swapaxes(1, 2).reshape(-1, weight.shape[0] // group, *kernel)


def _padded_beyond(x: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> tuple[jax.Array, ConvGeometry]:
    """x with the padding that goes beyond the kernel, and the geometry without it."""
    beyond = geometry.beyond(kernel)
    if not any(map(any, beyond)):
        return x, geometry
    config = [(0, 0, 0), (0, 0, 0), *((before, after, 0) for before, after in beyond)]
    return lax.pad(x, np.zeros((), x.dtype), config), geometry.within(kernel)
