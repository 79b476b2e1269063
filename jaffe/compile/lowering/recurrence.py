"""A recurrence over time as one loop, with the gradient of the recurrent weight as one product after it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.lowering.choose import Lowering
from jaffe.compile.lowering.layout import in_memory
from jaffe.compile.lowering.products import product_over_rows

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
    if lowering.plain:
        weight = recurrent.astype(dtype)
        return _loop(lambda h: h.astype(dtype) @ weight, step, start, products, cont)
    return _with_late_weight(step, dtype, lowering, start, products, cont, recurrent)


def _loop(
    multiply: Callable[[jax.Array], jax.Array], step: Step, start: Hidden, products: jax.Array, cont: jax.Array,
    parts: int = 1,
) -> tuple[Hidden, jax.Array]:
    """``parts``: into how many chains the batch is cut, which know nothing of each other."""

    def cut(x: jax.Array) -> list[jax.Array]:
        return jnp.split(x, parts) if parts > 1 else [x]  # of any number, in an export

    def one(hidden: Hidden, product: jax.Array, going_on: jax.Array) -> Hidden:
        kept = (going_on * hidden[0], *hidden[1:])
        # Rounded in here, so that what is carried, and the weight's gradient, add up over the steps unrounded.
        return step(kept, product + multiply(kept[0]), going_on)

    def body(chains: list[Hidden], inputs: tuple[jax.Array, jax.Array]) -> tuple[list[Hidden], list[jax.Array]]:
        chains = [one(*each) for each in zip(chains, *map(cut, inputs), strict=True)]
        return chains, [hidden[0] for hidden in chains]

    chains, outputs = lax.scan(body, list(zip(*map(cut, start), strict=True)), (products, cont))
    return tuple(jnp.concatenate(one) for one in zip(*chains, strict=True)), jnp.concatenate(outputs, 1)


@jax.custom_vjp
def _times(h: jax.Array, weight: jax.Array, turned: jax.Array) -> jax.Array:
    """``h W``, of which the gradient is ``g W^T`` with W^T turned round beforehand: small products of matrices as they
    lie in memory are faster, in XLA's way than in oneDNN's."""
    return h @ weight


_times.defvjp(
    lambda h, weight, turned: (h @ weight, (h, weight, turned)),
    lambda kept, back: (back @ kept[2], kept[0].T @ back, jnp.zeros_like(kept[2])),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _with_late_weight(
    step: Step, dtype: Any, lowering: Lowering, start: Hidden, products: jax.Array, cont: jax.Array,
    recurrent: jax.Array,
) -> tuple[Hidden, jax.Array]:
    return _tuned_loop(step, dtype, lowering, start, products, cont, recurrent)


def _tuned_loop(
    step: Step, dtype: Any, lowering: Lowering, start: Hidden, products: jax.Array, cont: jax.Array,
    recurrent: jax.Array,
) -> tuple[Hidden, jax.Array]:
    if start[0].shape[0] == 1:  # a single row is multiplied fastest by W^T, as it is stored
        stored = recurrent.T.astype(dtype)
        return _loop(lambda h: (stored @ h.astype(dtype)[0])[None], step, start, products, cont)
    weight, turned = (in_memory(one.astype(dtype)) for one in (recurrent, recurrent.T))
    parts = _parts(start, lowering)
    return _loop(lambda h: _times(h.astype(dtype), weight, turned), step, start, products, cont, parts)


def _parts(start: Hidden, lowering: Lowering) -> int:
    """XLA:CPU computes chains that know nothing of each other side by side: one's product beside the other's gates,
    which it runs on one core. With fewer rows the smaller products cost more than that saves."""
    rows = start[0].shape[0]
    return 2 if lowering.on_cpu and isinstance(rows, int) and rows >= 32 and rows % 2 == 0 else 1


def _forward(step, dtype, lowering, start, products, cont, recurrent):  # type: ignore[no-untyped-def]
    def loop(start, products):  # type: ignore[no-untyped-def]
        return _tuned_loop(step, dtype, lowering, start, products, cont, recurrent)

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
