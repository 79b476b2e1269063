"""Scales and biases by channel: the gradients by hand against XLA's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering, scale_channels, shift_channels
from jaffe.compile.lowering.channels import sum_over_cells

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


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 6, 5), (3, 4, 4, 5), (0, 5), (2, 13, 5)])
def test_a_sum_over_cells(shape, dtype):
    """Of any number of cells, some together or one by one."""
    a, b = (RANDOM.normal(size=shape).astype(dtype) for _ in range(2))
    found = jax.jit(lambda a, b: sum_over_cells(lambda a, b: a * (b - 1), a, b))(a, b)
    wide = np.float64(a) * (np.float64(b) - 1)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float64(found), wide.sum(tuple(range(len(shape) - 1))), rtol=0,
                               atol=(1e-6 if dtype == np.float32 else 2e-2) * max(np.abs(wide).sum(), 1))
