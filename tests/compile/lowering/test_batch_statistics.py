"""Batch normalisation: the gradient by hand against XLA's, also by way of mean and variance."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering, normalise_batch

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (11, 3), (2, 3, 5, 2, 3), (4, 3, 8, 6)])
def test_chosen_is_plain(shape):
    x = (3 * RANDOM.normal(size=shape) + 1).astype(np.float32)
    plain, pull_plain = jax.vjp(lambda x: normalise_batch(x, 1e-3, Lowering(plain=True)), x)
    found, pull_found = jax.vjp(lambda x: normalise_batch(x, 1e-3, Lowering()), x)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    gradients = tuple(RANDOM.normal(size=one.shape).astype(np.float32) for one in plain)
    np.testing.assert_allclose(pull_found(gradients)[0], pull_plain(gradients)[0], rtol=1e-4, atol=2e-6)
