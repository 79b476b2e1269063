"""Layers that repeat, cut out or reorder: Tile, Crop, Permute, ShuffleChannel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Shape, built_in
from jaffe.compile.layers.routing import Routing


@built_in("Tile")
class Tile(Routing):
    """The bottom ``tiles`` times, one after another along ``axis``: A, B becomes A, B, A, B.

    Source: Caffe 1.0, ``tile_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        axis = self.axis(self.p.axis, len(x))
        if self.p.tiles < 1:
            raise self.node.error(f"expected tiles > 0; found {self.p.tiles if self.p.HasField('tiles') else 'none'}")
        return [(*x[:axis], x[axis] * self.p.tiles, *x[axis + 1 :])]

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return bool(self.p.tiles == 1)

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        repeats = [1] * x.ndim
        repeats[self.axis(self.p.axis, x.ndim)] = self.p.tiles
        return [jnp.tile(x, repeats)]


@built_in("Crop")
class Crop(Routing):
    """The first bottom cut to the sizes of the second on every axis from ``axis`` on, beginning at ``offset``.

    Shapes: x (N, C, H, W), reference (_, _, h, w) -> (N, C, h, w) for axis 2. No ``offset`` is 0, one is for all
    cut axes, else there is one for each. The second bottom gets no gradient. Source: Caffe 1.0, ``crop_layer.cpp``.
    """

    bottoms = (2, 2)
    constant_bottoms = (1,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, reference = bottoms
        if len(x) != len(reference):
            raise self.node.error(f"bottoms have as many axes; found {x} and {reference}")
        starts = self._starts(len(x))
        first = len(x) - len(starts)
        top = (*x[:first], *reference[first:])
        for axis, start in enumerate(starts, first):
            if start + top[axis] > x[axis]:
                raise self.node.error(f"on axis {axis} expected offset + size of at most {x[axis]}; "
                                      f"found {start} + {top[axis]}")
        return [top]

    def _starts(self, ndim: int) -> list[int]:
        """Where each cut axis begins."""
        cut, offset = ndim - self.axis(self.p.axis, ndim), list(self.p.offset)
        if len(offset) not in (0, 1, cut):
            raise self.node.error(f"expected no offset, one, or one for each of {cut} axes; found {len(offset)}")
        return offset if len(offset) == cut else (offset or [0]) * cut

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return self.shapes(bottoms)[0] == bottoms[0]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, reference = bottoms
        starts = self._starts(x.ndim)
        for axis, start in enumerate(starts, x.ndim - len(starts)):
            x = lax.slice_in_dim(x, start, start + reference.shape[axis], axis=axis)
        return [x]


@built_in("Permute")
class Permute(Routing):
    """Axes in another ``order``: axis i of the top is axis order[i] of the bottom; those not named follow as they were.

    Source: Liu et al. 2016, SSD, and its fork of Caffe.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        return [tuple(x[axis] for axis in self._order(len(x)))]

    def _order(self, ndim: int) -> list[int]:
        order = list(self.p.order)
        if len(set(order)) < len(order) or any(axis >= ndim for axis in order):
            raise self.node.error(f"order names axes from 0 to {ndim - 1}, each once; found {order}")
        return order + [axis for axis in range(ndim) if axis not in order]

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return self._order(len(bottoms[0])) == list(range(len(bottoms[0])))

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jnp.transpose(bottoms[0], self._order(bottoms[0].ndim))]


@built_in("ShuffleChannel")
class ShuffleChannel(Routing):
    """Channels of ``group`` groups taken in turn: ``y[j group + i] = x[i C / group + j]`` along axis 1.

    Shapes: (N, C, ...), unchanged. Source: Zhang et al. 2018, ShuffleNet, and its forks of Caffe.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, group = bottoms[0], self.p.group
        if len(x) < 2:
            raise self.node.error(f"expected a blob of at least 2 axes; found {x}")
        if not group or x[1] % group:
            raise self.node.error(f"expected a group that divides {x[1]} channels; found {group}")
        return [x]

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return self.p.group in (1, bottoms[0][1])

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, group = bottoms[0], self.p.group
        parts = x.reshape(x.shape[0], group, x.shape[1] // group, *x.shape[2:])
        return [jnp.swapaxes(parts, 1, 2).reshape(x.shape)]
