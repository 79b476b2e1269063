"""Convolution with one input channel a group, as multiply-adds over channels: a matrix product has no work there."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaffe.compile.lowering.conv_patches import added, padded, taps
from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.compile.lowering.layout import channels_first, channels_last, kernel_first


def forward(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """``y[c m + j] = sum over taps of x[c] w[c m + j]``, m outputs a channel. weight: (C m, 1, kernel...)."""
    kernel, many = weight.shape[2:], weight.shape[0] // x.shape[1]
    weights = jnp.moveaxis(weight[:, 0], 0, -1).reshape(-1, x.shape[1], many)
    parts = taps(padded(x, geometry), kernel, geometry)
    total = functools.reduce(jnp.add, [part[..., None] * tap for part, tap in zip(parts, weights, strict=True)])
    return channels_first(total.reshape(*total.shape[:-2], -1))


def input_gradient(
    gradient: jax.Array, weight: jax.Array, geometry: ConvGeometry, spatial: Sequence[int]
) -> jax.Array:
    """Each tap's share of the output's gradient, added where the tap lies."""
    kernel, channels = weight.shape[2:], geometry.group
    many = weight.shape[0] // channels
    weights = jnp.moveaxis(weight[:, 0], 0, -1).reshape(-1, channels, many)
    back = channels_last(gradient)
    back = back.reshape(*back.shape[:-1], channels, many)
    parts = [(back * tap).sum(-1) for tap in weights]
    return channels_first(added(parts, kernel, geometry, spatial))


def weight_gradient(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """For each tap the sum over images and places of the input there times the output's gradient."""
    channels = geometry.group
    back = channels_last(gradient)
    back = back.reshape(*back.shape[:-1], channels, -1)
    axes = tuple(range(1 + geometry.spatial))
    parts = [(part[..., None] * back).sum(axes) for part in taps(padded(x, geometry), kernel, geometry)]
    return kernel_first(jnp.stack(parts).reshape(*kernel, 1, gradient.shape[1]))
