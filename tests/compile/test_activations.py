"""Activations against formulas in NumPy: values and gradients, at the kinks and far from 0 too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

X = np.array([-3e38, -1e4, -100, -20, -2, -1, -0.75, -1e-3, 0, 1e-3, 0.5, 0.75, 1, 2, 6, 7, 20, 100, 1e4, 3e38])
INPUT = input_layer("x", len(X))
KEY = jax.random.key(0)


def logistic(x):
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


# name: (type, settings, value, gradient), in float64
FORMULAS = {
    "relu6": ("ReLU6", "", lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6)),
    "relu_relu6": ("ReLU", "relu_param { relu6: true }", lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6)),
    "relu_slope_relu6": (
        "ReLU", "relu_param { relu6: true negative_slope: 0.5 }",
        lambda x: np.minimum(np.where(x > 0, x, 0.5 * x), 6), lambda x: np.where(x > 0, x < 6, 0.5),
    ),
    "elu": (
        "ELU", "elu_param { alpha: 0.75 }",
        lambda x: np.where(x > 0, x, 0.75 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 0.75 * np.exp(np.minimum(x, 0))),
    ),
    "bnll": ("BNLL", "", lambda x: np.logaddexp(0, x), logistic),
    "swish": (
        "Swish", "swish_param { beta: 0.5 }", lambda x: x * logistic(x / 2),
        lambda x: logistic(x / 2) + x / 2 * logistic(x / 2) * logistic(-x / 2),
    ),
    "absval": ("AbsVal", "", np.abs, np.sign),
    "clip": (
        "Clip", "clip_param { min: -0.75 max: 2 }", lambda x: np.clip(x, -0.75, 2), lambda x: (x >= -0.75) & (x <= 2)
    ),
    "clip_below": ("Clip", "clip_param { min: 0 max: inf }", lambda x: np.maximum(x, 0), lambda x: x >= 0),
    "clip_to_one_value": ("Clip", "clip_param { min: 1 max: 1 }", np.ones_like, lambda x: x == 1),
    "threshold": ("Threshold", "threshold_param { threshold: 0.5 }", lambda x: x > 0.5, np.zeros_like),
    "exp_of_base_1": ("Exp", "exp_param { base: 1 }", np.ones_like, np.zeros_like),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str):
    kind, settings, value, gradient = FORMULAS[name]
    net = compile_net(one(kind, settings, inputs=INPUT))
    x = jnp.asarray(X, jnp.float32)
    y, pull = jax.vjp(lambda x: net.apply({}, {"x": x})[0]["t"], x)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(y, value(exact).astype(np.float32), rtol=3e-7, atol=1e-35)
    least = 1e-7 if kind == "ELU" else 1e-35  # ELU's gradient is y + alpha, rounded, as Caffe's
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], gradient(exact).astype(np.float32), rtol=2e-6, atol=least)


@pytest.mark.parametrize("base", [-1, 2, 0.25])
def test_exp_and_log(base: float):
    """With base, scale and shift; a logarithm undoes the power."""
    x = np.linspace(0.1, 5, 11)
    number = np.e if base == -1 else base
    for kind, value, gradient in (
        ("Exp", number ** (0.5 + 0.75 * x), 0.75 * np.log(number) * number ** (0.5 + 0.75 * x)),
        ("Log", np.log(0.5 + 0.75 * x) / np.log(number), 0.75 / ((0.5 + 0.75 * x) * np.log(number))),
    ):
        settings = f"{kind.lower()}_param {{ base: {base} scale: 0.75 shift: 0.5 }}"
        net = compile_net(one(kind, settings, inputs=input_layer("x", 11)))
        y, pull = jax.vjp(lambda x, net=net: net.apply({}, {"x": x})[0]["t"], jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(y, value, rtol=1e-6)
        np.testing.assert_allclose(pull(jnp.ones_like(y))[0], gradient, rtol=1e-6)


def test_exp_and_log_by_default_are_natural():
    x = np.array([0.5, 1, 2], np.float32)
    inputs = input_layer("x", 3)
    np.testing.assert_allclose(compile_net(one("Exp", inputs=inputs)).apply({}, {"x": x})[0]["t"], np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(compile_net(one("Log", inputs=inputs)).apply({}, {"x": x})[0]["t"], np.log(x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["ReLU", "ReLU6", "ELU", "BNLL", "Swish", "AbsVal", "Sigmoid", "TanH", "Clip"])
def test_nan_stays_nan(kind: str):
    """A number that went wrong is not hidden."""
    settings = {"ReLU": "relu_param { relu6: true }", "Clip": "clip_param { min: -1 max: 1 }"}.get(kind, "")
    net = compile_net(one(kind, settings, inputs=input_layer("x", 1)))
    assert np.isnan(net.apply({}, {"x": jnp.array([jnp.nan])})[0]["t"]).all()


@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shared: bool):
    """Slopes by channel; at 0 the gradient is the slope, and 0 adds nothing to the slope's."""
    inputs = input_layer("x", 2, 3, 5)
    net = compile_net(one("PReLU", f"prelu_param {{ channel_shared: {str(shared).lower()} }}", inputs=inputs))
    fresh = net.init(KEY)["params"]["l"]["slope"]
    np.testing.assert_array_equal(fresh, np.full(() if shared else (3,), 0.25, np.float32))
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    x[0, :, 1] = 0
    slope = np.float32(0.5) if shared else np.array([0.5, -2, 0.125], np.float32)
    each = np.broadcast_to(slope if shared else slope[:, None], x.shape)
    top = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def forward(slope, x):
        return net.apply({"params": {"l": {"slope": slope}}}, {"x": x})[0]["t"]

    y, pull = jax.vjp(forward, jnp.asarray(slope), jnp.asarray(x))
    d_slope, d_x = pull(jnp.asarray(top))
    np.testing.assert_array_equal(y, np.where(x > 0, x, each * x))
    np.testing.assert_array_equal(d_x, np.where(x > 0, 1, each) * top)
    expected = np.where(x > 0, 0, x * top).astype(np.float64).sum(None if shared else (0, 2))
    np.testing.assert_allclose(d_slope, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_crelu(axis: int):
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    x[0, 0, 0] = 0
    net = compile_net(one("CReLU", f"crelu_param {{ axis: {axis} }}", inputs=input_layer("x", 2, 3, 5)))
    y, pull = jax.vjp(lambda x: net.apply({}, {"x": x})[0]["t"], jnp.asarray(x))
    np.testing.assert_array_equal(y, np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis))
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], np.sign(x))


def test_maxout():
    """Piece j of channel c is channel c + j C / k; the first of a tie has the gradient."""
    x = np.random.default_rng(0).integers(0, 4, (2, 15, 3)).astype(np.float32)  # many ties
    net = compile_net(one("Maxout", "maxout_param { pieces: 3 }", inputs=input_layer("x", 2, 15, 3)))
    top = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    expected, gradient = np.zeros_like(top), np.zeros_like(x)
    for n, c, i in np.ndindex(2, 5, 3):
        channels = [c, c + 5, c + 10]
        best = max(channels, key=lambda channel: x[n, channel, i])  # max takes the first
        expected[n, c, i] = x[n, best, i]
        gradient[n, best, i] = top[n, c, i]
    y, pull = jax.vjp(lambda x: net.apply({}, {"x": x})[0]["t"], jnp.asarray(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pull(jnp.asarray(top))[0], gradient)
    assert net.cost()["l"].flops == 2 * 2 * 5 * 3


def test_in_place():
    """Caffe's backward pass goes wrong for these in place; here an in-place layer is like any other."""
    text = INPUT + "".join(
        f'layer {{ name: "{kind}" type: "{kind}" bottom: "x" top: "x" {settings} }}\n'
        for kind, settings in (("AbsVal", ""), ("BNLL", ""), ("Clip", "clip_param { min: 0.5 max: 3 }"))
    )
    x = jnp.asarray(X, jnp.float32)
    y, pull = jax.vjp(lambda x: compile_net(text).apply({}, {"x": x})[0]["x"], x)
    bnll = np.logaddexp(0, np.abs(X))
    np.testing.assert_allclose(y, np.clip(bnll, 0.5, 3), rtol=1e-6)
    inside = (bnll >= 0.5) & (bnll <= 3)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], np.where(inside, np.sign(X) * logistic(np.abs(X)), 0),
                               rtol=1e-6)
