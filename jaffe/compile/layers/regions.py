"""Pooling over regions of interest: ROIPooling (Fast R-CNN), PSROIPooling (R-FCN)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.indexing import row_index
from jaffe.compile.lowering.regions import Interval, rectangle_maxima


class _Regions(Layer):
    """Bottoms: a map (N, C, H, W) and regions (R, 5) of image, x1, y1, x2, y2 in pixels of the image."""

    bottoms = (2, 2)
    constant_bottoms = (1,)
    arithmetic = "sums"

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Refuse blobs that are not a map and regions, and a scale that is not positive."""
        if len(bottoms[0]) != 4:
            raise self.node.error(f"expected a map of 4 axes (N, C, H, W); found {bottoms[0]}")
        if len(bottoms[1]) < 2 or math.prod(bottoms[1][1:]) != 5:
            raise self.node.error(f"expected regions of shape (R, 5): image, x1, y1, x2, y2; found {bottoms[1]}")
        if not self.p.spatial_scale > 0:
            raise self.node.error(f"spatial_scale is positive; found {self.p.spatial_scale:g}")

    def image(self, regions: Array, batch: int) -> Array:
        """Of each region (R, 5) the image, ``batch`` for none of the batch and where a corner is not finite."""
        sound = jnp.isfinite(regions).all(1)
        return row_index(jnp.where(sound, regions[:, 0], -1), batch)


@built_in("ROIPooling")
class ROIPooling(_Regions):
    """Maximum over each of ``pooled_h`` x ``pooled_w`` bins of a region, which may overlap by a row or column.

    Shapes: map (N, C, H, W), regions (R, 5) -> (R, C, pooled_h, pooled_w). Corners are multiplied by
    ``spatial_scale`` and rounded, halves away from 0; both ends belong to the region, at least one cell. Bin i of a
    height h runs from ``floor(i h / pooled_h)`` to below ``ceil((i + 1) h / pooled_h)``, cut to the map; an empty
    one gives 0. The gradient goes to the first maximum in row-major order, and to the map only.
    A region of an image that is not in the batch, or with a corner that is not finite, gives NaN.
    Source: Fast R-CNN's ``roi_pooling_layer.cpp``. Bins are whole-number arithmetic here; there float32 now and
    then rounds the end of the last bin up by one.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check(bottoms)
        if not self.p.pooled_h or not self.p.pooled_w:
            raise self.node.error(f"pooled_h and pooled_w are positive; found {self.p.pooled_h} and {self.p.pooled_w}")
        return [(bottoms[1][0], bottoms[0][1], self.p.pooled_h, self.p.pooled_w)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, regions = bottoms[0], lax.stop_gradient(bottoms[1]).reshape(-1, 5)
        corners = _round(regions[:, 1:] * self.p.spatial_scale).astype(jnp.int32)
        rows = _bins(corners[:, 1], corners[:, 3], self.p.pooled_h, x.shape[2])
        columns = _bins(corners[:, 0], corners[:, 2], self.p.pooled_w, x.shape[3])
        image = self.image(regions, x.shape[0])
        inside = image < x.shape[0]
        place = rectangle_maxima(lax.stop_gradient(x), jnp.where(inside, image, 0), rows, columns)
        channel = jnp.arange(x.shape[1])[:, None, None]
        picked = x.reshape(*x.shape[:2], -1).at[image[:, None, None, None], channel, place]
        top = picked.get(mode="fill", fill_value=jnp.nan)
        cells = (rows[0] < rows[1])[:, :, None] & (columns[0] < columns[1])[:, None, :]
        return [jnp.where(cells[:, None] | ~inside[:, None, None, None], top, 0)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Of the comparisons: the table of maxima, and four of them a bin."""
        _, _, height, width = bottoms[0]
        return 2 * math.prod(bottoms[0]) * height.bit_length() * width.bit_length() + 8 * math.prod(tops[0])


@built_in("PSROIPooling")
class PSROIPooling(_Regions):
    """Mean over each of ``group_size``^2 bins of a region, each bin from channels of its own.

    Shapes: map (N, output_dim * g^2, H, W), regions (R, 5) -> (R, output_dim, g, g), g = ``group_size``: bin (i, j)
    of top channel d is the mean of map channel ``(d g + i) g + j``. Corners are rounded, the second one past its
    pixel, and multiplied by ``spatial_scale``; a side is at least 0.1. Bin i of the side s from a runs from
    ``floor(a + i s / g)`` to below ``ceil(a + (i + 1) s / g)``, cut to the map; an empty one gives 0.
    The gradient reaches the map only. A region of an image that is not in the batch, or with a corner that is not
    finite, gives NaN.
    Source: R-FCN's ``psroi_pooling_layer.cu``. An edge within 1e-4 of a whole number counts as that number, where
    float32 rounding would decide.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.check(bottoms)
        group, out = self.p.group_size, self.p.output_dim
        if group <= 0 or out <= 0:
            raise self.node.error(f"group_size and output_dim are positive; found {group} and {out}")
        if bottoms[0][1] != out * group * group:
            raise self.node.error(f"expected {out * group * group} channels, output_dim times group_size squared; "
                                  f"found {bottoms[0][1]}")
        return [(bottoms[1][0], out, group, group)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, regions = bottoms[0], lax.stop_gradient(bottoms[1]).reshape(-1, 5)
        group, scale = self.p.group_size, self.p.spatial_scale
        corners = _round(regions[:, 1:])
        start, end = corners[:, :2] * scale, (corners[:, 2:] + 1) * scale
        side = jnp.maximum(end - start, 0.1)
        columns, rows = (_spans(start[:, i], side[:, i], group, x.shape[3 - i]) for i in range(2))
        image = self.image(regions, x.shape[0])
        inside = image < x.shape[0]
        maps = x.reshape(x.shape[0], self.p.output_dim, group, group, *x.shape[2:])

        def sums(region: tuple[Array, Array, Array]) -> Array:
            image, rows, columns = region
            cells = rows[:, None, :, None] & columns[:, None, :]  # (g, g, H, W)
            return jnp.where(cells, maps[image], 0).sum((-2, -1))

        total = lax.map(sums, (jnp.where(inside, image, 0), rows, columns))
        cells = jnp.einsum("ri,rj->rij", rows.sum(-1), columns.sum(-1))[:, None]
        mean = total / jnp.maximum(cells, 1)
        return [jnp.where(inside[:, None, None, None], mean, jnp.nan)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """As it is done here: each region looks at the whole plane."""
        return 2 * bottoms[1][0] * math.prod(bottoms[0][1:])


def _round(x: Array) -> Array:
    """To the nearest whole number, halves away from 0, as C's ``round``."""
    whole = jnp.trunc(x)
    return whole + jnp.where(jnp.abs(x - whole) >= 0.5, jnp.sign(x), 0)


def _bins(first: Array, last: Array, bins: int, size: int) -> Interval:
    """First cell and the one after the last, (R, bins), of the bins of cells ``first`` to ``last`` (R), in the map."""
    length = jnp.maximum(last - first + 1, 1)[:, None]
    i = jnp.arange(bins, dtype=jnp.int32)
    start, end = first[:, None] + i * length // bins, first[:, None] - (-(i + 1) * length // bins)
    return start.clip(0, size), end.clip(0, size)


def _spans(start: Array, side: Array, bins: int, size: int) -> Array:
    """Which cells (R, bins, size) the bins of ``side`` from ``start`` (R), real numbers, touch."""
    edges = start[:, None] + jnp.arange(bins + 1, dtype=side.dtype) * (side / bins)[:, None]
    whole = jnp.round(edges)
    edges = jnp.where(jnp.abs(edges - whole) < 1e-4, whole, edges)
    place = jnp.arange(size, dtype=side.dtype)
    return (place >= jnp.floor(edges[:, :-1, None])) & (place < jnp.ceil(edges[:, 1:, None]))
