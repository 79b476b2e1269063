"""Planes made larger or smaller: bilinear, by repetition, and back from the places of maxima."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def interpolate(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear, corner cells on corner cells: two products with constant matrices.

    x: (N, C, H, W) -> (N, C, height, width).
    """
    # HIGHEST: labels are interpolated too, and TF32 would change them.
    exact = lax.Precision.HIGHEST
    x = jnp.einsum("ph,nchw->ncpw", jnp.asarray(interpolation(x.shape[2], height), x.dtype), x, precision=exact)
    return jnp.einsum("qw,ncpw->ncpq", jnp.asarray(interpolation(x.shape[3], width), x.dtype), x, precision=exact)


def interpolation(size: int, out: int) -> np.ndarray:
    """The matrix (out, size) of linear interpolation at ``i (size - 1) / (out - 1)``; one output is the first cell."""
    at = np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    low = np.minimum(at.astype(int), size - 1)
    share = at - low
    matrix = np.zeros((out, size))
    matrix[np.arange(out), low] = 1 - share
    matrix[np.arange(out), np.minimum(low + 1, size - 1)] += share
    return matrix


def repeat(x: jax.Array, scale_h: int, scale_w: int) -> jax.Array:
    """Nearest neighbour: each cell becomes scale_h by scale_w equal ones. x: (N, C, H, W)."""
    n, c, h, w = x.shape
    spread = jnp.broadcast_to(x[:, :, :, None, :, None], (n, c, h, scale_h, w, scale_w))
    return spread.reshape(n, c, h * scale_h, w * scale_w)


def unpool(x: jax.Array, mask: jax.Array, height: int, width: int) -> jax.Array:
    """Each value at the place in its plane that the mask gives, ``h * width + w``; 0 elsewhere.

    x, mask: (N, C, H, W) -> (N, C, height, width). Of several values for one place the last in row-major order stays,
    and it alone has a gradient. A place outside the output makes its plane NaN.
    """
    planes, count = x.shape[:2], math.prod(x.shape[2:])
    values = x.reshape(-1, count)
    places = lax.stop_gradient(mask).reshape(-1, count)
    order = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), places.shape)
    plane = jnp.arange(places.shape[0])[:, None]
    inside = (places > -1) & (places < height * width)  # NaN is outside
    safe = jnp.where(inside, places, 0).astype(jnp.int32)
    last = jnp.full((places.shape[0], height * width), -1, jnp.int32).at[plane, safe].max(order)
    kept = jnp.where(last[plane, safe] == order, values, 0)
    out = jnp.zeros_like(values, shape=(places.shape[0], height * width)).at[plane, safe].add(kept)
    return jnp.where(inside.all(1, keepdims=True), out, jnp.nan).reshape(*planes, height, width)
