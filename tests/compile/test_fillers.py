"""Fillers: their distributions, and what they refuse."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from google.protobuf import text_format

from jaffe.compile.fillers import FILLERS, check, fill
from jaffe.netdef.jaffe_pb2 import FillerParameter

SHAPE = (50, 40, 5, 7)  # fan in 1400, fan out 1750


def make(text: str, shape=SHAPE) -> np.ndarray:
    filler = text_format.Parse(text, FillerParameter())
    check(filler, shape)
    return np.asarray(fill(jax.random.key(0), shape, filler, np.dtype("float32")), np.float64)


@pytest.mark.parametrize(
    ("text", "mean", "variance"),
    [
        ("value: 3", 3, 0),
        ("type: 'uniform' min: -1 max: 3", 1, 16 / 12),
        ("type: 'gaussian' mean: 2 std: 0.5", 2, 0.25),
        ("type: 'gaussian' std: 2 sparse: 10", 0, 4 * 10 / 50),
        ("type: 'xavier'", 0, 1 / 1400),
        ("type: 'xavier' variance_norm: FAN_OUT", 0, 1 / 1750),
        ("type: 'xavier' variance_norm: AVERAGE", 0, 1 / 1575),
        ("type: 'msra'", 0, 2 / 1400),
    ],
)
def test_mean_and_variance(text, mean, variance):
    values = make(text)
    error = np.sqrt(max(variance, 1e-12) / values.size)  # of the mean
    assert values.mean() == pytest.approx(mean, abs=5 * error)
    # 5 standard errors of a variance; the sparse gaussian has heavy tails
    assert values.var() == pytest.approx(variance, rel=5 * np.sqrt(20 / values.size))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (8,), (3, 5, 7)])
def test_rounding_draws_the_same_numbers(shape):
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        make("type: 'uniform' min: -1 max: 3", shape), jax.random.uniform(key, shape, minval=-1, maxval=3))
    np.testing.assert_array_equal(make("type: 'gaussian' std: 1", shape), jax.random.normal(key, shape))


def test_xavier_is_uniform():
    values = make("type: 'xavier'")
    bound = np.sqrt(3 / 1400)
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert np.abs(values).max() > 0.99 * bound


def test_sparse_share():
    values = make("type: 'gaussian' sparse: 10")
    assert (values != 0).mean() == pytest.approx(10 / 50, abs=0.01)


def test_positive_unitball():
    values = make("type: 'positive_unitball'")
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum((1, 2, 3)), 1, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_bilinear(size):
    f = int(np.ceil(size / 2))
    c = (size - 1) / (2.0 * f)
    expected = [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(size)] for y in range(size)]
    values = make("type: 'bilinear'", (2, 3, size, size))
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("type: 'xaveir'", SHAPE, "unknown filler 'xaveir'; did you mean 'xavier'?"),
        ("type: 'nonsense'", SHAPE, "known: " + ", ".join(FILLERS)),
        ("type: 'xavier' sparse: 3", SHAPE, "sparse is for gaussian fillers of blobs with axes only"),
        ("type: 'gaussian' sparse: 3", (), "found it with 'gaussian', ()"),
        ("type: 'gaussian' std: nan", SHAPE, "std is a finite number; found nan"),
        ("type: 'gaussian' std: 0", SHAPE, "a gaussian filler needs std > 0; found 0"),
        ("type: 'uniform' min: 2", SHAPE, "a uniform filler needs min <= max; found 2 and 1"),
        ("type: 'bilinear'", (2, 3, 4, 5), "square kernel; found (2, 3, 4, 5)"),
        ("type: 'positive_unitball'", (), "needs a blob with axes"),
    ],
)
def test_refused(text, shape, message):
    with pytest.raises(ValueError) as caught:
        make(text, shape)
    assert message in str(caught.value)
