"""A compiled net as a Flax Linen module."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaffe import zoo
from jaffe.compile import compile_net
from tests.nets import NETS

NORMAL = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "a/scale" type: "Scale" bottom: "bn" top: "y" scale_param { bias_term: true } }
"""
X = {"x": np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)}


def test_same_variables_and_outputs():
    net = compile_net(NORMAL, phase="TRAIN")
    module = net.as_linen()
    variables = module.init(jax.random.key(0), X)
    own = net.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, dict(variables)) == jax.tree.map(jnp.shape, own)
    outputs, updated = module.apply(variables, X, mutable=["state"])
    expected, state = net.apply(own, X)
    np.testing.assert_array_equal(outputs["y"], expected["y"])
    for one, other in zip(jax.tree.leaves(updated["state"]), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(module.apply(variables, X)["y"], expected["y"])  # state dropped


def test_inside_another_module():
    class Outer(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = compile_net(zoo.mlp(), phase="TRAIN").as_linen()(x)["loss"]
            return y + linen.Dense(1)(jnp.ones((1, 2)))[0, 0]

    inputs = {"data": np.ones((64, 1, 28, 28), np.float32), "label": np.zeros(64)}
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    module = Outer()
    variables = module.init(keys, inputs)
    assert {"ip1", "ip2", "scores"} <= set(variables["params"]["LinenNet_0"])
    gradients = jax.jit(jax.grad(lambda v: module.apply(v, inputs, rngs={"dropout": keys["dropout"]})))(variables)
    assert np.isfinite(gradients["params"]["LinenNet_0"]["ip1"]["weight"]).all()


def test_init_with_another_batch():
    net = compile_net(NETS["lstm"].net)
    inputs = {name: np.ones((spec.shape[0], 5, *spec.shape[2:]), np.float32) for name, spec in net.inputs.items()}
    module = net.as_linen()
    variables = module.init(jax.random.key(0), inputs)
    (carried,) = variables["state"].values()
    assert {value.shape[:2] for value in carried.values()} == {(1, 5)}
    outputs, updated = module.apply(variables, inputs, mutable=["state"])
    expected, state = net.apply(dict(variables), inputs)
    for one, other in zip(jax.tree.leaves((outputs, dict(updated["state"]))), jax.tree.leaves((expected, state)),
                          strict=True):
        np.testing.assert_array_equal(one, other)
