"""Reduction and Axpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.netdef.jaffe_pb2 import ReductionParameter


def absolute(x: Array) -> Array:
    """``|x|`` with gradient sign(x), which is 0 at 0 as in Caffe; JAX's own is 1 there."""
    return x * lax.stop_gradient(jnp.sign(x))


@built_in("Reduction")
class Reduction(Layer):
    """``coeff`` times the SUM, the sum of absolute values (ASUM), of squares (SUMSQ), or the MEAN.

    Shapes: (N..., K...) -> (N...), over all axes from ``axis`` to the end. The gradient of ASUM at 0 is 0.
    Source: Caffe 1.0, ``reduction_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0][: self.axis(self.p.axis, len(bottoms[0]))]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        if p.operation == ReductionParameter.ASUM:
            x = absolute(x)
        elif p.operation == ReductionParameter.SUMSQ:
            x = x * x
        axes = tuple(range(self.axis(p.axis, x.ndim), x.ndim))
        y = x.mean(axes) if p.operation == ReductionParameter.MEAN else x.sum(axes)
        return [y if p.coeff == 1 else p.coeff * y]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        each = 2 if self.p.operation in (ReductionParameter.ASUM, ReductionParameter.SUMSQ) else 1
        scaled = self.p.coeff != 1 or self.p.operation == ReductionParameter.MEAN
        return each * math.prod(bottoms[0]) + scaled * math.prod(tops[0])


@built_in("Axpy")
class Axpy(Layer):
    """``a x + y``, with one a for each item and channel.

    Shapes: a (N, C), (N, C, 1), ...; x and y (N, C, ...) -> (N, C, ...).
    Source: Hu et al. 2018, Squeeze-and-Excitation Networks, and its fork of Caffe.
    """

    bottoms = (3, 3)
    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        a, x, y = bottoms
        if x != y or len(x) < 2:
            raise self.node.error(f"the second and third bottom have one shape, (N, C, ...); found {x} and {y}")
        if a[:2] != x[:2] or len(a) > len(x) or any(size != 1 for size in a[2:]):
            raise self.node.error(f"expected a first bottom of shape {x[:2]}, and ones; found {a}")
        return [x]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        a, x, y = bottoms
        return [a.reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * x + y]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 2 * math.prod(tops[0])
