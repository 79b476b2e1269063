"""Layers whose values say where values go: ArgMax, BatchReindex, Filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in


def row_index(index: Array, count: Array | int) -> Array:
    """An index stored as floats as a whole number, its fractions cut off; ``count`` if outside 0..count-1, or NaN."""
    inside = (index > -1) & (index < count)
    return jnp.where(inside, index.astype(jnp.int32), count)


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest values of the last axis and their indices; of a tie the smaller index comes first."""
    _, index = lax.top_k(jnp.where(x == 0, 0, x), k)  # lax orders -0.0 below 0.0
    return jnp.take_along_axis(x, index, -1), index


def take_rows(table: Array, index: Array) -> Array:
    """``table[index]`` along the first axis, for an index stored as floats: its fractions are cut off.

    Shapes: table (R, ...), index (I...) -> (I..., ...). Rows of an index outside 0..R-1 are NaN.
    """
    return jnp.take(table, row_index(index, table.shape[0]), axis=0, mode="fill", fill_value=jnp.nan)


@built_in("ArgMax")
class ArgMax(Layer):
    """Places of the ``top_k`` largest values, largest first; of a tie the larger index comes first.

    With ``axis``: along it, shape as the bottom with top_k there; with ``out_max_val`` the values in place of their
    indices. Without: over each whole item, (N, 1, top_k) indices, or with out_max_val (N, 2, top_k), indices then
    values; more axes of 1 follow for a bottom of more than 3. Values carry a gradient, where Caffe has none.
    Source: Caffe 1.0, ``argmax_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, k = bottoms[0], self.p.top_k
        if self.p.HasField("axis"):
            axis = self.axis(self.p.axis, len(x))
            top = (*x[:axis], k, *x[axis + 1 :])
            size = x[axis]
        else:
            if not x:
                raise self.node.error("expected a blob of at least 1 axis; found ()")
            top = (x[0], 1 + int(self.p.out_max_val), k, *[1] * (len(x) - 3))
            size = math.prod(x[1:])
        if not 1 <= k <= size:
            raise self.node.error(f"expected top_k from 1 to the number of values, {size}; found {k}")
        return [top]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        if p.HasField("axis"):
            axis = self.axis(p.axis, x.ndim)
            values, index = _largest(jnp.moveaxis(x, axis, -1), p.top_k)
            return [jnp.moveaxis(values if p.out_max_val else index, -1, axis)]
        values, index = _largest(x.reshape(x.shape[0], -1), p.top_k)
        rows = [index, values] if p.out_max_val else [index]
        return [jnp.stack(rows, 1).reshape(*self.shapes([x.shape])[0])]

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        return [self.p.out_max_val], [self.p.out_max_val]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(bottoms[0])


def _largest(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest values of the last axis and their indices, in x's type; of a tie the larger index comes first."""
    values, index = top_k(jnp.flip(x, -1), k)
    return values, (x.shape[-1] - 1 - index).astype(x.dtype)


@built_in("BatchReindex")
class BatchReindex(Layer):
    """Items by their indices: ``y[i] = x[index[i]]``; an item may be taken several times, its gradients add up.

    Shapes: x (N, ...), index (M) of whole numbers from 0 to N - 1 -> (M, ...). Fractions are cut off. An index
    outside gives an item of NaN, without gradient, where Caffe aborts. Source: Caffe 1.0, ``batch_reindex_layer.cpp``.
    """

    bottoms = (2, 2)
    constant_bottoms = (1,)
    arithmetic = "elementwise"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, index = bottoms
        if not x or len(index) != 1:
            raise self.node.error(f"expected items (N, ...) and indices (M,); found {x} and {index}")
        return [(*index, *x[1:])]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [take_rows(*bottoms)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0


@built_in("Filter")
class Filter(Layer):
    """Items of each bottom but the last whose selector, in the last, is not 0: first and in order, then zeros.

    Shapes: (N, ...) each, selector (N), (N, 1), ... -> (N, ...) each. The selector gets no gradient.
    Caffe's tops hold the selected items only, K of N. Shapes here may not depend on values, so the tops keep
    all N and are 0 from item K on, under jit and outside it alike. Where the number matters, cut the result
    outside jit: ``top[:K]``, with K the number of selectors that are not 0. For a loss, rather than filter, store
    its ``ignore_label`` as the label of each item that is not wanted: zeros among filtered labels are class 0.
    Source: Caffe 1.0, ``filter_layer.cpp``.
    """

    bottoms = (2, None)
    tops = (1, None)
    arithmetic = "elementwise"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        *items, selector = bottoms
        if len(self.node.tops) != len(items):
            raise self.node.error(f"expected as many tops as bottoms before the selector ({len(items)}); "
                                  f"found {len(self.node.tops)}")
        if not selector or any(size != 1 for size in selector[1:]):
            raise self.node.error(f"expected a selector of shape (N,), or (N, 1, ...); found {selector}")
        if any(shape[:1] != selector[:1] for shape in items):
            raise self.node.error(f"expected {selector[0]} items, as there are selectors; "
                                  f"found {', '.join(map(str, items))}")
        return items

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        *items, selector = bottoms
        chosen = selector.reshape(selector.shape[0]) != 0
        order = jnp.argsort(~chosen, stable=True)
        kept = jnp.arange(chosen.shape[0]) < chosen.sum()
        return [jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x[order], 0) for x in items]

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        items = [True] * len(self.node.tops)
        return [*items, False], items

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0
