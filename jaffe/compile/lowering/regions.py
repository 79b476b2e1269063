"""Where the maxima of many rectangles of a map stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Interval = tuple[jax.Array, jax.Array]  # first cell, and the one after the last


def rectangle_maxima(x: jax.Array, image: jax.Array, rows: Interval, columns: Interval) -> jax.Array:
    """The places ``h * W + w`` of the first largest values, (R, C, PH, PW), of PH x PW rectangles for each region.

    x: (N, C, H, W). image: (R). rows: two (R, PH), columns: two (R, PW); intervals are inside the map, places of
    empty ones mean nothing. NaN counts as infinite. Has no gradient; take the values at the places.

    A sparse table: the places are found beforehand for all rectangles of sides 1, 2, 4, ..., in about
    log2(H) log2(W) maps of integers; four of those make up any rectangle.
    """
    batch, channels, height, width = x.shape
    values = jnp.where(jnp.isnan(x), jnp.inf, x).transpose(0, 2, 3, 1)
    places = jnp.broadcast_to(jnp.arange(height * width, dtype=jnp.int32).reshape(height, width, 1), values.shape)
    table = [level for wide in _doubled((values, places), 2) for level in _doubled(wide, 1)]
    tall = len(table) // (width.bit_length())
    found = jnp.stack([places for _, places in table])

    (top, down), (left, right) = _corners(rows, height), _corners(columns, width)
    level = _level(rows)[:, :, None] + tall * _level(columns)[:, None, :]
    image = image[:, None, None]
    flat = values.reshape(batch, height * width, channels)

    def look(row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        place = found[level, image, row[:, :, None], column[:, None, :]]  # (R, PH, PW, C)
        return flat[image[..., None], place, jnp.arange(channels)], place

    upper, lower = _first(look(top, left), look(top, right)), _first(look(down, left), look(down, right))
    return _first(upper, lower)[1].transpose(0, 3, 1, 2)


def _doubled(level: tuple[jax.Array, jax.Array], axis: int) -> list[tuple[jax.Array, jax.Array]]:
    """Largest values and their places over 1, 2, 4, ... cells from each on; what would hang over is not used."""
    levels, length, size = [level], 1, level[0].shape[axis]
    while 2 * length <= size:
        levels.append(_first(levels[-1], _rolled(levels[-1], -length, axis)))
        length *= 2
    return levels


def _rolled(level: tuple[jax.Array, jax.Array], by: int, axis: int) -> tuple[jax.Array, jax.Array]:
    return jnp.roll(level[0], by, axis), jnp.roll(level[1], by, axis)


def _first(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The larger value and its place; of equal ones the earlier place."""
    later = (other[0] > one[0]) | ((other[0] == one[0]) & (other[1] < one[1]))
    return jnp.where(later, other[0], one[0]), jnp.where(later, other[1], one[1])


def _level(interval: Interval) -> jax.Array:
    """The exponent of the largest power of 2 that is not longer than the interval."""
    length = jnp.maximum(interval[1] - interval[0], 1)
    return jnp.where(length[..., None] >= 2 ** np.arange(1, 31), 1, 0).sum(-1)


def _corners(interval: Interval, size: int) -> Interval:
    """Where the two pieces of that length begin: at the start, and so that the last ends at the end."""
    start = jnp.minimum(interval[0], size - 1)
    return start, jnp.maximum(interval[1] - 2 ** _level(interval), start)
