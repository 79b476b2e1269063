"""Local response normalisation: what is chosen on the CPU against XLA's own."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering, normalise_response

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("reach", [
    (2, 0, 0),
    (6, 0, 0),  # over all channels
    (0, 1, 1),
    (0, 3, 2),
])
def test_chosen_is_plain(reach, beta):
    x = RANDOM.normal(size=(2, 7, 5, 3)).astype(np.float32)
    plain, pull_plain = jax.vjp(lambda x: normalise_response(x, reach, 0.3, beta, 2.0, Lowering(plain=True)), x)
    found, pull_found = jax.vjp(lambda x: normalise_response(x, reach, 0.3, beta, 2.0, Lowering()), x)
    alone = normalise_response(x, reach, 0.3, beta, 2.0, Lowering())  # another way without a backward pass
    gradient = RANDOM.normal(size=x.shape).astype(np.float32)
    np.testing.assert_allclose(found, plain, rtol=2e-6)
    np.testing.assert_allclose(alone, plain, rtol=2e-6)
    np.testing.assert_allclose(pull_found(gradient)[0], pull_plain(gradient)[0], rtol=1e-5, atol=1e-6)
