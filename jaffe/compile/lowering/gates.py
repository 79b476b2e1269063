"""What an LSTM does between two products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.lowering.layout import in_memory


def lstm_unit(c: jax.Array, gates: jax.Array, cont: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next c and h: ``c = cont f c + i g``, ``h = o tanh(c)``, i, f, o = sigmoid, g = tanh of the gates.

    Args:
        c: (N, H).
        gates: (N, 4H), sums of products in the order i, f, o, g.
        cont: (N, 1). A new sequence, which has 0, starts from c = 0.
    """
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    c = cont * jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


@jax.custom_vjp
def tuned_lstm_unit(c: jax.Array, gates: jax.Array, cont: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``lstm_unit`` in few loops for XLA:CPU, which keeps the activations for the backward pass, and no parts of them.

    One tanh of all gates, ``sigmoid(x) = tanh(x / 2) / 2 + 1 / 2``: fused with what reads it, XLA computes it several
    times as slowly. cont gets no gradient.
    """
    return _forward(c, gates, cont)[0]


def _forward(c, gates, cont):  # type: ignore[no-untyped-def]
    units = c.shape[-1]
    halves = jnp.asarray(np.repeat([0.5, 1], [3 * units, units]), gates.dtype)
    active = in_memory(halves * jnp.tanh(halves * gates) + (1 - halves))
    i, f, o, g = jnp.split(active, 4, axis=-1)
    after = cont * f * c + i * g
    squashed = in_memory(jnp.tanh(after))
    return (after, o * squashed), (c, active, squashed, cont)


def _backward(kept, gradients):  # type: ignore[no-untyped-def]
    c, active, squashed, cont = kept
    i, f, o, g = jnp.split(active, 4, axis=-1)
    by_after, by_h = gradients
    by_after = in_memory(by_after + by_h * o * (1 - squashed * squashed))
    going_on = cont * f
    by_gates = [by_after * g * (i * (1 - i)), by_after * c * going_on * (1 - f), by_h * squashed * (o * (1 - o)),
                by_after * i * (1 - g * g)]
    return ((by_after * going_on).astype(c.dtype), jnp.concatenate(by_gates, -1).astype(active.dtype),
            jnp.zeros_like(cont))


tuned_lstm_unit.defvjp(_forward, _backward)
