"""Upsampling by deconvolution, one channel a group, as with a bilinear kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.lowering.geometry import ConvGeometry

# XLA:CPU is slow with grouped convolutions, and with a stride here above all: bilinear upsampling of 21 channels by 8,
# 32 x 32 cells, took it 12 s, the groups one by one 0.17 s, and by_phase 0.09 s (2 cores).
MOST_TAPS = 16  # by_phase writes one product a tap; bilinear upsampling has 4


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
    sizes = geometry.transposed_outs(spatial, kernel)
    return whole[(..., *(slice(b, b + size) for (b, _), size in zip(geometry.pad, sizes, strict=True)))]


def fits_by_phase(weight: Sequence[int], geometry: ConvGeometry) -> bool:
    """Whether ``by_phase`` can compute it, and in few products."""
    taps = math.prod(math.ceil(k / s) for k, s in zip(weight[2:], geometry.stride, strict=True))
    return weight[0] == geometry.group and weight[1] == 1 and set(geometry.dilation) == {1} and taps <= MOST_TAPS
