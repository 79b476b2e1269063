"""Scales and biases by channel: the gradients by hand against XLA's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering, scale_channels, shift_channels

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("operation", [scale_channels, shift_channels])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5, 7)])
def test_chosen_is_plain(operation, shape):
    x, values = RANDOM.normal(size=shape).astype(np.float32), RANDOM.normal(size=3).astype(np.float32)
    plain, pull_plain = jax.vjp(lambda x, v: operation(x, v, Lowering(plain=True)), x, values)
    found, pull_found = jax.vjp(lambda x, v: operation(x, v, Lowering()), x, values)
    np.testing.assert_array_equal(found, plain)
    gradient = RANDOM.normal(size=shape).astype(np.float32)
    for one, other in zip(pull_found(gradient), pull_plain(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_have_the_dtypes_of_what_they_are_of():
    """In a net of bfloat16 products, biases are float32."""
    x, bias = jnp.ones((2, 3, 4, 5), jnp.bfloat16), jnp.ones(3)
    y, pull = jax.vjp(lambda x, b: shift_channels(x, b, Lowering()), x, bias)
    assert y.dtype == jnp.float32
    assert [one.dtype for one in pull(y)] == [jnp.bfloat16, jnp.float32]
