"""Convolution as matrix products of patches: im2col, its cheaper relatives, and their gradients.

All work channels-last. A *tap* is a cell of the kernel. What one matrix product sees:

- ``im2col``: the patches of all taps side by side, (cells, taps C) @ (taps C, O). Most memory, largest product.
- ``rows``: the taps of the last axis side by side, one product for each tap of the other axes, summed.
- ``shifted``: one product a tap, summed. No patches; a 1x1 kernel needs nothing but the product.
- ``spread`` (input gradient): the product for all taps at once, then each tap's part added where it came from (col2im).

Large patches are made for some images at a time, so that they stay in the cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.compile.lowering.layout import channels_first, channels_last

Product = Callable[[jax.Array, jax.Array], jax.Array]  # of matrices
AT_ONCE = 2**21  # floats of patches at a time: a fraction of an outer cache


def over_columns(a: jax.Array, b: jax.Array) -> jax.Array:
    """(rows, K) and (O, K) -> (rows, O)."""
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())))


def over_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """(rows, O) and (rows, K) -> (O, K).

    In this order: XLA's product of a transposed matrix is faster the fewer rows come of it.
    """
    return a.T @ b


def im2col(
    x: jax.Array, weight: jax.Array, geometry: ConvGeometry, product: Product = over_columns
) -> jax.Array:
    """One product."""
    kernel = weight.shape[2:]
    patches = jnp.concatenate(taps(padded(x, geometry), kernel, geometry), -1)
    return channels_first(_times(patches, _flat(weight), product))


def rows(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """A product for each tap of the axes before the last."""
    kernel = weight.shape[2:]
    parts = _rows(padded(x, geometry), kernel, geometry)
    products = (_times(part, _flat(weight[(slice(None), slice(None), *at)])) for at, part in parts)
    return channels_first(functools.reduce(jnp.add, products))


def shifted(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """A product a tap."""
    kernel = weight.shape[2:]
    parts = taps(padded(x, geometry), kernel, geometry)
    weights = [weight[(slice(None), slice(None), *at)] for at in np.ndindex(*kernel)]
    products = (_times(part, tap) for part, tap in zip(parts, weights, strict=True))
    return channels_first(functools.reduce(jnp.add, products))


def spread(
    gradient: jax.Array, weight: jax.Array, geometry: ConvGeometry, spatial: Sequence[int],
    product: Product = jnp.matmul,
) -> jax.Array:
    """The input's gradient: each tap's product with the output's gradient, added up where the tap lies."""
    kernel, back = weight.shape[2:], channels_last(gradient)
    whole = product(back.reshape(-1, back.shape[-1]), _flat(weight)).reshape(*back.shape[:-1], -1)
    parts = jnp.split(whole, math.prod(kernel), -1)
    return channels_first(added(parts, kernel, geometry, spatial))


def added(
    parts: Sequence[jax.Array], kernel: Sequence[int], geometry: ConvGeometry, spatial: Sequence[int]
) -> jax.Array:
    """The transpose of ``taps``: of each tap (N, out..., C), added where the windows see it: (N, spatial..., C)."""
    places = (_placed(part, at, geometry, spatial) for part, at in zip(parts, np.ndindex(*kernel), strict=True))
    return functools.reduce(jnp.add, places)


def _placed(part: jax.Array, at: Sequence[int], geometry: ConvGeometry, spatial: Sequence[int]) -> jax.Array:
    """What one tap gives."""
    config = []
    axes = zip(at, spatial, part.shape[1:-1], geometry.stride, geometry.pad, geometry.dilation, strict=True)
    for t, size, out, stride, (before, _), dilation in axes:
        start = dilation * t - before
        config.append((start, size - start - ((out - 1) * stride + 1), stride - 1))
    return lax.pad(part, np.zeros((), part.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def im2col_weight(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int], product: Product = over_rows
) -> jax.Array:
    """The weight's gradient: one product of the output's gradient with the patches."""
    patches = jnp.concatenate(taps(padded(x, geometry), kernel, geometry), -1)
    return _weights(_over_cells(gradient, patches, product), kernel)


def onehot_weight(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int],
    convolution: Callable[[jax.Array, jax.Array, ConvGeometry], jax.Array], product: Product = over_rows,
) -> jax.Array:
    """As ``im2col_weight``, with patches by a convolution with a kernel for each of their values: 1 there, else 0.

    For images of one or a few channels that is faster than slices put side by side.
    """
    channels, count = x.shape[1], x.shape[1] * math.prod(kernel)
    onehot = jnp.moveaxis(jnp.eye(count, dtype=x.dtype).reshape(count, *kernel, channels), -1, 1)
    patches = channels_last(convolution(x, onehot, geometry))
    return _weights(_over_cells(gradient, patches, product), kernel)


def rows_weight(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """The weight's gradient: a product for each tap of the axes before the last."""
    parts = [_over_cells(gradient, part) for _, part in _rows(padded(x, geometry), kernel, geometry)]
    return _weights(jnp.concatenate(parts, -1), kernel)


def shifted_weight(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """The weight's gradient: a product a tap."""
    parts = [_over_cells(gradient, part) for part in taps(padded(x, geometry), kernel, geometry)]
    return _weights(jnp.concatenate(parts, -1), kernel)


def by_images(candidate: Callable[..., jax.Array], images: int) -> Callable[..., jax.Array]:
    """A forward pass or input gradient of so many images at a time, a divisor of the batch."""

    def cut(x: jax.Array, *rest: object) -> jax.Array:
        parts = x.reshape(-1, images, *x.shape[1:])
        found = lax.map(lambda part: candidate(part, *rest), parts)
        return found.reshape(-1, *found.shape[2:])

    return cut


def weight_by_images(candidate: Callable[..., jax.Array], images: int) -> Callable[..., jax.Array]:
    """A weight gradient summed over so many images at a time, a divisor of the batch."""

    def cut(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
        parts = [one.reshape(-1, images, *one.shape[1:]) for one in (x, gradient)]
        start = jnp.zeros((gradient.shape[1], x.shape[1] // geometry.group, *kernel), x.dtype)
        return lax.scan(lambda total, part: (total + candidate(*part, geometry, kernel), None), start, parts)[0]

    return cut


def images_at_once(batch: int, patches: int) -> int:
    """How many images at a time, a divisor of the batch, keep so many floats of patches a batch within ``AT_ONCE``."""
    most = min(max(AT_ONCE * batch // patches, 1), batch)
    return next(images for images in range(most, 0, -1) if batch % images == 0)


def padded(x: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Channels last, with the zeros around it; negative pads take away."""
    config = [(0, 0, 0), *((before, after, 0) for before, after in geometry.pad), (0, 0, 0)]
    return lax.pad(channels_last(x), np.zeros((), x.dtype), config)


def taps(x: jax.Array, kernel: Sequence[int], geometry: ConvGeometry) -> list[jax.Array]:
    """For each tap, in row-major order, the values that all windows see there: (N, out..., C)."""
    return [_at(x, at, kernel, geometry) for at in np.ndindex(*kernel)]


def _rows(
    x: jax.Array, kernel: Sequence[int], geometry: ConvGeometry
) -> list[tuple[tuple[int, ...], jax.Array]]:
    """For each tap of the axes before the last: its place, and the values of all taps of the last, side by side."""
    last = [
        lax.slice_in_dim(x, start, stop, step, -2)
        for start, stop, step in (_span(x, -1, t, kernel, geometry) for t in range(kernel[-1]))
    ]
    wide = jnp.concatenate(last, -1)
    found = []
    for at in np.ndindex(*kernel[:-1]):
        part = wide
        for axis, t in enumerate(at):
            part = lax.slice_in_dim(part, *_span(x, axis, t, kernel, geometry), axis + 1)
        found.append((at, part))
    return found


def _at(x: jax.Array, at: Sequence[int], kernel: Sequence[int], geometry: ConvGeometry) -> jax.Array:
    spans = [_span(x, axis, t, kernel, geometry) for axis, t in enumerate(at)]
    starts, stops, steps = zip(*spans, strict=True)
    first, channels = x.shape[0], x.shape[-1]
    return lax.slice(x, (0, *starts, 0), (first, *stops, channels), (1, *steps, 1))


def _span(
    x: jax.Array, axis: int, tap: int, kernel: Sequence[int], geometry: ConvGeometry
) -> tuple[int, int, int]:
    """Start, stop and step along a spatial axis of what all windows see at a tap."""
    size = x.shape[1:-1][axis]
    stride, dilation = geometry.stride[axis], geometry.dilation[axis]
    out = (size - dilation * (kernel[axis] - 1) - 1) // stride + 1
    start = tap * dilation
    return start, start + (out - 1) * stride + 1, stride


def _flat(weight: jax.Array) -> jax.Array:
    """(O, C, kernel...) -> (O, taps C). Rows stay rows: XLA:CPU turns a large matrix round slowly."""
    return jnp.moveaxis(weight, 1, -1).reshape(weight.shape[0], -1)


def _times(patches: jax.Array, weight: jax.Array, product: Product = over_columns) -> jax.Array:
    """(..., K) and (O, K) -> (..., O)."""
    return product(patches.reshape(-1, patches.shape[-1]), weight).reshape(*patches.shape[:-1], -1)


def _over_cells(gradient: jax.Array, patches: jax.Array, product: Product = over_rows) -> jax.Array:
    """(N, O, out...) and (N, out..., K) -> (O, K): summed over images and places."""
    return product(channels_last(gradient).reshape(-1, gradient.shape[1]), patches.reshape(-1, patches.shape[-1]))


def _weights(product: jax.Array, kernel: Sequence[int]) -> jax.Array:
    """(O, taps C) -> (O, C, kernel...)."""
    return jnp.moveaxis(product.reshape(product.shape[0], *kernel, -1), -1, 1)
