"""Deconvolution, the transpose of convolution: candidates with one meaning, and the rule that picks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.convolution import MOST_SPLITS, ConvGeometry


def deconvolution(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """The transpose of ``convolution`` with the same weight and geometry: its gradient with respect to x.

    Args:
        x: (N, C, spatial...).
        weight: (C, O / group, kernel...).

    Returns:
        (N, O, out...), ``out = stride (in - 1) + dilation (kernel - 1) + 1 - before - after``.
    """
    return choose(x.shape, weight.shape, geometry)(x, weight, geometry)


def choose(x: Sequence[int], weight: Sequence[int], geometry: ConvGeometry) -> Callable[..., jax.Array]:
    """The candidate for these shapes on the default backend."""
    if len(x) == 2:
        return as_matmul
    if jax.default_backend() != "cpu" or geometry.group == 1:
        return plain
    if _fits_by_phase(weight, geometry):
        return by_phase
    return split_groups if geometry.group <= MOST_SPLITS else loop_groups


# XLA:CPU is slow with grouped convolutions, and with a stride here above all: bilinear upsampling of 21 channels by 8,
# 32 x 32 cells, took it 12 s, the groups one by one 0.17 s, and by_phase 0.09 s (2 cores).
MOST_TAPS = 16  # by_phase writes one product a tap; bilinear upsampling has 4


def plain(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """XLA's convolution of x spread out by the stride with the turned kernel: the reference for the others."""
    groups, kernel = geometry.group, weight.shape[2:]
    channels, outputs = weight.shape[0] // groups, weight.shape[1]
    turned = jnp.flip(weight, range(2, weight.ndim)).reshape(groups, channels, outputs, *kernel)
    turned = turned.swapaxes(1, 2).reshape(groups * outputs, channels, *kernel)
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, kernel, strict=True)]
    return lax.conv_general_dilated(
        x, turned, [1] * len(kernel), [(r - b, r - a) for r, (b, a) in zip(reach, geometry.pad, strict=True)],
        lhs_dilation=geometry.stride, rhs_dilation=geometry.dilation, feature_group_count=groups,
    )


def split_groups(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Each group as a deconvolution of its own, concatenated along the channels."""
    one = ConvGeometry(geometry.stride, geometry.pad, geometry.dilation)
    pairs = zip(jnp.split(x, geometry.group, 1), jnp.split(weight, geometry.group, 0), strict=True)
    return jnp.concatenate([plain(part, kernel, one) for part, kernel in pairs], 1)


def loop_groups(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """``split_groups`` as a loop, for many groups: compiled once."""
    one = ConvGeometry(geometry.stride, geometry.pad, geometry.dilation)
    parts = jnp.moveaxis(x.reshape(x.shape[0], geometry.group, -1, *x.shape[2:]), 1, 0)
    kernels = weight.reshape(geometry.group, -1, *weight.shape[1:])
    found = jnp.moveaxis(lax.map(lambda pair: plain(pair[0], pair[1], one), (parts, kernels)), 0, 1)
    return found.reshape(x.shape[0], -1, *found.shape[3:])


def by_phase(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """One channel a group, as in bilinear upsampling: output cells of equal ``position % stride`` see the same taps.

    With kernel index ``t stride + r``: ``y[q stride + r] = sum over t of x[q - t] w[t stride + r]``, so that every
    output is a sum of ``ceil(kernel / stride)`` products an axis and no zero is multiplied. Needs dilation 1.
    """
    n, channels, *spatial = x.shape
    kernel, stride = weight.shape[2:], geometry.stride
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of many products lose digits in bfloat16
    x, weight = x.astype(wide), weight.astype(wide)
    taps = [math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)]
    filled = jnp.pad(weight[:, 0], [(0, 0), *((0, t * s - k) for t, s, k in zip(taps, stride, kernel, strict=True))])
    phases = filled.reshape(channels, *(size for pair in zip(taps, stride, strict=True) for size in pair))
    padded = jnp.pad(x, [(0, 0), (0, 0), *((t - 1, t - 1) for t in taps)])
    rows = [size + t - 1 for size, t in zip(spatial, taps, strict=True)]
    total: jax.Array | float = 0.0
    for tap in np.ndindex(*taps):
        starts = [t - 1 - at for t, at in zip(taps, tap, strict=True)]
        part = padded[(..., *(slice(start, start + row) for start, row in zip(starts, rows, strict=True)))]
        spread = part.reshape(n, channels, *(size for row in rows for size in (row, 1)))
        weights = phases[(slice(None), *(index for at in tap for index in (at, slice(None))))]
        total = total + spread * weights.reshape(channels, *(size for s in stride for size in (1, s)))
    whole = jnp.reshape(total, (n, channels, *(row * s for row, s in zip(rows, stride, strict=True))))
    sizes = [
        out_size(*axis) for axis in zip(spatial, kernel, stride, geometry.pad, geometry.dilation, strict=True)
    ]
    return whole[(..., *(slice(b, b + size) for (b, _), size in zip(geometry.pad, sizes, strict=True)))]


def as_matmul(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """No spatial axes at all: one matrix product a group. x: (N, C), weight: (C, O / group)."""
    n, groups = x.shape[0], geometry.group
    parts = jnp.einsum("ngc,gco->ngo", x.reshape(n, groups, -1), weight.reshape(groups, -1, weight.shape[1]))
    return parts.reshape(n, -1)


def out_size(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    """Caffe's formula; may be zero or negative where the padding takes everything away."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - sum(pad)


def flops(x: Sequence[int], weight: Sequence[int]) -> int:
    """Two operations a multiply-add. ``x``: the whole input shape, (N, C, spatial...)."""
    return 2 * math.prod(x) * math.prod(weight[1:])


def _fits_by_phase(weight: Sequence[int], geometry: ConvGeometry) -> bool:
    taps = math.prod(math.ceil(k / s) for k, s in zip(weight[2:], geometry.stride, strict=True))
    return weight[0] == geometry.group and weight[1] == 1 and set(geometry.dilation) == {1} and taps <= MOST_TAPS
