"""bfloat16 between the layers, float32 in weights, gradients, sums, indices and results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe import JaffeError, L, NetSpec, zoo
from jaffe.compile import CompiledNet, compile_net, trace
from jaffe.compile.execute import execute
from jaffe.compile.layer import make_layer
from jaffe.train.timing import time_layers
from tests.compile.test_every_layer import make_inputs
from tests.nets import NETS
from tests.nets.case import input_layer, one

KEY = jax.random.key(0)
LOW = jnp.dtype(jnp.bfloat16)
XAVIER = dict(type="xavier")
ROUNDING = 2.0**-8  # of a number to bfloat16, relative


def quick(function):
    """``jit`` for one run: compiled in less time, slower to run."""
    return jax.jit(function, compiler_options={
        "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def relative(found: Any, expected: Any) -> float:
    """Of the difference, in the Euclidean norm."""
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def cosine(found: Any, expected: Any) -> float:
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)))


def pair(spec: Any, **settings: Any) -> tuple[CompiledNet, CompiledNet]:
    """The net of bfloat16, and that of float32."""
    return compile_net(spec, precision="bfloat16", **settings), compile_net(spec, **settings)


def on_low_bottoms(name: str, gradients: bool):
    """A net of ``tests.nets`` in both precisions, on inputs that are bfloat16 where they are no labels or the like.

    Returns the net, and for bfloat16 and float32 ((all values as they are between the layers, state), gradients), those
    of the outputs by the parameters and the inputs.
    """
    case = NETS[name]
    low, net = pair(case.net, phase="TRAIN")
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda one: random.uniform(0.1, 0.5, one.shape).astype(np.float32),
                             jax.eval_shape(net.init, KEY))
    given = make_inputs(net, case)
    fixed = {key: value for key, value in given.items() if key in case.integers or key in case.fixed}
    rounded = {key: value.astype(LOW) for key, value in given.items() if key not in fixed}

    def run(net, params, inputs):
        program = [(node, make_layer(node)) for node in net.graph.nodes]
        values, state = execute(net, program, {**variables, "params": params}, {**fixed, **inputs}, KEY)
        outputs = [values[net.graph.blobs[blob]].astype(net.dtype) for blob in net.outputs]
        weighted = (x * (1.5 + jnp.cos(jnp.arange(x.size).reshape(x.shape))) for x in outputs)
        return sum(x.sum() for x in weighted), (values, state)

    def both(params):
        plain = {key: value.astype(net.dtype) for key, value in rounded.items()}
        for own, inputs in ((low, rounded), (net, plain)):
            if not gradients:
                yield run(own, params, inputs)[1], None
                continue
            differentiated = jax.value_and_grad(lambda *x, own=own: run(own, *x), (0, 1), has_aux=True)
            (_, values), gradient = differentiated(params, inputs)
            yield values, gradient

    return net, *quick(lambda params: tuple(both(params)))(variables["params"])


@pytest.mark.parametrize("name", NETS)
def test_every_layer(name: str):
    """Values and state near those of float32, and of the dtypes that each layer says."""
    net, ((values, state), _), ((expected, expected_state), _) = on_low_bottoms(name, False)
    for node in net.graph.nodes:
        layer = net.inferred.layers[node.name]
        able, varying = layer.differentiable()
        numbers = [values[bottom].dtype for bottom, can in zip(node.bottoms, able, strict=True) if can]
        dtypes = {"products": LOW, "full": net.dtype}
        for top, varies in zip(node.tops if not layer.source else (), varying, strict=False):
            if varies:
                assert values[top].dtype == dtypes.get(layer.arithmetic, jnp.result_type(*(numbers or [net.dtype])))
            # Weights, products and sums are rounded, each once: less than four roundings of the largest value.
            scale = np.abs(np.nan_to_num(expected[top], posinf=0, neginf=0)).max(initial=0)
            np.testing.assert_allclose(values[top].astype(net.dtype), expected[top], rtol=0, atol=4 * ROUNDING * scale)
    for new, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        assert new.dtype == net.dtype
        assert relative(new, other) < 4 * ROUNDING


@pytest.mark.parametrize("name", [
    "convolution", "deconvolution", "deconvolution_bilinear", "depthwise", "locally_connected", "inner_product",
    "lstm_gradient", "rnn_static", "scale_two", "bn", "prelu", "pooling_ave", "upsample_mask", "roi_pooling", "softmax",
])
def test_gradients_of_layers(name: str):
    net, (_, (weights, bottoms)), (_, (expected, expected_bottoms)) = on_low_bottoms(name, True)
    for gradient, other in zip(jax.tree.leaves(weights), jax.tree.leaves(expected), strict=True):
        assert gradient.dtype == net.dtype
        assert relative(gradient, other) < 8 * ROUNDING  # rounded like values, on the way forward and back
    for key, gradient in bottoms.items():
        assert relative(gradient, expected_bottoms[key]) < 8 * ROUNDING


def test_what_is_mixed_is_float32():
    """A blob of the net beside an input: the input's digits are kept."""
    text = input_layer("x", 2, 3) + input_layer("y", 2, 3) + """
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3 } }
        layer { name: "both" type: "Concat" bottom: "ip" bottom: "y" top: "both" }"""
    net = compile_net(text, precision="bf16")
    outputs, _ = net.apply(net.init(KEY), {"x": np.ones((2, 3)), "y": np.full((2, 3), 1001)})
    np.testing.assert_array_equal(outputs["both"][:, 3:], 1001)


def test_places_of_maxima_and_back():
    """Places above 256 are no bfloat16; they are found among rounded values, and lead back to where those were."""
    text = input_layer("x", 1, 1, 64, 64) + """
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 1 kernel_size: 1
                weight_filler { type: "constant" value: 1 } } }
        layer { name: "pool" type: "Pooling" bottom: "c" top: "small" top: "mask"
                pooling_param { kernel_size: 2 stride: 2 } }
        layer { name: "up" type: "Upsample" bottom: "small" bottom: "mask" top: "up" }"""
    net = compile_net(text, precision="bfloat16")
    x = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(LOW)
    outputs, _ = quick(lambda: net.apply(net.init(KEY), {"x": x}, blobs=["mask"]))()
    windows = x.reshape(32, 2, 32, 2).swapaxes(1, 2).reshape(32, 32, 4).astype(np.float32)
    rows, columns = np.divmod(windows.argmax(-1), 2)
    places = (2 * np.arange(32)[:, None] + rows) * 64 + 2 * np.arange(32) + columns
    np.testing.assert_array_equal(outputs["mask"][0, 0], places)
    np.testing.assert_array_equal(np.asarray(outputs["up"]).ravel()[places], windows.max(-1))


def test_long_sums_are_in_float32():
    """A product over 65536 values, its gradient over 1000 items, and that of a bias over 90000 places."""
    net = compile_net(input_layer("x", 1000, 65536) + one("InnerProduct", 'loss_weight: 1 inner_product_param { '
                      'num_output: 1 weight_filler { type: "constant" value: 1 } }', inputs=""), precision="bf16")
    variables = net.init(KEY)
    x = jnp.ones((1000, 65536))
    assert quick(net.apply)(variables, {"x": x})[0]["t"][0, 0] == 65536
    gradient = quick(jax.grad(lambda v: net.loss(v, {"x": x})[0]))(variables)["params"]["l"]
    np.testing.assert_allclose(gradient["weight"], 1000, rtol=ROUNDING)
    assert gradient["bias"][0] == 1000
    net = compile_net(input_layer("x", 1, 1, 300, 300) + one("Convolution", "loss_weight: 1 convolution_param { "
                      "num_output: 1 kernel_size: 1 }", inputs=""), precision="bf16")
    x = jnp.ones((1, 1, 300, 300))
    gradient = quick(jax.grad(lambda v: net.loss(v, {"x": x})[0]))(net.init(KEY))["params"]["l"]
    assert gradient["bias"][0] == 90000


# ------------------------------------------------------------------------------------------------ whole nets


def residual() -> NetSpec:
    """Two blocks of convolution, batch norm, scale and ReLU beside what they add to."""
    n = NetSpec("residual")
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[8, 3, 12, 12]), dict(dim=[8])])
    same = dict(num_output=8, kernel_size=3, pad=1, bias_term=False, weight_filler=XAVIER)
    n.conv0 = x = L.Convolution(n.data, **same)
    for i in (1, 2):
        n[f"conv{i}"] = y = L.Convolution(x, **same)
        n[f"bn{i}"] = y = L.BatchNorm(y, in_place=True)
        n[f"scale{i}"] = y = L.Scale(y, bias_term=True, in_place=True)
        n[f"relu{i}"] = y = L.ReLU(y, in_place=True)
        n[f"sum{i}"] = x = L.Eltwise(x, y)
    n.pool = L.Pooling(x, pool="AVE", global_pooling=True)
    n.scores = L.InnerProduct(n.pool, num_output=10, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.scores, n.label)
    return n


def words() -> NetSpec:
    """The next of 600 words: indices and labels that are no bfloat16."""
    n = NetSpec("words")
    n.word, n.cont, n.next = L.Input(ntop=3, shape=[dict(dim=[7, 4])] * 3)
    n.embed = L.Embed(n.word, input_dim=600, num_output=16, weight_filler=dict(type="uniform", min=-1, max=1))
    n.lstm = L.LSTM(n.embed, n.cont, num_output=24, weight_filler=XAVIER)
    n.scores = L.InnerProduct(n.lstm, num_output=600, axis=2, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.scores, n.next, softmax_param=dict(axis=2))
    return n


RANDOM = np.random.default_rng(0)
WHOLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "lenet": (zoo.lenet(), {"data": RANDOM.uniform(0, 1, (4, 1, 28, 28)).astype(np.float32),
                            "label": RANDOM.integers(0, 10, 4)}),
    "residual": (residual(), {"data": RANDOM.normal(size=(8, 3, 12, 12)).astype(np.float32),
                              "label": RANDOM.integers(0, 10, 8)}),
    "words": (words(), {"word": RANDOM.integers(257, 600, (7, 4)), "next": RANDOM.integers(257, 600, (7, 4)),
                        "cont": np.broadcast_to(np.arange(7)[:, None] > 0, (7, 4))}),
}


@dataclass(frozen=True)
class Whole:
    """A net in both precisions, its variables and inputs, and of each ((loss, (outputs, state)), gradients)."""

    low: CompiledNet
    net: CompiledNet
    variables: Any
    inputs: Any
    found: Any
    expected: Any


@pytest.fixture(scope="module", params=WHOLE)
def whole(request) -> Whole:
    spec, inputs = WHOLE[request.param]
    low, net = pair(spec, phase="TRAIN", inputs={name: value.shape for name, value in inputs.items()})
    variables = net.init(KEY)

    def gradient(net):
        return jax.value_and_grad(lambda params: net.loss({**variables, "params": params}, inputs, KEY), has_aux=True)

    found, expected = quick(lambda params: (gradient(low)(params), gradient(net)(params)))(variables["params"])
    return Whole(low, net, variables, inputs, found, expected)


def test_outputs_and_gradients_of_whole_nets(whole):
    ((loss, (outputs, state)), found), ((expected_loss, (_, expected_state)), expected) = whole.found, whole.expected
    # Roundings of up to 0.4 % are of either sign: in a mean over classes and items little is left of them.
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-3)
    assert loss != expected_loss
    assert all(output.dtype == np.float32 for output in outputs.values())
    for new, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True):
        assert new.dtype == np.float32
        assert relative(new, other) < 2 * ROUNDING
    for layer in expected:
        for name, gradient in expected[layer].items():
            assert found[layer][name].dtype == np.float32
            # Where rounding makes another value the maximum of a pool, or moves one over a ReLU's 0, gradients take
            # other ways: single entries of the first layers are off by a tenth, their direction is kept.
            assert cosine(found[layer][name], gradient) > 0.99, (layer, name)
            assert relative(found[layer][name], gradient) < 0.15, (layer, name)
    last = "ip2" if "ip2" in expected else "scores"  # behind it there is neither
    assert relative(found[last]["weight"], expected[last]["weight"]) < 4 * ROUNDING


def equations(jaxpr: Any):
    """All equations, those of inner functions and loops too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_all_products_are_of_bfloat16(whole):
    """Forward and backward, in the loop of an LSTM too; in the other net none."""
    for net, dtype in ((whole.low, LOW), (whole.net, whole.net.dtype)):
        def loss(params, net=net):
            return net.loss({**whole.variables, "params": params}, whole.inputs, KEY)[0]

        jaxpr = jax.make_jaxpr(jax.grad(loss))(whole.variables["params"]).jaxpr
        names = ("dot_general", "conv_general_dilated", "onednn")
        products = [eqn for eqn in equations(jaxpr) if eqn.primitive.name in names]
        layers = [layer for layer in net.inferred.layers.values() if layer.arithmetic == "products"]
        assert len(products) >= 3 * len(layers) - 1  # the first has no gradient of its bottom
        for eqn in products:
            assert {var.aval.dtype for var in eqn.invars} == {dtype}, eqn


def test_blobs_between_the_layers(whole):
    """Products, and what follows them, keep bfloat16; what comes out is float32."""
    low, float32 = whole.low, np.dtype(np.float32)
    program = [(node, make_layer(node)) for node in low.graph.nodes]
    env = {name: jnp.asarray(value, float32) for name, value in whole.inputs.items()}
    values = jax.eval_shape(lambda: execute(low, program, whole.variables, env, KEY)[0])
    for node in low.graph.nodes:
        full = low.inferred.layers[node.name].source or node.type in ("Embed", "SoftmaxWithLoss")
        assert {values[top].dtype for top in node.tops} == {float32 if full else LOW}, node.name
    outputs, _ = jax.eval_shape(lambda: low.apply(whole.variables, whole.inputs, KEY, blobs=list(low.graph.blobs)))
    assert {output.dtype for output in outputs.values()} == {float32}


def test_trace(whole):
    (loss, _), found = whole.found
    traced = quick(lambda: trace(whole.low, whole.variables, whole.inputs, KEY))()
    assert float(traced.loss) == pytest.approx(float(loss), rel=1e-3)
    assert {value.dtype for value in (*traced.values.values(), *traced.gradients.values())} == {np.dtype(np.float32)}
    for gradient, other in zip(jax.tree.leaves(traced.weight_gradients), jax.tree.leaves(found), strict=True):
        assert gradient.dtype == np.float32
        # XLA may keep more digits between the layers of one program than of another.
        assert relative(gradient, other) < 0.15


def test_training():
    """30 steps by hand on a few images go down as in float32."""
    spec, inputs = WHOLE["residual"]
    losses = []
    for net in pair(spec, phase="TRAIN"):
        def step(variables, _, net=net):
            (loss, (_, state)), gradient = jax.value_and_grad(
                lambda params: net.loss({**variables, "params": params}, inputs), has_aux=True)(variables["params"])
            params = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], gradient)
            return {"params": params, "state": state}, loss

        variables, found = jax.jit(lambda v, step=step: jax.lax.scan(step, v, None, 30))(net.init(KEY))
        losses.append(np.asarray(found))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    low, plain = losses
    assert plain[-1] < 0.3 * plain[0]
    assert low[-1] < 0.3 * low[0]
    np.testing.assert_allclose(low, plain, rtol=0.1)


# ------------------------------------------------------------------------------------------------ around it


def test_names_and_refusals():
    text = input_layer("x", 2, 3) + one("ReLU", inputs="")
    assert compile_net(text).precision == compile_net(text, precision="float32").precision == np.float32
    assert compile_net(text, precision="bf16").precision == compile_net(text, precision="bfloat16").precision == LOW
    assert compile_net(text, precision="bf16").dtype == np.float32
    for wrong in ("float16", "bfloat", jnp.bfloat16, None):
        with pytest.raises(JaffeError, match=r'precision is "float32" or "bfloat16" .*; received'):
            compile_net(text, precision=wrong)
    with jax.enable_x64(True):
        assert compile_net(text, dtype="float64").precision == np.float64
        with pytest.raises(JaffeError, match="is for nets of dtype float32; received dtype float64"):
            compile_net(text, dtype="float64", precision="bf16")


def test_layers_of_users_see_float32_unless_they_say_other():
    """In a net, and where ``jaffe time`` runs them one by one."""
    seen: dict[str, Any] = {}
    with jaffe.compile.temporary_layers():
        @jaffe.register_layer("Noting")
        def noting(x):
            seen["function"] = x.dtype
            return x

        @jaffe.register_layer("Sparing")
        class Sparing(jaffe.Layer):
            """Notes dtypes."""

            arithmetic = "elementwise"

            def apply(self, weights, bottoms, ctx):
                seen["class"] = bottoms[0].dtype
                return bottoms

        text = input_layer("x", 2, 3) + """
            layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3 } }
            layer { name: "n" type: "Noting" bottom: "ip" top: "n" }
            layer { name: "s" type: "Sparing" bottom: "ip" top: "s" }"""
        net = compile_net(text, precision="bf16")
        for run in (lambda: net.apply(net.init(KEY), {"x": np.ones((2, 3))}), lambda: time_layers(net, 1)):
            seen.clear()
            run()
            assert seen == {"function": np.float32, "class": LOW}


def test_exports_and_linen(tmp_path):
    """StableHLO and Linen compute as the net does, with float32 outside; ONNX in float32."""
    text = input_layer("x", 2, 3, 8, 8) + """
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 5 kernel_size: 3
                weight_filler { type: "xavier" } } }
        layer { name: "bn" type: "BatchNorm" bottom: "c" top: "bn" }
        layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" inner_product_param { num_output: 7
                weight_filler { type: "xavier" } } }
        layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }"""
    low, net = pair(text)
    variables = net.init(KEY)
    variables["state"]["bn"] = {"mean": jnp.full(5, 0.1), "variance": jnp.full(5, 0.7), "factor": jnp.ones(1)}
    x = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    expected = quick(low.apply)(variables, {"x": x})[0]["p"]
    called = jax.export.deserialize(bytearray(low.export(variables))).call({"x": x})["p"]
    assert called.dtype == np.float32
    np.testing.assert_allclose(called, expected, rtol=4 * ROUNDING)
    linen = quick(low.as_linen().apply)(variables, {"x": x})["p"]
    np.testing.assert_allclose(linen, expected, rtol=4 * ROUNDING)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(low.export_onnx(variables).SerializeToString())
    np.testing.assert_allclose(session.run(["p"], {"x": x})[0], quick(net.apply)(variables, {"x": x})[0]["p"],
                               rtol=1e-5)
    assert "Convolution" in low.summary()
