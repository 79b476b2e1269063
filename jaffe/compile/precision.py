"""In which dtype each layer works: bfloat16 where that saves time and memory, float32 where digits count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Array, Context, Layer
from jaffe.netdef.errors import JaffeError

BFLOAT16 = np.dtype(jnp.bfloat16)
PRECISIONS = {"float32": None, "bfloat16": BFLOAT16, "bf16": BFLOAT16}


def blob_dtype(dtype: Any) -> np.dtype:
    """The dtype of a net's weights and blobs.

    Raises:
        JaffeError: it is neither float32 nor float64; or float64, and JAX has it not enabled.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise JaffeError(f"dtype is float32 or float64; received {dtype}")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise JaffeError('dtype float64 needs jax.config.update("jax_enable_x64", True)')
    return found


def precision_dtype(precision: str, dtype: np.dtype) -> np.dtype:
    """The dtype of products, and of what lies between them, in a net of this dtype.

    Raises:
        JaffeError: the name is none of float32, bfloat16 and bf16; or bfloat16 is asked of a net of float64.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise JaffeError(f'precision is "float32" or "bfloat16" ("bf16"); received {precision!r}')
    low = PRECISIONS[precision]
    if low is None:
        return dtype
    if dtype != np.float32:
        raise JaffeError(f'precision "bfloat16" is for nets of dtype float32; received dtype {dtype}')
    return low


def apply_in(
    precision: np.dtype, layer: Layer, weights: Mapping[str, Array], bottoms: Sequence[Array], context: Context
) -> tuple[Sequence[Array], dict[str, Array]]:
    """``layer.apply_with_state`` with bottoms and tops in the dtypes that ``layer.arithmetic`` asks for.

    Weights and state are of the net's dtype, ``context.dtype``, always. So is all else where that is the precision.
    """
    if precision == context.dtype:
        return layer.apply_with_state(weights, bottoms, context)
    able, varying = layer.differentiable()  # labels, indices and masks are not numbers to round
    numbers = [x.dtype for x, one in zip(bottoms, able, strict=True) if one]
    common = jnp.result_type(*numbers) if numbers else context.dtype
    if layer.arithmetic == "products":
        tops, new = layer.apply_with_state(weights, _cast(bottoms, able, precision), context)
        return _cast(tops, varying, precision), new
    if layer.arithmetic == "elementwise":
        return layer.apply_with_state(weights, _cast(bottoms, able, common), context)
    tops, new = layer.apply_with_state(weights, [x.astype(context.dtype) for x in bottoms], context)
    return _cast(tops, varying, common) if layer.arithmetic == "sums" else tops, new


def _cast(values: Sequence[Array], which: Iterable[bool], dtype: Any) -> list[jax.Array]:
    return [x.astype(dtype) if one else x for x, one in zip(values, which, strict=True)]
