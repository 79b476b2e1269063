"""The loop of a recurrence as it is fast, against XLA's own; in float64, in which they differ by rounding alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering
from jaffe.compile.lowering.gates import lstm_unit, tuned_lstm_unit
from jaffe.compile.lowering.recurrence import recur

STEPS, UNITS = 5, 7


def lstm(unit):
    def step(hidden, product, cont):
        c, h = unit(hidden[1], product, cont)
        return h, c

    return step


def rnn(hidden, product, cont):
    return (jnp.tanh(product),)


WAYS = {"lstm": (lstm(lstm_unit), lstm(tuned_lstm_unit), 2, 4), "rnn": (rnn, rnn, 1, 1)}


def sequence(batch, blobs, gates, dtype="float64"):
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape), dtype)  # noqa: E731
    start = tuple(normal(batch, UNITS) for _ in range(blobs))
    cont = jnp.asarray(random.integers(0, 2, (STEPS, batch, 1)), dtype)
    return (start, normal(STEPS, batch, gates * UNITS), normal(UNITS, gates * UNITS)), cont, normal


def close(found, expected, within):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=within * float(jnp.abs(b).max())),
                 found, expected)


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("batch", [1, 33, 34])
def test_values_and_gradients(kind, batch):
    """A batch of 34 goes through in two halves."""
    with jax.enable_x64(True):
        plain, tuned, blobs, gates = WAYS[kind]
        arguments, cont, normal = sequence(batch, blobs, gates)

        def run(step, lowering):
            return lambda start, products, weight: recur(step, start, products, cont, weight, "float64", lowering)

        expected, pull_plain = jax.vjp(run(plain, Lowering(plain=True)), *arguments)
        found, pull = jax.vjp(run(tuned, Lowering()), *arguments)
        close(found, expected, 1e-14)
        gradient = jax.tree.map(lambda x: normal(*x.shape), expected)
        close(pull(gradient), pull_plain(gradient), 1e-13)


def test_gradients_of_gradients():
    with jax.enable_x64(True):
        (start, products, weight), cont, _ = sequence(34, 2, 4)

        def twice(step, lowering):
            cost = lambda w: jnp.sum(recur(step, start, products, cont, w, "float64", lowering)[1] ** 2)  # noqa: E731
            return jax.grad(lambda w: jnp.sum(jax.grad(cost)(w) ** 2))(weight)

        expected = twice(lstm(lstm_unit), Lowering(plain=True))
        close(twice(lstm(tuned_lstm_unit), Lowering()), expected, 1e-12)


def test_gates_far_out():
    """tanh has the sigmoid's ends: 0 and 1, never beyond."""
    gates = jnp.asarray(np.repeat([[-1e4, -30, 0, 30, 1e4]], 4, 0).reshape(1, 20), jnp.float32)
    c, h = tuned_lstm_unit(jnp.ones((1, 5)), gates, jnp.ones((1, 1)))
    expected = lstm_unit(jnp.ones((1, 5)), gates, jnp.ones((1, 1)))
    np.testing.assert_allclose(c, expected[0], atol=1e-7)
    np.testing.assert_allclose(h, expected[1], atol=1e-7)
    assert jnp.abs(h).max() <= 1
    assert np.isnan(tuned_lstm_unit(jnp.ones((1, 5)), gates.at[0, 2].set(jnp.nan), jnp.ones((1, 1)))[0][0, 2])
