"""Every window of a blob as an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]


def unfold(
    x: jax.Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pad: Sequence[tuple[int, int]]
) -> jax.Array:
    """The values that each window sees, 0 outside the blob.

    Args:
        x: (N, C, spatial...).
        pad: cells before and after each spatial axis.

    Returns:
        (N, C, kernel..., out...), ``y[n, c, k, o] = x[n, c, o stride + k dilation - before]``.
    """
    x = jnp.pad(x, [(0, 0), (0, 0), *pad])
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        # Axis by axis: as many slices as the sum of the kernel's sizes, not their product. Before this axis stand N, C,
        # and i axes each of the kernel and of the output.
        axis = 2 + 2 * i
        out = (x.shape[axis] - d * (k - 1) - 1) // s + 1
        parts = [lax.slice_in_dim(x, j * d, j * d + (out - 1) * s + 1, s, axis) for j in range(k)]
        x = jnp.stack(parts, 2 + i)
    return x
