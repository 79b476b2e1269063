"""What goldens cannot show: random layers, and gradients where values tie."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import one

KEY = jax.random.key(0)
WIDE = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 100 dim: 1000 } } }\n'


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_dropout_is_inverted(ratio):
    """A share of 1 - ratio is kept and divided by it, forward and backward alike; TEST changes nothing."""
    text = one("Dropout", f"dropout_param {{ dropout_ratio: {ratio} }}", inputs=WIDE)
    net = compile_net(text, phase="TRAIN")
    x = jnp.ones((100, 1000))
    y, pull = jax.vjp(lambda x: net.apply({}, {"x": x}, KEY)[0]["t"], x)
    assert set(np.unique(y).round(4)) == {0.0, np.float32(1 / (1 - ratio)).round(4)}
    assert (np.asarray(y) != 0).mean() == pytest.approx(1 - ratio, abs=5 * (0.25 / 1e5) ** 0.5)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], y)
    assert not np.array_equal(y, net.apply({}, {"x": x}, jax.random.key(1))[0]["t"])
    np.testing.assert_array_equal(compile_net(text, phase="TEST").apply({}, {"x": x})[0]["t"], x)


def test_eltwise_max_ties():
    """Between the first two bottoms the second gets the gradient, later the earlier one keeps it."""
    inputs = 'layer { name: "x" type: "Input" top: "a" top: "b" top: "c" input_param { shape { dim: 3 } } }\n'
    net = compile_net(one("Eltwise", "eltwise_param { operation: MAX }", bottoms="a b c", inputs=inputs))
    blobs = {"a": jnp.array([1.0, 2, 0]), "b": jnp.array([1.0, 1, 3]), "c": jnp.array([1.0, 2, 3])}
    gradient = jax.grad(lambda blobs: net.apply({}, blobs)[0]["t"].sum())(blobs)
    assert {name: value.tolist() for name, value in gradient.items()} == {
        "a": [0, 1, 0], "b": [1, 0, 1], "c": [0, 0, 0]
    }


def test_relu_gradient_at_zero_is_the_slope():
    for slope in (0.0, 0.25):
        net = compile_net(one("ReLU", f"relu_param {{ negative_slope: {slope} }}", inputs=WIDE))
        gradient = jax.grad(lambda x, net=net: net.apply({}, {"x": x})[0]["t"].sum())(jnp.zeros((100, 1000)))
        assert np.unique(gradient).tolist() == [slope]


def test_stochastic_pooling():
    """Each value is drawn in proportion to itself; in TEST the mean is weighted by itself."""
    x = np.tile(np.array([[1.0, 2], [3, 4]], np.float32), (50, 100))[None, None]
    inputs = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 100 dim: 200 } } }\n'
    text = one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", inputs=inputs)
    drawn = np.asarray(compile_net(text, phase="TRAIN").apply({}, {"x": x}, KEY)[0]["t"])
    for value in (1, 2, 3, 4):
        assert (drawn == value).mean() == pytest.approx(value / 10, abs=0.04)
    mean = compile_net(text, phase="TEST").apply({}, {"x": x})[0]["t"]
    np.testing.assert_allclose(mean, 30 / 10, rtol=1e-6)
