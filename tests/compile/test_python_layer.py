"""Layers of the caller's own Python: values and gradients, and transformations."""

from __future__ import annotations

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError
from jaffe.train.timing import time_layers
from tests.compile.python_layers import KEY, X, Y, feeds, modules, net_of  # noqa: F401
from tests.nets.case import input_layer, one


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_loss_is_the_built_in_one(weight: float):
    own = net_of("EuclideanLoss", "x y", inputs=X + Y, extra=f"loss_weight: {weight}")
    shipped = compile_net(one("EuclideanLoss", f"loss_weight: {weight}", "x y", inputs=X + Y))
    assert own.shape("t") == (1,)
    inputs = feeds(own)
    found, expected = (
        jax.jit(jax.value_and_grad(lambda x, net=net: net.loss({}, x)[0]))(inputs) for net in (own, shipped)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for name in ("x", "y"):
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=1e-6)


def test_it_is_no_loss_by_itself():
    with pytest.raises(JaffeError, match="has no loss"):
        net_of("EuclideanLoss", "x y", inputs=X + Y).loss({}, {})


def test_learned_parameters():
    net = net_of("Affine", param_str="{'a': 2.5}", extra="param { } param { lr_mult: 2 }")
    variables, inputs = net.init(KEY), feeds(net)
    assert jax.tree.map(np.ravel, variables["params"])["l"]["blob0"] == 2.5
    variables["params"]["l"]["blob1"] = jnp.array([1.0, -1.0, 0.5])
    outputs, _ = net.apply(variables, inputs)
    np.testing.assert_allclose(outputs["t"], 2.5 * inputs["x"] + np.array([1, -1, 0.5])[:, None], rtol=1e-6)
    assert [stored.lr_mult for stored in net.stored["l"]] == [1, 2]
    assert net.cost().params == 4
    weights = np.random.default_rng(1).normal(size=(5, 3, 2))

    def value(params, x):
        return (net.apply({"params": params, "state": {}}, {"x": x})[0]["t"] * weights).sum()

    d_params, d_x = jax.grad(value, (0, 1))(variables["params"], inputs["x"])
    np.testing.assert_allclose(d_params["l"]["blob0"], [(weights * inputs["x"]).sum()], rtol=1e-5)
    np.testing.assert_allclose(d_params["l"]["blob1"], weights.sum((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(d_x, 2.5 * weights, rtol=1e-6)


def test_parameter_without_bottoms():
    net = net_of("Parameter", "", inputs=X)
    variables = net.init(KEY)
    np.testing.assert_array_equal(net.apply(variables, feeds(net))[0]["t"], [1, 2, 3])
    gradient = jax.grad(lambda v: (net.apply(v, feeds(net))[0]["t"] * jnp.array([5.0, 7, 11])).sum())(variables)
    np.testing.assert_array_equal(gradient["params"]["l"]["blob0"], [5, 7, 11])


def test_jit_and_vmap():
    net = net_of("Affine", param_str="{'a': 2}")
    variables = net.init(KEY)
    several = [feeds(net, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several)

    def value(inputs):
        return (net.apply(variables, inputs)[0]["t"] ** 2).sum()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(value)))(stacked)
    for i, inputs in enumerate(several):
        np.testing.assert_allclose(values[i], value(inputs), rtol=1e-6)
        np.testing.assert_allclose(gradients["x"][i], 8 * inputs["x"], rtol=1e-6)


def test_float64():
    with jax.enable_x64(True):
        net = net_of("Affine", param_str="{'a': 3}", dtype=jnp.float64)
        variables, inputs = net.init(KEY), feeds(net)
        outputs, _ = net.apply(variables, inputs)
        assert outputs["t"].dtype == jnp.float64
        np.testing.assert_allclose(outputs["t"], 3 * inputs["x"], rtol=1e-15)


def test_float64_parameters_keep_their_digits():
    with jax.enable_x64(True):
        variables = net_of("Late", dtype=jnp.float64).init(KEY)
        assert float(variables["params"]["l"]["blob0"][0]) == 1 / 3


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_bottoms_of_other_dtypes(dtype):
    with jaffe.compile.temporary_layers():
        jaffe.register_layer("Cast")(lambda x: x.astype(dtype))
        net = compile_net(X + '''layer { name: "c" type: "Cast" bottom: "x" top: "c" }
                                  layer { name: "l" type: "Python" bottom: "c" top: "t"
                                          python_param { module: "mine" layer: "cube" } }''', python_modules=["mine"])
        outputs, _ = net.apply({}, {"x": jnp.full((5, 3, 2), 3.0)})
    assert outputs["t"].dtype == jnp.float32
    assert (outputs["t"] == 27).all()


def test_parameters_added_in_reshape():
    net = net_of("Late")
    variables, inputs = net.init(KEY), feeds(net)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"l": {"blob0": (1,), "blob1": (3, 2)}}
    variables["params"]["l"]["blob0"] = jnp.array([11.0])
    np.testing.assert_allclose(net.apply(variables, inputs)[0]["t"], 7 * inputs["x"] + 11, rtol=1e-6)
    gradient = jax.grad(lambda v: net.apply(v, inputs)[0]["t"].sum())(variables)["params"]["l"]
    np.testing.assert_allclose(gradient["blob1"], inputs["x"].sum(0), rtol=1e-5, atol=1e-6)


def test_random_numbers_are_those_of_the_forward_pass():
    net = net_of("Noise")
    variables, inputs = net.init(KEY), {"x": jnp.ones((5, 3, 2))}
    before = np.random.get_state()[1].copy()

    @jax.jit
    def both(key):
        return jax.value_and_grad(lambda x: net.apply(variables, {"x": x}, key)[0]["t"].sum())(inputs["x"])

    values = []
    for key in (None, KEY, jax.random.key(3)):
        top = net.apply(variables, inputs, key)[0]["t"]
        random.random()
        total, gradient = both(key)
        np.testing.assert_allclose(gradient, top, rtol=1e-6)
        np.testing.assert_allclose(total, top.sum(), rtol=1e-5)
        values.append(float(total))
    assert len(set(values)) == 3
    tops = jax.vmap(lambda key: net.apply(variables, inputs, key)[0]["t"])(jax.random.split(KEY, 2))
    assert not np.allclose(tops[0], tops[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    again = net_of("Noise").init(KEY)
    np.testing.assert_array_equal(again["params"]["l"]["blob0"], variables["params"]["l"]["blob0"])


def test_propagate_down_says_what_is_needed():
    net = net_of("Label", "x y", inputs=X + Y)
    inputs = feeds(net)
    gradient = jax.grad(lambda x: net.apply({}, {**inputs, "x": x})[0]["t"])(inputs["x"])
    np.testing.assert_allclose(gradient, inputs["y"])
    stopped = net_of("Label", "x y", inputs=X + Y, extra="propagate_down: true propagate_down: false")
    gradient = jax.grad(lambda inputs: stopped.apply({}, inputs)[0]["t"])(inputs)
    np.testing.assert_allclose(gradient["x"], inputs["y"])
    assert not gradient["y"].any()


def test_in_place_is_one_blob():
    net = net_of("InPlace", tops="x")
    inputs = feeds(net)
    np.testing.assert_allclose(net.apply({}, inputs)[0]["x"], 3 * inputs["x"])
    gradient = jax.grad(lambda inputs: net.apply({}, inputs)[0]["x"].sum())(inputs)
    np.testing.assert_allclose(gradient["x"], 3)


def test_functions():
    net = net_of("scaled", "x y", "p s", inputs=X + Y, param_str="2")
    assert (net.shape("p"), net.shape("s")) == ((5, 3, 2), (3, 2))
    inputs = feeds(net)
    outputs, _ = jax.jit(net.apply)({}, inputs)
    np.testing.assert_allclose(outputs["p"], 2 * inputs["x"] * inputs["y"], rtol=1e-6)
    np.testing.assert_allclose(outputs["s"], inputs["x"].sum(0), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda inputs: sum(top.sum() for top in net.apply({}, inputs)[0].values()))(inputs)
    np.testing.assert_allclose(gradient["x"], 2 * inputs["y"] + 1, rtol=1e-6)
    assert not gradient["y"].any()  # None
    tanh = net_of("tanh", module="numpy")
    np.testing.assert_allclose(tanh.apply({}, inputs={"x": inputs["x"]})[0]["t"], np.tanh(inputs["x"]), rtol=1e-6)


@pytest.mark.parametrize(("phase", "number"), [("TRAIN", 0), ("TEST", 1)])
def test_phase_and_text(phase: str, number: int):
    net = net_of("Phase", tops="a b", phase=phase, param_str="four")
    outputs, _ = net.apply({}, feeds(net))
    assert (outputs["a"], outputs["b"]) == (number, 4)


def test_every_call_has_a_fresh_object():
    net = net_of("Counting")
    import mine

    net.apply({}, feeds(net))
    mine.MADE.clear()
    assert [float(net.apply({}, feeds(net))[0]["t"][0]) for _ in range(3)] == [1, 1, 1]
    assert mine.MADE == ["setup"] * 3


def test_other_batch():
    net = net_of("Affine", param_str="{'a': 2}")
    outputs, _ = net.apply(net.init(KEY), {"x": np.ones((7, 3, 2))})
    assert outputs["t"].shape == (7, 3, 2)
    assert (outputs["t"] == 2).all()


def test_large_blobs_do_not_wait_for_each_other():
    """The host copies that a callback makes must not need the thread that the callback holds."""
    double = 'layer {{ name: "{0}" type: "Python" bottom: "{1}" top: "{0}" ' \
             'python_param {{ module: "mine" layer: "Affine" param_str: "{{\'a\': 2}}" }} }}\n'
    net = compile_net(input_layer("x", 64, 3, 10007) + double.format("a", "x") + double.format("b", "a"),
                      python_modules=["mine"])
    variables, inputs = net.init(KEY), {"x": jnp.ones((64, 3, 10007))}
    step = jax.jit(jax.value_and_grad(lambda v: net.apply(v, inputs)[0]["b"].mean()))
    pending = [step(variables) for _ in range(4)]
    assert all(float(value) == 4 for value, _ in pending)


def test_solver_and_snapshot(tmp_path):
    text = '''
    layer { name: "d" type: "MemoryData" top: "data" top: "label"
            memory_data_param { batch_size: 5 channels: 2 height: 1 width: 3 } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
            inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
    layer { name: "label" type: "Reshape" bottom: "label" top: "y" reshape_param { shape { dim: 0 dim: 1 } } }
    layer { name: "loss" type: "LOSS" bottom: "ip" bottom: "y" top: "loss" PARAM loss_weight: 1 }
    '''
    random = np.random.default_rng(0)
    data = {"data": random.normal(size=(23, 2, 1, 3)).astype(np.float32), "label": random.integers(0, 3, 23)}
    losses = []
    for kind, param in (("Python", 'python_param { module: "mine" layer: "EuclideanLoss" }'), ("EuclideanLoss", "")):
        job = jaffe.Solver(net=text.replace("LOSS", kind, 1).replace("PARAM", param), data=data, base_lr=0.05,
                           momentum=0.9, lr_policy="fixed", max_iter=12, test_iter=[2], test_interval=6,
                           random_seed=3, python_modules=["mine"])
        losses.append(job.step(12))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_a_layer_without_gradient_is_timed_forward():
    timings = {name: time_layers(net_of(name, param_str="{'a': 2}", extra="loss_weight: 1"), 1)[0]
               for name in ("cube", "Affine")}
    assert timings["cube"].forward > 0
    assert timings["cube"].backward is None
    assert timings["Affine"].backward is not None


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_timing_is_in_the_dtype_of_the_net(dtype):
    seen = set()
    with jax.enable_x64(True), jaffe.compile.temporary_layers():
        @jaffe.register_layer("Typed")
        class Typed(jaffe.Layer):
            """Notes dtypes."""

            def apply(self, weights, bottoms, ctx):
                seen.update({jnp.dtype(ctx.dtype), bottoms[0].dtype})
                return bottoms

        net = compile_net(input_layer("x", 5) + 'layer { name: "l" type: "Typed" bottom: "x" top: "t" }', dtype=dtype)
        time_layers(net, 1)
    assert seen == {jnp.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_timing_asks_for_the_gradients_that_training_needs(dtype: str):
    text = X + input_layer("y", 5, 3, 2) + input_layer("z", 5) + '''
        layer { name: "scale" type: "Scale" bottom: "x" top: "s" }
        layer { name: "l" type: "Python" bottom: "s" bottom: "y" top: "t" loss_weight: 1
                python_param { module: "mine" layer: "Label" } }
        layer { name: "power" type: "Power" bottom: "z" top: "p" power_param { scale: 2 } }
        layer { name: "no loss" type: "Scale" bottom: "s" top: "u" }'''
    with jax.enable_x64(dtype == "float64"):
        net = compile_net(text, python_modules=["mine"], dtype=dtype)
        backward = {one.name: one.backward is not None for one in time_layers(net, 1)}
    assert backward == {"scale": True, "l": True, "power": False, "no loss": False}


def test_export_is_refused_by_jax():
    net = net_of("cube")
    with pytest.raises(NotImplementedError, match="callback"):
        jax.export.export(jax.jit(net.apply))({}, feeds(net)).serialize()


def test_blobs():
    blob = jaffe.compile.pycaffe.Blob(np.ones((2, 3), np.float32))
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count, blob.shape) == (2, 3, 1, 1, 6, (2, 3))
    blob.reshape(2, 3)
    assert blob.data.all()
    blob.reshape(3, 1, 2, 2, 5)
    assert (blob.data.shape, blob.diff.shape, blob.data.any()) == ((3, 1, 2, 2, 5), (3, 1, 2, 2, 5), False)
    with pytest.raises(ValueError, match="at most 4 axes"):
        _ = blob.num
    with pytest.raises(ValueError, match=r"sizes are positive; received \(0,\)"):
        blob.reshape(0)
    with pytest.raises(AttributeError):
        blob.data = 1
