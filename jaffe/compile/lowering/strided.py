"""Strided convolution as one of stride 1: blocks of stride^2 cells become channels (space to depth).

For first layers of few channels, such as 11x11 stride 4 of 3 channels: 3x3 of 48. The kernel is filled up with zeros
to a multiple of the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.geometry import ConvGeometry


def forward(x: jax.Array, weight: jax.Array, geometry: ConvGeometry, inner: Callable[..., jax.Array]) -> jax.Array:
    """``inner``: a forward pass of stride 1. Dilation 1, one group."""
    out = geometry.outs(x.shape[2:], weight.shape[2:])
    return inner(_blocks(x, geometry, weight.shape[2:], out), _kernel(weight, geometry), inner_geometry(geometry))


def input_gradient(
    gradient: jax.Array, weight: jax.Array, geometry: ConvGeometry, spatial: Sequence[int],
    inner: Callable[..., jax.Array],
) -> jax.Array:
    """``inner``: an input gradient of stride 1."""
    stride, counts = geometry.stride, block_counts(weight.shape[2:], geometry)
    blocks = [out + n - 1 for out, n in zip(gradient.shape[2:], counts, strict=True)]
    found = inner(gradient, _kernel(weight, geometry), inner_geometry(geometry), blocks)
    whole = _interleaved(found.reshape(found.shape[0], -1, *stride, *blocks), geometry.spatial)
    config = [(-before, size + before - n * s, 0)  # what no window sees is 0; what was padded is taken away
              for size, n, s, (before, _) in zip(spatial, blocks, stride, geometry.pad, strict=True)]
    return lax.pad(whole, np.zeros((), whole.dtype), [(0, 0, 0), (0, 0, 0), *config])


def weight_gradient(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int], inner: Callable[..., jax.Array]
) -> jax.Array:
    """``inner``: a weight gradient of stride 1."""
    counts = block_counts(kernel, geometry)
    blocks = _blocks(x, geometry, kernel, gradient.shape[2:])
    found = inner(blocks, gradient, inner_geometry(geometry), counts)
    found = found.reshape(found.shape[0], x.shape[1], *geometry.stride, *counts)
    whole = _interleaved(found, geometry.spatial)
    return whole[(slice(None), slice(None), *(slice(k) for k in kernel))]


def inner_geometry(geometry: ConvGeometry) -> ConvGeometry:
    """The geometry of stride 1 over the blocks."""
    spatial = geometry.spatial
    return ConvGeometry((1,) * spatial, ((0, 0),) * spatial, (1,) * spatial)


def block_counts(kernel: Sequence[int], geometry: ConvGeometry) -> tuple[int, ...]:
    """The kernel's size in blocks."""
    return tuple(-(-k // s) for k, s in zip(kernel, geometry.stride, strict=True))


def _blocks(x: jax.Array, geometry: ConvGeometry, kernel: Sequence[int], out: Sequence[int]) -> jax.Array:
    """(N, C, spatial...) -> (N, C stride..., blocks...), padded or cut to what the windows see."""
    blocks = [o + count - 1 for o, count in zip(out, block_counts(kernel, geometry), strict=True)]
    config = [
        (before, count * s - size - before, 0)
        for size, count, s, (before, _) in zip(x.shape[2:], blocks, geometry.stride, geometry.pad, strict=True)
    ]
    whole = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *config])
    return _split(whole, geometry.stride)


def _kernel(weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """(O, C, kernel...) -> (O, C stride..., counts...)."""
    counts = block_counts(weight.shape[2:], geometry)
    fill = [(0, n * s - k) for n, s, k in zip(counts, geometry.stride, weight.shape[2:], strict=True)]
    return _split(jnp.pad(weight, [(0, 0), (0, 0), *fill]), geometry.stride)


def _split(x: jax.Array, stride: Sequence[int]) -> jax.Array:
    """(A, C, (n s)...) -> (A, C s..., n...)."""
    spatial = len(stride)
    counts = [size // s for size, s in zip(x.shape[2:], stride, strict=True)]
    parts = x.reshape(*x.shape[:2], *(size for pair in zip(counts, stride, strict=True) for size in pair))
    order = [0, 1, *(3 + 2 * i for i in range(spatial)), *(2 + 2 * i for i in range(spatial))]
    return parts.transpose(order).reshape(x.shape[0], -1, *counts)


def _interleaved(x: jax.Array, spatial: int) -> jax.Array:
    """(A, C, s..., n...) -> (A, C, (n s)...)."""
    order = [0, 1, *(axis for i in range(spatial) for axis in (2 + spatial + i, 2 + i))]
    sizes = [x.shape[2 + i] * x.shape[2 + spatial + i] for i in range(spatial)]
    return x.transpose(order).reshape(*x.shape[:2], *sizes)
