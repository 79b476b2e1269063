"""What XLA computes in which order, where memory depends on it."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp


def after(first: Any, then: Any) -> Any:
    """``then``, for which ``first`` has to be computed: equal to it, but XLA does not know.

    Both are pytrees; of ``first`` the floating point arrays count. XLA:CPU drops optimization barriers before it
    decides on an order, and computes what it can as soon as it can (jaxlib 0.10.2).
    """
    floats = [x for x in jax.tree.leaves(first) if jnp.issubdtype(x.dtype, jnp.inexact)]
    words = [x.reshape(-1)[0].astype(jnp.int32) for x in floats]
    never = reduce(or_, words, jnp.int32(1)) == 0  # an odd number is not 0

    def one(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        other = jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else ~x  # a key of zeros is a common one
        return jnp.where(never, other, x)

    return jax.tree.map(one, then)
