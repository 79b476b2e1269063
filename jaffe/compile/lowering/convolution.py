"""Convolution: candidates with one meaning, and the rule that picks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.unfold import Pads


@dataclass(frozen=True)
class ConvGeometry:
    """Per spatial axis: stride, zero padding before and after, and dilation; and the number of groups."""

    stride: tuple[int, ...]
    pad: Pads
    dilation: tuple[int, ...]
    group: int = 1


def convolution(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Cross-correlation with zero padding.

    Args:
        x: (N, C, spatial...).
        weight: (O, C / group, kernel...).

    Returns:
        (N, O, out...), ``out = floor((in + before + after - dilation (kernel - 1) - 1) / stride) + 1``.
    """
    return choose(x.shape, weight.shape, geometry)(x, weight, geometry)


def choose(x: Sequence[int], weight: Sequence[int], geometry: ConvGeometry) -> Callable[..., jax.Array]:
    """The candidate for these shapes on the default backend."""
    if len(x) == 2:
        return as_matmul
    if jax.default_backend() == "cpu" and 1 < geometry.group <= MOST_SPLITS:
        return split_groups
    return plain


# XLA:CPU runs grouped convolutions many times slower than the groups one by one
# (github.com/jax-ml/jax/issues/13800); beyond this many groups compile time outweighs it.
MOST_SPLITS = 8


def plain(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """XLA's own convolution: the reference for every other candidate."""
    return lax.conv_general_dilated(
        x, weight, geometry.stride, geometry.pad, rhs_dilation=geometry.dilation, feature_group_count=geometry.group
    )


def split_groups(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Each group as a convolution of its own, concatenated along the channels."""
    one = ConvGeometry(geometry.stride, geometry.pad, geometry.dilation)
    pairs = zip(jnp.split(x, geometry.group, 1), jnp.split(weight, geometry.group, 0), strict=True)
    return jnp.concatenate([plain(part, kernel, one) for part, kernel in pairs], 1)


def as_matmul(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """No spatial axes at all: one matrix product a group. x: (N, C), weight: (O, C / group)."""
    n, channels = x.shape
    groups = geometry.group
    parts = jnp.einsum(
        "ngc,goc->ngo", x.reshape(n, groups, channels // groups), weight.reshape(groups, -1, channels // groups)
    )
    return parts.reshape(n, weight.shape[0])


def out_size(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Caffe's floor formula, with padding before and after; may be zero or negative where the kernel does not fit."""
    return (size + sum(pad) - (dilation * (kernel - 1) + 1)) // stride + 1


def flops(weight: Sequence[int], out: Sequence[int]) -> int:
    """Two operations a multiply-add. ``out``: the whole output shape, (N, O, out...)."""
    return 2 * math.prod(out) * math.prod(weight[1:])
