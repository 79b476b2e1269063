"""The trace of a forward and backward pass: every blob, every gradient."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import JaffeError
from jaffe.compile import compile_net, trace
from tests.compile.test_goldens import CASES, Golden, agree, computed, with_gradients

CHOSEN = ("conv_0", "net_lenet", "net_multi_loss", "net_propagate_down", "net_shared_weights", "split_fanout",
          "lstm_static", "bn_scale_residual")


@pytest.mark.parametrize("path", [p for p in CASES if p.stem in CHOSEN], ids=lambda path: path.stem)
def test_recorded_gradients(path):
    assert with_gradients(path)
    golden = Golden(path)
    z, net = golden.z, golden.net
    given = {net.graph.blobs[key.split(":")[1]]: z[key] for key in golden.keys("dtop")}
    found = jax.jit(lambda variables, inputs: trace(net, variables, inputs, cotangents=given))(
        golden.variables, golden.inputs(golden.passes[-1]))
    for key in computed(z, "din"):
        agree(found.gradients[key.split(":")[1]], z[key], key)
    for key in computed(z, "dparam"):
        _, layer, i = key.split(":")
        stored = net.stored[layer][int(i)]
        if stored.weight.trained:
            agree(found.weight_gradients[stored.owner[0]][stored.owner[1]], z[key], key)
    for blob in golden.tops(golden.passes[-1]):
        agree(found.values[net.graph.blobs[blob]], z[f"top:{blob}{golden.passes[-1]}"], blob)
    if net.loss_tops:
        agree(found.loss, net.loss(golden.variables, golden.inputs(golden.passes[-1]))[0], "loss")
    assert set(found.values) == set(found.gradients) == set(net.inferred.shapes)


IN_PLACE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param
        { num_output: 5 weight_filler { type: "gaussian" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "drop" }
layer { name: "sum" type: "Reduction" bottom: "drop" top: "sum" loss_weight: 2 }
"""


def test_in_place_layers_and_identities():
    """Each version of an in-place blob has its gradient; so does what a Dropout of phase TEST hands on."""
    net = compile_net(IN_PLACE)
    variables = net.init(jax.random.key(1))
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    found = trace(net, variables, {"x": x})
    before = x @ np.asarray(variables["params"]["ip"]["weight"]).T
    np.testing.assert_allclose(found.values["ip"], before, rtol=1e-5)
    np.testing.assert_allclose(found.values["ip#1"], np.maximum(before, 0), rtol=1e-5)
    np.testing.assert_array_equal(found.gradients["drop"], np.full((2, 5), 2))
    np.testing.assert_array_equal(found.gradients["ip#1"], np.full((2, 5), 2))
    np.testing.assert_array_equal(found.gradients["ip"], 2 * (before > 0))
    assert found.gradients["sum"] == 2


def test_other_sizes_than_declared():
    net = compile_net(IN_PLACE)
    found = trace(net, net.init(jax.random.key(1)), {"x": np.ones((7, 3), np.float32)})
    assert found.gradients["ip"].shape == found.values["ip"].shape == (7, 5)


def test_wrong_inputs():
    net = compile_net(IN_PLACE)
    with pytest.raises(JaffeError, match="input 'x' is missing"):
        trace(net, net.init(jax.random.key(1)), {})
