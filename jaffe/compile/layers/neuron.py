"""Element-wise activations and Dropout. Shapes: any, unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in


@built_in("ReLU")
class ReLU(Layer):
    """``y = x`` where x > 0, else ``negative_slope * x``; the gradient at 0 is negative_slope.

    Source: Caffe 1.0, ``relu_layer.cpp``.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, slope = bottoms[0], self.p.negative_slope
        return [jax.nn.relu(x) if slope == 0 else jnp.where(x > 0, x, slope * x)]


@built_in("Sigmoid")
class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``. Source: Caffe 1.0, ``sigmoid_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jax.nn.sigmoid(bottoms[0])]


@built_in("TanH")
class TanH(Layer):
    """``y = tanh(x)``. Source: Caffe 1.0, ``tanh_layer.cpp``."""

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jnp.tanh(bottoms[0])]


@built_in("Power")
class Power(Layer):
    """``y = (shift + scale x)^power``; a constant, without gradient, when power or scale is 0.

    Source: Caffe 1.0, ``power_layer.cpp``. The gradient at base 0 is the limit, where Caffe's is NaN.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for field in ("power", "scale", "shift"):
            if not math.isfinite(getattr(self.p, field)):
                raise self.node.error(f"{field} is a finite number; found {getattr(self.p, field):g}")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, p = bottoms[0], self.p
        if p.power * p.scale == 0:
            with np.errstate(all="ignore"):  # what has no value is NaN or infinite, as in Caffe
                return [jnp.full_like(x, np.float64(1.0) if p.power == 0 else np.power(np.float64(p.shift), p.power))]
        base = p.shift + p.scale * x
        # Small whole powers are products, which keep a gradient at base 0.
        return [base ** (int(p.power) if p.power.is_integer() and abs(p.power) <= 64 else p.power)]


@built_in("Dropout")
class Dropout(Layer):
    """In phase TRAIN each element is kept with probability 1 - ratio and multiplied by 1 / (1 - ratio), else 0.

    In phase TEST the identity. Source: Srivastava et al. 2014; Caffe 1.0, ``dropout_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 0 <= self.p.dropout_ratio < 1:
            raise self.node.error(f"expected a dropout_ratio in [0, 1); found {self.p.dropout_ratio:g}")
        return [bottoms[0]]

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return not self.train or self.p.dropout_ratio == 0

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        if self.is_identity([x.shape]):
            return [x]
        keep = 1 - self.p.dropout_ratio
        return [jnp.where(jax.random.bernoulli(ctx.key(), keep, x.shape), x / keep, 0)]
