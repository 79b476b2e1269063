"""Normalisation of Caffe's forks against its formulas in NumPy, for what no golden shows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import X, input_layer, one

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
SLOPES = 'slope_filler { type: "uniform" min: 0.5 max: 2 } bias_filler { type: "uniform" }'


def blob(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32) * 3 + 1


@pytest.mark.parametrize("across", [False, True])
def test_mvn_adds_eps_to_the_root(across):
    x = blob(2, 3, 7, 5)
    axes = (1, 2, 3) if across else (2, 3)
    net = compile_net(one("MVN", f"mvn_param {{ eps: 0.5 across_channels: {str(across).lower()} }}"))
    expected = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 0.5)
    np.testing.assert_allclose(net.apply({}, {"x": x})[0]["t"], expected, rtol=1e-5, atol=1e-5)


def test_mvn_of_a_constant_is_zero():
    net = compile_net(one("MVN"))
    gradient = jax.grad(lambda x: net.apply({}, {"x": x})[0]["t"][0, 0, 0, 0])(jnp.ones((2, 3, 7, 5)))
    assert not net.apply({}, {"x": jnp.ones((2, 3, 7, 5))})[0]["t"].any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_normalize(spatial, shared):
    """eps is inside the root; one scale, or one a channel."""
    x = blob(2, 3, 7, 5)
    net = compile_net(one(
        "Normalize", f"norm_param {{ across_spatial: {str(spatial).lower()} channel_shared: {str(shared).lower()} "
        "eps: 2 scale_filler { value: 20 } }"
    ))
    variables = net.init(KEY)
    scale = variables["params"]["l"]["scale"]
    assert scale.shape == (() if shared else (3,))
    np.testing.assert_array_equal(scale, 20)
    scale = np.arange(1.0, 4) if not shared else np.full(3, 5.0)
    variables["params"]["l"]["scale"] = jnp.asarray(scale[0] if shared else scale, jnp.float32)
    norm = np.sqrt((x**2).sum((1, 2, 3) if spatial else 1, keepdims=True) + 2)
    expected = scale.reshape(3, 1, 1) * x / norm
    np.testing.assert_allclose(net.apply(variables, {"x": x})[0]["t"], expected, rtol=1e-5)


def test_normalize_starts_at_one():
    variables = compile_net(one("Normalize")).init(KEY)
    assert variables["params"]["l"]["scale"] == 1


def test_bn_of_pspnet():
    """Three calls in TRAIN move the state; TEST and frozen use it, without touching it."""
    text = one("BN", f"bn_param {{ {SLOPES} momentum: 0.8 eps: 0.01 }}")
    train, test = (compile_net(text, phase=phase) for phase in ("TRAIN", "TEST"))
    variables = train.init(KEY)
    params = variables["params"]["l"]
    assert [stored.weight.shape for stored in train.stored["l"]] == [(1, 3, 1, 1)] * 4
    assert [stored.weight.name for stored in train.stored["l"]] == ["slope", "bias", "mean", "variance"]
    mean, variance = np.zeros((1, 3, 1, 1)), np.zeros((1, 3, 1, 1))
    for _ in range(3):
        x = blob(2, 3, 7, 5)
        batch, spread = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        top, state = train.apply(variables, {"x": x})
        expected = params["slope"] * (x - batch) / np.sqrt(spread + 0.01) + params["bias"]
        np.testing.assert_allclose(top["t"], expected, rtol=1e-4, atol=1e-5)
        mean, variance = 0.8 * mean + 0.2 * batch, 0.8 * variance + 0.2 * spread
        variables = {**variables, "state": state}
        np.testing.assert_allclose(state["l"]["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(state["l"]["variance"], variance, rtol=1e-5)
    frozen = compile_net(text.replace("momentum", "frozen: true momentum"), phase="TRAIN")
    expected = params["slope"] * (x - mean) / np.sqrt(variance + 0.01) + params["bias"]
    for net in (test, frozen):
        top, state = net.apply(variables, {"x": x})
        np.testing.assert_allclose(top["t"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(state["l"]["mean"], variables["state"]["l"]["mean"])


def test_frozen_bn_does_not_learn():
    """Neither by gradient nor by decay, whatever its params say; a fresh one is the identity up to eps."""
    net = compile_net(one("BN", "bn_param { frozen: true } param { lr_mult: 1 } param { lr_mult: 2 }"), phase="TRAIN")
    assert [(one.lr_mult, one.decay_mult) for one in net.stored["l"]] == [(0, 0)] * 4
    variables, x = net.init(KEY), blob(2, 3, 7, 5)
    np.testing.assert_allclose(net.apply(variables, {"x": x})[0]["t"], x, rtol=1e-4)
    gradient = jax.grad(lambda p: net.apply({**variables, "params": p}, {"x": x})[0]["t"].sum())(variables["params"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_bn_of_segnet(phase):
    """LEARN takes the batch's statistics in both phases, INFERENCE none; neither keeps any."""
    fillers = 'scale_filler { type: "uniform" } shift_filler { type: "uniform" }'
    x = blob(2, 3, 7, 5)
    for mode in ("LEARN", "INFERENCE"):
        net = compile_net(one("BN", f"bn_param {{ {fillers} bn_mode: {mode} }}"), phase=phase)
        variables = net.init(KEY)
        assert set(variables["params"]["l"]) == {"scale", "shift"}
        assert not variables["state"]
        axes = (0, 2, 3)
        mean, std = x.mean(axes, keepdims=True), np.sqrt(x.var(axes, keepdims=True) + 1e-9)
        normal = (x - mean) / std if mode == "LEARN" else x
        params = variables["params"]["l"]
        expected = np.asarray(params["scale"]) * normal + np.asarray(params["shift"])
        np.testing.assert_allclose(net.apply(variables, {"x": x})[0]["t"], expected, rtol=1e-4, atol=1e-5)


def test_bn_of_vectors():
    x = blob(5, 3)
    net = compile_net(one("BN", inputs=input_layer("x", 5, 3)), phase="TRAIN")
    top, _ = net.apply(net.init(KEY), {"x": x})
    np.testing.assert_allclose(top["t"], (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4, atol=1e-5)


def test_published_weights_have_these_shapes():
    """PSPNet's files hold (1, C, 1, 1) four times, SSD's a scalar or (C)."""
    from jaffe.compile import load_weights

    net = compile_net(X + 'layer { name: "bn" type: "BN" bottom: "x" top: "a" bn_param { momentum: 0.95 } }\n'
                      'layer { name: "norm" type: "Normalize" bottom: "a" top: "t" }\n')
    arrays = [blob(1, 3, 1, 1) for _ in range(4)]
    variables = load_weights(net, net.init(KEY), {"bn": arrays, "norm": [np.float32(7)]})
    np.testing.assert_array_equal(variables["params"]["bn"]["slope"], arrays[0])
    np.testing.assert_array_equal(variables["state"]["bn"]["variance"], arrays[3])
    assert variables["params"]["norm"]["scale"] == 7
