"""Activations and Dropout. Shapes: any, unchanged, where the layer does not say otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.layers.arithmetic import absolute


class _Elementwise(Layer):
    arithmetic = "elementwise"

    def channelwise(self, axis: int) -> bool:
        return True


class _Sums(Layer):
    """The gradient of a slope adds up many values, and rounding before a power or an exponential grows in it."""

    arithmetic = "sums"


def _relu(x: Array, slope: float, capped: bool) -> Array:
    y = jax.nn.relu(x) if slope == 0 else jnp.where(x > 0, x, slope * x)
    return jnp.where(y >= 6, 6, y) if capped else y


@built_in("ReLU")
class ReLU(_Elementwise):
    """``y = x`` where x > 0, else ``negative_slope * x``; the gradient at 0 is negative_slope.

    With ``relu6: true`` no more than 6, as ReLU6. Source: Caffe 1.0, ``relu_layer.cpp``.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [_relu(bottoms[0], self.p.negative_slope, self.p.relu6)]


@built_in("ReLU6")
class ReLU6(_Elementwise):
    """``y = min(max(x, 0), 6)``; the gradient is 1 where 0 < x < 6, else 0.

    Source: Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10; forks of Caffe.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [_relu(bottoms[0], 0, True)]


@built_in("CReLU")
class CReLU(_Elementwise):
    """``[relu(x), relu(-x)]``, one after the other along ``axis``.

    Shapes: (N, C, ...) -> (N, 2 C, ...) for axis 1. Source: Shang et al. 2016; forks of Caffe.
    """

    def channelwise(self, axis: int) -> bool:
        return False

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        axis = self.axis(self.p.axis, len(x))
        return [(*x[:axis], 2 * x[axis], *x[axis + 1 :])]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        return [jax.nn.relu(jnp.concatenate([x, -x], self.axis(self.p.axis, x.ndim)))]


@built_in("PReLU")
class PReLU(_Sums):
    """``y = x`` where x > 0, else ``a x`` with a learned slope a for each channel (axis 1), or one for all.

    Shapes: (N, C, ...), unchanged. Weights: slope (C), or () with ``channel_shared``; starts at 0.25.
    At x = 0 the gradient is a. Source: He et al. 2015; Caffe 1.0, ``prelu_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise self.node.error(f"expected a blob of at least 2 axes; found {bottoms[0]}")
        return [bottoms[0]]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        shape = () if self.p.channel_shared else (bottoms[0][1],)
        return [Weight("slope", shape, self.p.filler if self.p.HasField("filler") else constant(0.25))]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        slope = weights["slope"].reshape(-1, *[1] * (x.ndim - 2))
        return [jnp.where(x > 0, x, slope * x)]


@built_in("ELU")
class ELU(_Elementwise):
    """``y = x`` where x > 0, else ``alpha (exp(x) - 1)``, with gradient ``y + alpha``, at 0 too.

    Source: Clevert et al. 2016; Caffe 1.0, ``elu_layer.cpp``.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        below = jnp.where(x > 0, 0, x)  # exp of a large x would make the gradient NaN
        return [jnp.where(x > 0, x, self.p.alpha * jnp.expm1(below))]


@built_in("BNLL")
class BNLL(_Elementwise):
    """``y = log(1 + exp(x))``, without overflow. Source: Nair and Hinton 2010; Caffe 1.0, ``bnll_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jax.nn.softplus(bottoms[0])]


@built_in("Swish")
class Swish(_Elementwise):
    """``y = x / (1 + exp(-beta x))``. Source: Ramachandran et al. 2017; Caffe 1.0, ``swish_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [bottoms[0] * jax.nn.sigmoid(self.p.beta * bottoms[0])]


@built_in("Maxout")
class Maxout(_Elementwise):
    """``y[c] = max over j < pieces of x[c + j C / pieces]``, c and C on ``axis``; the first of a tie has the gradient.

    Shapes: (N, C, ...) -> (N, C / pieces, ...) for axis 1. Two pieces are the Max-Feature-Map of Light CNN.
    Source: Goodfellow et al. 2013; Wu et al. 2018; forks of Caffe.
    """

    def channelwise(self, axis: int) -> bool:
        return False

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, pieces = bottoms[0], self.p.pieces
        axis = self.axis(self.p.axis, len(x))
        if not pieces or x[axis] % pieces:
            raise self.node.error(f"expected pieces that divide axis {axis} of {x}; found {pieces}")
        return [(*x[:axis], x[axis] // pieces, *x[axis + 1 :])]

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return bool(self.p.pieces == 1)

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        pieces = jnp.split(bottoms[0], self.p.pieces, self.axis(self.p.axis, bottoms[0].ndim))
        return [reduce(lambda best, x: jnp.where(x > best, x, best), pieces)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return int(math.prod(tops[0]) * (self.p.pieces - 1))


@built_in("Sigmoid")
class Sigmoid(_Elementwise):
    """``y = 1 / (1 + exp(-x))``. Source: Caffe 1.0, ``sigmoid_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jax.nn.sigmoid(bottoms[0])]


@built_in("TanH")
class TanH(_Elementwise):
    """``y = tanh(x)``. Source: Caffe 1.0, ``tanh_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jnp.tanh(bottoms[0])]


@built_in("Power")
class Power(_Sums):
    """``y = (shift + scale x)^power``; a constant, without gradient, when power or scale is 0.

    Source: Caffe 1.0, ``power_layer.cpp``. The gradient at base 0 is the limit, where Caffe's is NaN.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        if p.power * p.scale == 0:
            with np.errstate(all="ignore"):  # what has no value is NaN or infinite, as in Caffe
                return [jnp.full_like(x, np.float64(1.0) if p.power == 0 else np.power(np.float64(p.shift), p.power))]
        base = p.shift + p.scale * x
        # Small whole powers are products, which keep a gradient at base 0.
        return [base ** (int(p.power) if p.power.is_integer() and abs(p.power) <= 64 else p.power)]

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        varies = self.p.power * self.p.scale != 0
        return [varies], [varies]


@built_in("Exp")
class Exp(_Sums):
    """``y = base^(shift + scale x)``; base -1, the default, is e. Source: Caffe 1.0, ``exp_layer.cpp``."""

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self.p.base <= 0 and self.p.base != -1:
            raise self.node.error(f"expected base > 0, or -1 for e; found {self.p.base:g}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        exponent = self.p.shift + self.p.scale * bottoms[0]
        return [jnp.exp(exponent if self.p.base == -1 else math.log(self.p.base) * exponent)]


@built_in("Log")
class Log(_Sums):
    """``y = log(shift + scale x)`` to ``base``; base -1, the default, is e. Below 0 it is NaN, at 0 -inf.

    Source: Caffe 1.0, ``log_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if self.p.base != -1 and (self.p.base <= 0 or self.p.base == 1):
            raise self.node.error(f"expected base > 0 and not 1, or -1 for e; found {self.p.base:g}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        y = jnp.log(self.p.shift + self.p.scale * bottoms[0])
        return [y if self.p.base == -1 else y / math.log(self.p.base)]


@built_in("AbsVal")
class AbsVal(_Elementwise):
    """``y = |x|``, with gradient sign(x), which is 0 at 0. Source: Caffe 1.0, ``absval_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [absolute(bottoms[0])]


@built_in("Threshold")
class Threshold(_Elementwise):
    """``y = 1`` where x > ``threshold``, else 0; without gradient. Source: Caffe 1.0, ``threshold_layer.cpp``."""

    constant_bottoms = (0,)
    constant_tops = (0,)

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [(bottoms[0] > self.p.threshold).astype(bottoms[0].dtype)]


@built_in("Clip")
class Clip(_Elementwise):
    """``y = max(min, min(x, max))``; the gradient is 1 where min <= x <= max, else 0.

    Source: Caffe 1.0, ``clip_layer.cpp``.
    """

    infinite = True

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        missing = [field for field in ("min", "max") if not self.p.HasField(field)]
        if missing:
            raise self.node.error(f"expected min and max; found no {' and no '.join(missing)}")
        if not self.p.min <= self.p.max:
            raise self.node.error(f"expected min <= max; found {self.p.min:g} and {self.p.max:g}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        return [jnp.where(x < p.min, p.min, jnp.where(x > p.max, p.max, x))]


@built_in("Dropout")
class Dropout(_Elementwise):
    """In phase TRAIN each element is kept with probability 1 - ratio and multiplied by 1 / (1 - ratio), else 0.

    In phase TEST the identity. Source: Srivastava et al. 2014; Caffe 1.0, ``dropout_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 0 <= self.p.dropout_ratio < 1:
            raise self.node.error(f"expected a dropout_ratio in [0, 1); found {self.p.dropout_ratio:g}")
        return [bottoms[0]]

    @property
    def random(self) -> bool:
        return not self.is_identity([])

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return not self.train or self.p.dropout_ratio == 0

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        if self.is_identity([x.shape]):
            return [x]
        keep = 1 - self.p.dropout_ratio
        return [jnp.where(jax.random.bernoulli(ctx.key(), keep, x.shape), x / keep, 0)]
