"""A recurrence over time as one loop, with the gradient of the recurrent weight as one product after it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.products import product, product_over_rows

Hidden = tuple[jax.Array, ...]
Step = Callable[[Hidden, jax.Array, jax.Array], Hidden]


def recur(
    step: Step, start: Hidden, products: jax.Array, cont: jax.Array, recurrent: jax.Array, dtype: Any,
    lowering: Lowering,
) -> tuple[Hidden, jax.Array]:
    """``hidden_t = step(hidden_(t-1) with h times cont_t, products_t + cont_t h_(t-1) W, cont_t)`` for t = 1 ... T.

    Args:
        step: from the hidden blobs (N, H), the output h first, the sum of products (N, G), and cont (N, 1).
        start: the hidden blobs before the first step.
        products: (T, N, G), all of the sum that does not depend on h.
        cont: (T, N, 1); gets no gradient.
        recurrent: W, (H, G).
        dtype: of the product with W. What is carried is not rounded to it.

    Returns:
        The hidden blobs after the last step, and h at every step, (T, N, H).
    """
    run = _loop if lowering.plain else _with_late_weight
    return run(step, dtype, lowering, start, products, cont, recurrent)


def _loop(
    step: Step, dtype: Any, lowering: Lowering, start: Hidden, products: jax.Array, cont: jax.Array,
    recurrent: jax.Array,
) -> tuple[Hidden, jax.Array]:
    weight = recurrent.astype(dtype)

    def body(hidden: Hidden, inputs: tuple[jax.Array, jax.Array]) -> tuple[Hidden, jax.Array]:
        fresh, going_on = inputs
        kept = (going_on * hidden[0], *hidden[1:])
        # Rounded in here, so that what is carried, and the weight's gradient, add up over the steps unrounded.
        again = product(kept[0].astype(dtype), weight, lowering)
        hidden = step(kept, fresh + again, going_on)
        return hidden, hidden[0]

    return lax.scan(body, start, (products, cont))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _with_late_weight(
    step: Step, dtype: Any, lowering: Lowering, start: Hidden, products: jax.Array, cont: jax.Array,
    recurrent: jax.Array,
) -> tuple[Hidden, jax.Array]:
    return _loop(step, dtype, lowering, start, products, cont, recurrent)


def _forward(step, dtype, lowering, start, products, cont, recurrent):  # type: ignore[no-untyped-def]
    def loop(start, products):  # type: ignore[no-untyped-def]
        return _loop(step, dtype, lowering, start, products, cont, recurrent)

    found, pull = jax.vjp(loop, start, products)
    before = jnp.concatenate([start[0][None], found[1][:-1]]) * cont
    return found, (pull, before, cont, recurrent)


def _backward(step, dtype, lowering, kept, gradients):  # type: ignore[no-untyped-def]
    """A loop's own gradient of W adds up one small product a step; they are one large product of all steps."""
    pull, before, cont, recurrent = kept
    by_start, by_products = pull(gradients)
    rows, columns = (one.reshape(-1, one.shape[-1]).astype(dtype) for one in (before, by_products))
    by_weight = product_over_rows(rows, columns, lowering).astype(recurrent.dtype)
    return by_start, by_products, jnp.zeros_like(cont), by_weight


_with_late_weight.defvjp(_forward, _backward)
