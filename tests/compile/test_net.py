"""Compiled nets: variables, inputs, blobs, losses, gradients, and what goes wrong with them."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, NetSpec, SpecError
from tests.nets.case import one

LENET = compile_net(zoo.lenet(), phase="TRAIN")
KEY = jax.random.key(0)


def lenet_inputs(batch: int = 64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"data": random.random((batch, 1, 28, 28), np.float32), "label": random.integers(0, 10, batch)}


def test_variables():
    variables = LENET.init(KEY)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "conv1": {"weight": (20, 1, 5, 5), "bias": (20,)},
        "conv2": {"weight": (50, 20, 5, 5), "bias": (50,)},
        "ip1": {"weight": (500, 800), "bias": (500,)},
        "ip2": {"weight": (10, 500), "bias": (10,)},
    }
    assert variables["state"] == {}


def test_a_weight_depends_on_key_and_name_only():
    variables = LENET.init(KEY)
    wider = compile_net(zoo.lenet(classes=7), phase="TRAIN").init(KEY)
    np.testing.assert_array_equal(variables["params"]["conv2"]["weight"], wider["params"]["conv2"]["weight"])
    other = LENET.init(jax.random.key(1))
    assert not np.array_equal(variables["params"]["conv2"]["weight"], other["params"]["conv2"]["weight"])


def test_gradient_under_jit():
    variables = LENET.init(KEY)
    gradient = jax.jit(jax.grad(lambda params: LENET.loss({"params": params, "state": {}}, lenet_inputs())[0]))
    gradients = gradient(variables["params"])
    assert jax.tree.structure(gradients) == jax.tree.structure(variables["params"])
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradients))


def test_loss_is_the_weighted_sum_of_loss_tops():
    text = """
    layer { name: "x" type: "Input" top: "x" top: "y" input_param { shape { dim: 3 dim: 2 } } }
    layer { name: "a" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "a" loss_weight: 0.5 }
    layer { name: "b" type: "ReLU" bottom: "x" top: "b" loss_weight: 2 }
    layer { name: "c" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "c" loss_weight: 0 }
    """
    net = compile_net(text)
    x, y = np.array([[1.0, -2], [3, 4], [0, 5]]), np.zeros((3, 2))
    loss, (outputs, _) = net.loss(net.init(KEY), {"x": x, "y": y})
    assert loss == pytest.approx(0.5 * (x**2).sum() / 6 + 2 * 13)
    assert set(outputs) == {"a", "b", "c"}


def test_blobs_by_name_are_final_values():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { shift: -1 } }
    layer { name: "early" type: "Power" bottom: "p" top: "early" }
    layer { name: "relu" type: "ReLU" bottom: "p" top: "p" }
    layer { name: "late" type: "Power" bottom: "p" top: "late" }
    """
    net = compile_net(text)
    x = np.array([[0.5, 2, 3], [1, -1, 0]], np.float32)
    outputs, _ = net.apply(net.init(KEY), {"x": x}, blobs=["p", "x"])
    np.testing.assert_array_equal(outputs["early"], x - 1)
    np.testing.assert_array_equal(outputs["late"], np.maximum(x - 1, 0))
    np.testing.assert_array_equal(outputs["p"], np.maximum(x - 1, 0))
    np.testing.assert_array_equal(outputs["x"], x)


def test_frozen_and_stopped_gradients():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { lr_mult: 0 } inner_product_param
            { num_output: 2 weight_filler { type: "xavier" } } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param
            { num_output: 2 weight_filler { type: "xavier" } } propagate_down: STOP }
    layer { name: "c" type: "Power" bottom: "b" top: "c" power_param { power: 2 } loss_weight: 1 }
    """

    def gradients(stop: str):
        net = compile_net(text.replace("STOP", stop))
        return jax.grad(lambda p: net.loss({"params": p}, {"x": np.ones((2, 3))})[0])(net.init(KEY)["params"])

    through, stopped = gradients("true"), gradients("false")
    assert not through["a"]["weight"].any()
    assert through["a"]["bias"].any()
    assert not stopped["a"]["bias"].any()
    assert stopped["b"]["weight"].any()


def test_shared_weights_stand_once_and_their_gradients_add_up():
    spec = NetSpec()
    spec.x = jaffe.L.Input(shape={"dim": [2, 3]})
    spec.a = jaffe.L.InnerProduct(spec.x, num_output=3, param=[{"name": "w"}], bias_term=False,
                                  weight_filler={"type": "xavier"})
    spec.b = jaffe.L.InnerProduct(spec.a, num_output=3, param=[{"name": "w"}], bias_term=False, loss_weight=1)
    net = compile_net(spec)
    params = net.init(KEY)["params"]
    assert list(params) == ["a"]
    x = np.ones((2, 3), np.float32)
    w = params["a"]["weight"]
    gradient = jax.grad(lambda p: net.loss({"params": p}, {"x": x})[0])(params)["a"]["weight"]
    expected = jax.grad(lambda w: (x @ w.T @ w.T).sum())(w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert "shares the weights of a" in str(net.summary())
    assert net.cost().params == 9


def test_permissive_sharing_reshapes():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } inner_product_param
            { num_output: 2 bias_term: false weight_filler { type: "xavier" } } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE }
            inner_product_param { num_output: 3 bias_term: false } }
    """
    net = compile_net(text)
    variables = net.init(KEY)
    x = np.ones((2, 3), np.float32)
    w = variables["params"]["a"]["weight"]
    outputs, _ = net.apply(variables, {"x": x})
    np.testing.assert_allclose(outputs["b"], x @ w.T @ w.reshape(3, 2).T, rtol=1e-6)


def test_other_sizes_than_declared():
    outputs, _ = compile_net(zoo.lenet(), phase="TEST").apply(LENET.init(KEY), lenet_inputs(5))
    assert outputs["loss"].shape == ()
    with pytest.raises(SpecError) as caught:
        LENET.apply(LENET.init(KEY), {"data": np.zeros((2, 1, 32, 32)), "label": np.zeros(2)})
    assert "layer 'ip1'" in str(caught.value)
    assert "its weight would be (500, 1250); expected (500, 800)" in str(caught.value)


def test_inputs_and_batch_override_shapes():
    net = compile_net(zoo.lenet(), phase="TRAIN", batch=7)
    assert net.inputs["data"].shape == (7, 1, 28, 28)
    assert net.inputs["label"].shape == (7,)
    net = compile_net('layer { name: "d" type: "Data" top: "x" top: "y" data_param { batch_size: 4 } }',
                      inputs={"x": (4, 3, 2, 2)})
    assert net.shape("x") == (4, 3, 2, 2)
    assert net.shape("y") == (4,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: LENET.apply(v, {"data": np.zeros((64, 1, 28, 28))}),
         "input 'label' is missing; the net reads data (64, 1, 28, 28), label (64,)"),
        (lambda v: LENET.apply(v, {**lenet_inputs(), "dta": 0}), "no input 'dta'; did you mean 'data'?; the net reads"),
        (lambda v: LENET.apply(v, lenet_inputs(), blobs=["conv"]), "the net has no blob 'conv'; did you mean 'conv2'?"),
        (lambda v: LENET.apply({"params": {}}, lenet_inputs()),
         "layer 'conv1' (nets.py:N): the variables have no 'params' 'conv1' 'weight'; make them with net.init(key)"),
        (lambda v: LENET.apply({"params": {**v["params"], "ip2": {"weight": np.zeros((3, 500)), "bias": np.zeros(10)}}},
                               lenet_inputs()), "params 'ip2' 'weight': expected shape (10, 500); found (3, 500)"),
        (lambda v: LENET.apply(v, {"data": np.zeros((3, 1, 28, 28)), "label": np.zeros(2)}),
         "expected one label for each of 3 predictions (3,); found 2 labels (2,)"),
        (lambda v: compile_net(zoo.lenet(), inputs={"dat": (1, 1, 28, 28)}), "the net has no input 'dat'"),
        (lambda v: compile_net(zoo.lenet(), inputs={"data": (0, 1, 28, 28)}),
         "inputs['data']: sizes are positive whole numbers; received (0, 1, 28, 28)"),
        (lambda v: compile_net(zoo.lenet(), inputs={"data": 5}), "inputs['data']: sizes are positive whole numbers"),
        (lambda v: compile_net(zoo.lenet(), batch=2.5), "batch: sizes are positive whole numbers; received [2.5]"),
        (lambda v: compile_net(zoo.lenet(), stages="abc"), "stages is a list of names; received 'abc'"),
        (lambda v: LENET.apply(v, [1, 2]), "inputs are a dict of arrays by name; received list"),
        (lambda v: LENET.apply(v, {**lenet_inputs(), "label": None}),
         "input 'label': expected an array of numbers, (64,); received NoneType"),
        (lambda v: LENET.apply(None, lenet_inputs()), "the variables have no 'params' 'conv1' 'weight'"),
        (lambda v: compile_net(zoo.lenet(), phase="TRIAN"), "phase is 'TRAIN' or 'TEST'; received 'TRIAN'"),
        (lambda v: compile_net('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }').loss(
            v, {"x": [0]}), "has no loss in phase TEST"),
        (lambda v: compile_net(zoo.mlp(), phase="TRAIN").loss(
            compile_net(zoo.mlp()).init(KEY), {"data": np.zeros((64, 1, 28, 28)), "label": np.zeros(64)}),
         "Dropout is random in phase TRAIN: expected rng=jax.random.key(...); found none"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(JaffeError) as caught:
        call(LENET.init(KEY))
    assert message in re.sub(r"nets\.py:\d+", "nets.py:N", str(caught.value))


def test_labels_out_of_range_are_not_silent():
    inputs = {**lenet_inputs(), "label": np.full(64, 10)}
    assert np.isnan(LENET.loss(LENET.init(KEY), inputs)[0])
    inputs["label"][:] = -1
    assert np.isnan(LENET.loss(LENET.init(KEY), inputs)[0])


def test_export_with_any_batch():
    net = compile_net(zoo.cifar10_quick(), phase="TEST")
    variables = net.init(KEY)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {"data": jax.ShapeDtypeStruct((batch, 3, 32, 32), jnp.float32),
              "label": jax.ShapeDtypeStruct((batch,), jnp.float32)}
    exported = jax.export.export(jax.jit(lambda v, x: net.apply(v, x, blobs=["ip2"])[0]))(
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables), shapes)
    again = jax.export.deserialize(exported.serialize())
    x = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    inputs = {"data": x, "label": np.zeros(5, np.float32)}
    expected, _ = net.apply(variables, inputs, blobs=["ip2"])
    np.testing.assert_allclose(again.call(variables, inputs)["ip2"], expected["ip2"], rtol=1e-4, atol=1e-6)


def test_declared_blobs_are_the_first_weights():
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1 }
            blobs { shape { dim: 1 dim: 2 } data: 3 data: 4 }
            blobs { num: 1 channels: 1 height: 1 width: 1 data: 5 } }"""
    params = compile_net(text).init(KEY)["params"]["ip"]
    assert params["weight"].tolist() == [[3, 4]]
    assert params["bias"].tolist() == [5]


def test_net_without_inputs():
    text = """layer { name: "d" type: "DummyData" top: "d"
    dummy_data_param { shape { dim: 3 } data_filler { value: 2 } } }"""
    outputs, _ = compile_net(text).apply({}, {})
    assert outputs["d"].tolist() == [2, 2, 2]


X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }\n'


def test_shared_statistics_are_updated_by_both_uses():
    shared = 'param { name: "m" } param { name: "v" } param { name: "f" }'
    net = compile_net(
        X + f'layer {{ name: "a" type: "BatchNorm" bottom: "x" top: "a" {shared} }}\n'
        f'layer {{ name: "b" type: "BatchNorm" bottom: "x" top: "b" {shared} }}\n', phase="TRAIN")
    variables = net.init(KEY)
    _, state = net.apply(variables, {"x": np.ones((2, 3, 4, 5))})
    assert list(state) == ["a"]
    assert state["a"]["factor"].tolist() == [pytest.approx(1.999)]


def test_the_sharer_may_state_the_multiplier():
    text = X + """
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
            inner_product_param { num_output: 4 } }
    layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" param { name: "w" lr_mult: 2 }
            inner_product_param { num_output: 4 } }"""
    net = compile_net(text)
    assert [net.stored[layer][0].lr_mult for layer in "ab"] == [2, 2]
    assert [net.stored[layer][1].lr_mult for layer in "ab"] == [1, 1]


def test_blobs_and_layers_with_awkward_names():
    net = compile_net(X + """
    layer { name: "input" type: "ReLU" bottom: "x" top: "x" }
    layer { name: "conv[a[/b]" type: "ReLU" bottom: "x" top: "x#1" }
    layer { name: "l" type: "ReLU" bottom: "x" top: "x" }
    layer { name: "sum" type: "EuclideanLoss" bottom: "x" bottom: "x#1" }
    layer { name: "other" type: "ReLU" bottom: "x" top: "sum" }""")
    outputs, _ = net.apply({}, {"x": np.full((2, 3, 4, 5), -1.0)})
    assert set(outputs) == {"sum", "sum_automatic"}
    assert "conv[a[/b]" in str(net.summary())


def test_inputs_without_shapes_are_dropped_beside_an_input_layer():
    net = compile_net('input: "x"\n' + X + 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }')
    assert net.inputs["x"].shape == (2, 3, 4, 5)


def test_gradient_of_cross_entropy_at_zero():
    net = compile_net("""
    layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 } } }
    layer { name: "l" type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "l" }""")
    gradient = jax.grad(lambda x: net.loss({}, {"x": x, "t": [0.25, 1.0]})[0])(jnp.zeros(2))
    assert gradient.tolist() == [0.125, -0.25]  # (sigmoid(0) - t) / 2


def test_loss_of_an_impossible_label_stops_at_flt_min():
    net = compile_net("""
    layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 1 dim: 2 } shape { dim: 1 } } }
    layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" }""")
    for score in (-np.inf, -200.0):
        assert net.loss({}, {"x": [[score, 0]], "t": [0]})[0] == pytest.approx(87.3365, abs=1e-3)


@pytest.mark.parametrize("settings", ["local_size: 100000001", "local_size: 100000001 norm_region: WITHIN_CHANNEL"])
def test_wide_lrn_does_not_hang(settings):
    net = compile_net(X + f'layer {{ name: "l" type: "LRN" bottom: "x" top: "l" lrn_param {{ {settings} }} }}')
    x = np.ones((2, 3, 4, 5), np.float32)
    np.testing.assert_allclose(net.apply({}, {"x": x})[0]["l"], x, atol=1e-6)


@pytest.mark.parametrize(
    "settings", ["scale: 0 shift: -2 power: 0.5", "scale: 0 power: -1", "scale: 0 shift: 1e38 power: 10"]
)
def test_power_without_a_value_is_not_a_traceback(settings):
    net = compile_net(X + f'layer {{ name: "l" type: "Power" bottom: "x" top: "l" power_param {{ {settings} }} }}')
    assert not np.isfinite(net.apply({}, {"x": np.ones((2, 3, 4, 5))})[0]["l"]).any()


def test_float64_needs_jax_to_have_it():
    with pytest.raises(JaffeError, match="jax_enable_x64"):
        compile_net(X, dtype=jnp.float64)
    for wrong in ("int32", "float31"):
        with pytest.raises(JaffeError, match=f"dtype is float32 or float64; received {wrong}"):
            compile_net(X, dtype=wrong)


@pytest.mark.parametrize("wrong", [
    {"params": {}, "state": None}, {"params": {}, "state": [1]}, {"params": {}, "state": {"a": None}},
    ({"params": {}}, {}), [1], {"params": 5}, {"params": {"a": 1}},
], ids=str)
def test_variables_are_dicts_of_dicts(wrong):
    with pytest.raises(JaffeError, match=r'^variables are {"params": {layer: {name: array}}, "state": ...}, as net'):
        compile_net(one("ReLU")).apply(wrong, {"x": np.zeros((2, 3, 7, 5))})


@pytest.mark.parametrize("leaf", [None, "text", np.ones(3, np.complex64)], ids=["none", "text", "complex"])
@pytest.mark.parametrize(("type_name", "group", "name"), [("Bias", "params", "bias"), ("BatchNorm", "state", "mean")])
def test_leaves_are_numbers(leaf, type_name, group, name):
    net = compile_net(one(type_name))
    variables = net.init(jax.random.key(0))
    variables[group]["l"][name] = leaf
    with pytest.raises(SpecError, match=r"^layer 'l' \(<text>:2\): ") as caught:
        net.apply(variables, {"x": np.zeros((2, 3, 7, 5))})
    assert name in str(caught.value)
    if isinstance(leaf, np.ndarray):
        assert str(caught.value).endswith(f"{group} 'l' {name!r}: expected real numbers; found complex64")
