"""How weights start: Caffe's fillers as pure functions of a key.

Formulas: Caffe 1.0, ``filler.hpp``. Names as in ``FillerParameter.type``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.lowering.layout import compiled
from jaffe.netdef.errors import suggest
from jaffe.netdef.jaffe_pb2 import FillerParameter

Key = jax.Array
Shape = tuple[int, ...]
Dtype = np.dtype
Filler = Callable[[Key, Shape, FillerParameter, Dtype], jax.Array]


def fill(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """An array of this shape, filled as the filler says. Check the filler with ``check`` first."""
    return FILLERS[filler.type](key, shape, filler, dtype)


def check(filler: FillerParameter, shape: Shape) -> None:
    """Raise ValueError, with what was expected, for a filler that cannot fill an array of this shape."""
    kind = filler.type
    if kind not in FILLERS:
        raise ValueError(f"unknown filler {kind!r}{suggest(kind, FILLERS) or '; known: ' + ', '.join(FILLERS)}")
    for field in ("value", "min", "max", "mean", "std"):
        if not math.isfinite(getattr(filler, field)):
            raise ValueError(f"{field} is a finite number; found {getattr(filler, field):g}")
    if filler.sparse != -1 and (kind != "gaussian" or not shape):
        raise ValueError(f"sparse is for gaussian fillers of blobs with axes only; found it with {kind!r}, {shape}")
    if kind == "gaussian" and not filler.std > 0:
        raise ValueError(f"a gaussian filler needs std > 0; found {filler.std:g}")
    if kind == "uniform" and filler.min > filler.max:
        raise ValueError(f"a uniform filler needs min <= max; found {filler.min:g} and {filler.max:g}")
    if kind == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise ValueError(f"a bilinear filler needs a blob of 4 axes with a square kernel; found {shape}")
    if kind == "positive_unitball" and not shape:
        raise ValueError("a positive_unitball filler needs a blob with axes; found a scalar")


MOST_ROUNDED = 2**22  # values; of more, too many would be drawn in vain


def _draw(
    draw: Callable[..., jax.Array], key: Key, shape: Shape, dtype: Dtype, *limits: float, scale: float = 1,
    shift: float = 0,
) -> jax.Array:
    """``shift + scale * draw(key, shape, dtype, ...)`` by way of a round number of values, whose first ones are the
    same.

    JAX compiles a program for each shape, and a net has dozens: only the last one is made for each.
    """
    count = math.prod(shape)
    size = 1 << max(count - 1, 0).bit_length() if count <= MOST_ROUNDED else count
    values = draw(key, (size,), dtype, *limits)
    values = values if scale == 1 else scale * values
    return _first(values if shift == 0 else shift + values, shape)


@compiled("shape")
def _first(values: jax.Array, shape: Shape) -> jax.Array:
    """As many as fit the shape."""
    return values[: math.prod(shape)].reshape(shape)


def _constant(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """value."""
    return jnp.full(shape, filler.value, dtype)


def _uniform(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """U[min, max)."""
    return _draw(jax.random.uniform, key, shape, dtype, filler.min, filler.max)


def _gaussian(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """N(mean, std^2); with sparse >= 0 each element is kept with probability sparse / shape[0], else 0."""
    values = _draw(jax.random.normal, key, shape, dtype, scale=filler.std, shift=filler.mean)
    if filler.sparse < 0:
        return values
    kept = jax.random.bernoulli(jax.random.fold_in(key, 1), min(1.0, filler.sparse / shape[0]), shape)
    return jnp.where(kept, values, 0)


def _positive_unitball(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """U(0, 1), each slice of the first axis divided by its sum."""
    values = _draw(jax.random.uniform, key, shape, dtype)
    return values / values.sum(axis=tuple(range(1, len(shape))), keepdims=True)


def _fan(shape: Shape, filler: FillerParameter) -> float:
    """fan_in = count / shape[0]; fan_out = count / shape[1], or count with one axis; or their average."""
    count = math.prod(shape)
    fan_in = count / shape[0] if shape else 1
    fan_out = count / shape[1] if len(shape) > 1 else count
    by_norm = {
        FillerParameter.FAN_IN: fan_in,
        FillerParameter.FAN_OUT: fan_out,
        FillerParameter.AVERAGE: (fan_in + fan_out) / 2,
    }
    return by_norm[filler.variance_norm]


def _xavier(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """U(-a, a), a = sqrt(3 / n), so that the variance is 1 / n (Glorot and Bengio 2010)."""
    bound = math.sqrt(3 / _fan(shape, filler))
    return _draw(jax.random.uniform, key, shape, dtype, -bound, bound)


def _msra(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """N(0, 2 / n) (He et al. 2015)."""
    return _draw(jax.random.normal, key, shape, dtype, scale=math.sqrt(2 / _fan(shape, filler)))


def _bilinear(key: Key, shape: Shape, filler: FillerParameter, dtype: Dtype) -> jax.Array:
    """Upsampling kernel: w(y, x) = (1 - |x/f - c|)(1 - |y/f - c|), f = ceil(K/2), c = (K - 1)/(2f)."""
    size = shape[3]
    f = math.ceil(size / 2)
    centre = (size - 1) / (2 * f)
    line = 1 - np.abs(np.arange(size) / f - centre)
    return jnp.broadcast_to(jnp.asarray(np.outer(line, line), dtype), shape)


FILLERS: dict[str, Filler] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}


def constant(value: float) -> FillerParameter:
    """A constant filler, for defaults that differ from 0."""
    return FillerParameter(type="constant", value=value)
