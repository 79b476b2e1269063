"""Products of matrices: every way is NumPy's."""

import jax
import numpy as np
import pytest

from jaffe.compile.lowering import Lowering
from jaffe.compile.lowering.products import LONG_ROW, product


@pytest.mark.parametrize("lowering", [Lowering(), Lowering(plain=True), Lowering(looped=True)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 37), (1, 1, 37), (3, 37), (2, 3, 37), (1, LONG_ROW)])
def test_product_and_its_gradients(shape, transposed, lowering):
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=size).astype("float32") for size in (shape, (shape[-1], 5)))
    stored = weight.T if transposed else weight
    found, pull = jax.vjp(lambda x, w: product(x, w, lowering, transposed), x, stored)
    assert found.shape == (*shape[:-1], 5)
    scale = np.sqrt(shape[-1])  # of a sum
    np.testing.assert_allclose(found, x @ weight, rtol=1e-6, atol=1e-6 * scale)
    back = rng.normal(size=found.shape).astype("float32")
    by_x, by_weight = pull(back)
    np.testing.assert_allclose(by_x, back @ weight.T, rtol=1e-6, atol=1e-6)
    rows = x.reshape(-1, shape[-1]).T @ back.reshape(-1, 5)
    np.testing.assert_allclose(by_weight, rows.T if transposed else rows, rtol=1e-6, atol=1e-6)


def test_a_row_reads_the_weight_as_it_is_stored():
    """A weight turned round first is work that another thread begins, which has to be woken."""
    x, weight = np.ones((1, 96), "float32"), np.ones((70, 96), "float32")
    compiled = jax.jit(lambda x, w: product(x, w, Lowering(), transposed=True)).lower(x, weight).compile().as_text()
    assert "f32[96,70]" not in compiled
    assert "onednn" not in compiled
