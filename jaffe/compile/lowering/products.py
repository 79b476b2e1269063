"""Products of matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering import onednn
from jaffe.compile.lowering.choose import Lowering

LONG_ROW = 4096  # from here on a row takes XLA five times as long as one with a column less


def product(x: jax.Array, weight: jax.Array, lowering: Lowering, transposed: bool = False) -> jax.Array:
    """``x W``, or ``x W^T`` where W is stored ``transposed``. x: (..., K), W: (K, O) or (O, K) -> (..., O)."""
    rows = x.reshape(-1, x.shape[-1])
    single = {x.dtype, weight.dtype} == {jnp.dtype("float32")} and not lowering.plain
    if single and transposed and lowering.on_cpu and rows.shape[0] == 1 and rows.shape[1] < LONG_ROW:
        # In this order W is read as it is stored, in half of the time that oneDNN takes, and by the thread at hand.
        return (weight @ rows[0]).reshape(*x.shape[:-1], -1)
    if single and lowering.onednn and not lowering.looped:  # inside of a loop the call costs more than it saves
        return onednn.product(rows, weight, (False, transposed)).reshape(*x.shape[:-1], -1)
    return x @ (weight.T if transposed else weight)


def product_over_rows(a: jax.Array, b: jax.Array, lowering: Lowering) -> jax.Array:
    """``A^T B``: (rows, M) and (rows, N) -> (M, N), added up in float32 at least."""
    if not lowering.onednn or {a.dtype, b.dtype} != {jnp.dtype("float32")}:
        return lax.dot(a.T, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
    return onednn.product(a, b, (True, False))
