"""Losses of distances: ContrastiveLoss, SmoothL1Loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.loss import check_first_axis

_EPS = 1e-4  # what Caffe adds to a distance that it divides by


@built_in("ContrastiveLoss")
class ContrastiveLoss(Layer):
    """Pulls similar pairs together and pushes the others ``margin`` apart (Hadsell et al. 2006).

    ``sum over pairs of (d^2 where y != 0, max(margin - d, 0)^2 where y = 0) / (2 N)``, d the Euclidean distance of
    a and b; with ``legacy_version`` ``max(margin - d^2, 0)`` where y = 0.
    Shapes: a and b (N, C, ...), y (N) -> (). y is cut to a whole number; NaN gives NaN. As in Caffe the gradient
    of a dissimilar pair divides by d + 1e-4, so that it is 0 at d = 0.
    Source: Caffe 1.0, ``contrastive_loss_layer.cpp``; its GPU code leaves ``a - b`` out of the legacy gradient.
    """

    bottoms = (3, 3)
    constant_bottoms = (2,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_first_axis(self, bottoms)
        a, b, y = bottoms
        if math.prod(a) != math.prod(b):
            raise self.node.error(f"the first two bottoms have one count; found {a} and {b}")
        if math.prod(y) != a[0]:
            raise self.node.error(f"expected one similarity for each of {a[0]} pairs; found {math.prod(y)}, {y}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        a, b = bottoms[0], bottoms[1].reshape(bottoms[0].shape)
        y = lax.stop_gradient(bottoms[2]).reshape(-1)
        square = jnp.square(a - b).reshape(a.shape[0], -1).sum(1)
        margin = self.p.margin
        apart = jnp.where(margin > square, margin - square, 0) if self.p.legacy_version else _apart(margin, square)
        loss = jnp.where(jnp.trunc(y) != 0, square, apart)
        return [jnp.where(jnp.isnan(y), jnp.nan, loss).sum() / (2 * a.shape[0])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 3 * math.prod(bottoms[0])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _apart(margin: float, square: Array) -> Array:
    """``max(margin - sqrt(square), 0)^2``, with Caffe's slope."""
    return jnp.square(jnp.maximum(margin - jnp.sqrt(square), 0))


@_apart.defjvp
def _apart_jvp(margin: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (square,), (tangent,) = primals, tangents
    d = jnp.sqrt(square)
    return _apart(margin, square), -jnp.maximum(margin - d, 0) / (d + _EPS) * tangent


@built_in("SmoothL1Loss")
class SmoothL1Loss(Layer):
    """``sum of outside * f(inside * (a - b)) / N``, f(x) = ``0.5 (sigma x)^2`` where |x| < 1 / sigma^2, else
    ``|x| - 0.5 / sigma^2``: Huber's loss.

    Shapes: a, b and, where given, the inside and then the outside weights, of one count -> (). N is the first axis.
    The gradient reaches a and b. Source: Fast R-CNN's and SSD's ``smooth_L1_loss_layer.cpp``.
    """

    bottoms = (2, 4)
    constant_bottoms = (2, 3)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_first_axis(self, bottoms)
        if any(math.prod(shape) != math.prod(bottoms[0]) for shape in bottoms):
            raise self.node.error(f"bottoms have one count; found {', '.join(map(str, bottoms))}")
        if not self.p.sigma > 0:
            raise self.node.error(f"sigma is positive; found {self.p.sigma:g}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        a, b, *masks = (x.reshape(bottoms[0].shape) for x in bottoms)
        inside, outside, *_ = [*map(lax.stop_gradient, masks), 1, 1]
        return [(outside * smooth_l1(inside * (a - b), self.p.sigma)).sum() / a.shape[0]]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return (3 + len(bottoms)) * math.prod(bottoms[0])


def smooth_l1(x: Array, sigma: float = 1.0) -> Array:
    """``0.5 (sigma x)^2`` where |x| < 1 / sigma^2, else ``|x| - 0.5 / sigma^2``, element by element."""
    size, turn = jnp.abs(x), 1 / sigma**2
    near = size < turn
    return jnp.where(near, 0.5 * jnp.square(sigma * jnp.where(near, x, 0)), size - 0.5 * turn)
