"""Boxes (xmin, ymin, xmax, ymax) on a last axis of 4: offsets from prior boxes, overlaps, non-maximum suppression."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.netdef.jaffe_pb2 import PriorBoxParameter


def decode(code: int, prior: jax.Array, variance: jax.Array, offset: jax.Array) -> jax.Array:
    """The boxes that offsets from prior boxes stand for.

    CORNER: ``prior + v o``. CORNER_SIZE: ``prior + v o size(prior)``. CENTER_SIZE: the centre is the prior's
    plus ``v o size(prior)``, the size ``exp(v o) size(prior)``. All shapes broadcast.
    """
    moved = variance * offset
    size = prior[..., 2:] - prior[..., :2]
    if code == PriorBoxParameter.CORNER:
        return prior + moved
    if code == PriorBoxParameter.CORNER_SIZE:
        return prior + moved * jnp.concatenate([size, size], -1)
    centre = (prior[..., :2] + prior[..., 2:]) / 2 + moved[..., :2] * size
    half = jnp.exp(moved[..., 2:]) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def encode(code: int, prior: jax.Array, variance: jax.Array, box: jax.Array) -> jax.Array:
    """The offsets that ``decode`` makes the boxes of. Boxes and priors have positive sizes."""
    size = prior[..., 2:] - prior[..., :2]
    if code == PriorBoxParameter.CORNER:
        return (box - prior) / variance
    if code == PriorBoxParameter.CORNER_SIZE:
        return (box - prior) / jnp.concatenate([size, size], -1) / variance
    centre = (box[..., :2] + box[..., 2:] - prior[..., :2] - prior[..., 2:]) / 2 / size
    return jnp.concatenate([centre, jnp.log((box[..., 2:] - box[..., :2]) / size)], -1) / variance


def overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union; 0 where boxes do not meet. Leading axes broadcast."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    meet = (sides > 0).all(-1)
    common = sides[..., 0] * sides[..., 1]
    return jnp.where(meet, common / jnp.where(meet, _area(a) + _area(b) - common, 1), 0)


def _area(box: jax.Array) -> jax.Array:
    """0 for a box whose end comes before its start."""
    return jnp.maximum(box[..., 2:] - box[..., :2], 0).prod(-1)


def suppress(boxes: jax.Array, count: jax.Array, threshold: float, eta: float = 1.0) -> jax.Array:
    """Which of the first ``count`` boxes survive non-maximum suppression, those before counting as better.

    A box is kept when it overlaps no kept box by more than the threshold. With ``eta`` < 1 each box kept
    multiplies a threshold above 0.5 by eta. One loop for all rows, as long as the longest ``count``: each
    step compares one box of each row with all others of the row.

    Args:
        boxes: (..., K, 4), best first.
        count: (...), at most K.

    Returns:
        A mask (..., K).
    """
    places = jnp.arange(boxes.shape[-2])
    last = count.max(initial=0)

    def step(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        i, kept, limit = state
        box = lax.dynamic_index_in_dim(boxes, i, -2)
        clash = (kept & (overlap(box, boxes) > limit[..., None])).any(-1)
        keep = ~clash & (i < count)
        kept = kept | ((places == i) & keep[..., None])
        if eta < 1:
            limit = jnp.where(keep & (limit > 0.5), limit * eta, limit)
        return i + 1, kept, limit

    start = (jnp.zeros((), jnp.int32), jnp.zeros(boxes.shape[:-1], bool), jnp.full(count.shape, threshold, boxes.dtype))
    return lax.while_loop(lambda state: state[0] < last, step, start)[1]
