"""Folding of BatchNorm and Scale: pairs of graphs, and numbers against the same layers run one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile import compile_net
from jaffe.compile.layer import Layer
from jaffe.compile.layers.linear import Scale
from jaffe.compile.passes import fold_batch_norm
from jaffe.netdef import SpecError
from tests.compile.programs import after, assert_near, differentiated, kept, quickly
from tests.nets.case import FILL, input_layer

KEY = jax.random.key(0)
X = input_layer("x", 2, 6, 11, 7)
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" SET }\n'
SCALE = """layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param {
    filler { type: "uniform" min: 0.5 max: 2 } bias_term: true bias_filler { type: "uniform" min: -1 max: 1 } } }\n"""
RELU = 'layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }\n'


def product(kind: str = "Convolution", settings: str = "num_output: 10 kernel_size: 3", bottom: str = "x") -> str:
    field = "inner_product_param" if kind == "InnerProduct" else "convolution_param"
    return f'layer {{ name: "c" type: "{kind}" bottom: "{bottom}" top: "c" {field} {{ {settings} {FILL} }} }}\n'


def folded(text: str, *keep: str, phase: str = "TEST") -> list[str]:
    return after(fold_batch_norm, text, *keep, phase=phase)


BLOCK = X + product() + BN.replace("SET", "") + SCALE + RELU


def test_a_block_becomes_one_product():
    assert folded(BLOCK) == ["x = Input<x>()", "c#2 = Folded<c, bn, scale>(x)", "c#3 = ReLU<relu>(c#2)"]


def test_not_in_place():
    text = X + product() + """
        layer { name: "bn" type: "BatchNorm" bottom: "c" top: "b" }
        layer { name: "scale" type: "Scale" bottom: "b" top: "s" }"""
    assert folded(text)[1:] == ["s = Folded<c, bn, scale>(x)"]


def test_layers_of_forks_and_their_order():
    text = X + product() + SCALE + """
        layer { name: "bias" type: "Bias" bottom: "c" top: "b" }
        layer { name: "bn" type: "BN" bottom: "b" top: "b" }
        layer { name: "p" type: "Power" bottom: "b" top: "p" }
        layer { name: "more" type: "Scale" bottom: "p" top: "more" }"""
    assert folded(text)[1:] == [
        "b#1 = Folded<c, scale, bias, bn>(x)", "p = Power<p>(b#1)", "more = Scale<more>(p)"]


def test_siblings_and_chains_of_products():
    text = BLOCK.replace(RELU, "") + """
        layer { name: "a" type: "Convolution" bottom: "c" top: "a" convolution_param { num_output: 3 kernel_size: 1 } }
        layer { name: "b" type: "Convolution" bottom: "c" top: "b" convolution_param { num_output: 3 kernel_size: 1 } }
        layer { name: "bn_b" type: "BatchNorm" bottom: "b" top: "bn_b" }
        layer { name: "bn_a" type: "BatchNorm" bottom: "a" top: "bn_a" }"""
    assert folded(text)[1:] == ["c#2 = Folded<c, bn, scale>(x)", "bn_a = Folded<a, bn_a>(c#2)",
                                "bn_b = Folded<b, bn_b>(c#2)"]


BY_STORED = BN.replace("SET", "")
AS_IT_WAS = {
    "the product is asked for": (BLOCK, ("c", "c#3")),
    "statistics of the batch": (X + product() + BN.replace("SET", "batch_norm_param { use_global_stats: false }"), ()),
    "segnet's learned layer": (X + product() + BN.replace("BatchNorm", "BN").replace(
        "SET", "bn_param { bn_mode: LEARN }"), ()),
    "read twice": (X + product() + """
        layer { name: "bn" type: "BatchNorm" bottom: "c" top: "bn" }
        layer { name: "sum" type: "Eltwise" bottom: "c" bottom: "bn" top: "sum" }""", ()),
    "a gradient stops": (X + product() + BN.replace("SET", "propagate_down: false"), ()),
    "rows of a plane": (X + product(settings="num_output: 11 axis: 2 kernel_size: 3") + BY_STORED, ()),
    "two products in one": (X + product().replace('top: "c"', 'bottom: "x" top: "c" top: "d"') + BY_STORED, ()),
    "rows of a sequence": (input_layer("x", 2, 5, 7) + product("InnerProduct", "num_output: 5 axis: 2") + BY_STORED,
                           ()),
    "a scale of each value": (X + product() + SCALE.replace("scale_param {", "scale_param { num_axes: -1"), ()),
    "a scale that is a blob": (X + input_layer("s", 2, 10) + product() + """
        layer { name: "scale" type: "Scale" bottom: "c" bottom: "s" top: "t" scale_param { axis: 0 } }""", ()),
    "more weights than values": (X + product(settings="num_output: 10 kernel_h: 11 kernel_w: 7") + BY_STORED, ()),
}


@pytest.mark.parametrize("name", AS_IT_WAS)
def test_what_is_not_folded(name):
    text, keep = AS_IT_WAS[name]
    assert not any("Folded" in line for line in folded(text, *keep))


@pytest.mark.parametrize("settings", ["", "batch_norm_param { use_global_stats: true }"])
def test_training_is_not_folded(settings):
    assert not any("Folded" in line for line in folded(X + product() + BN.replace("SET", settings), phase="TRAIN"))


def test_a_users_own_layers_are_not_folded():
    with jaffe.compile.temporary_layers():
        @jaffe.register_layer("MyScale")
        class MyScale(Scale):
            shapes = Layer.shapes
            weights = Layer.weights

            def apply(self, weights, bottoms, ctx):
                return [2 * bottoms[0]]

        text = X + product() + 'layer { name: "s" type: "MyScale" bottom: "c" top: "s" }'
        assert folded(text)[1:] == ["c = Convolution<c>(x)", "s = MyScale<s>(c)"]


PRODUCTS = {
    "convolution": product(),
    "no bias": product(settings="num_output: 10 kernel_size: 3 bias_term: false"),
    "groups": product(settings="num_output: 10 kernel_size: 3 group: 2 stride: 2 pad: 1 dilation: 2"),
    "deconvolution": product("Deconvolution", "num_output: 10 kernel_size: 3 stride: 2"),
    "groups of a deconvolution": product("Deconvolution", "num_output: 9 kernel_size: 3 group: 3 bias_term: false"),
    "depthwise": product("DepthwiseConvolution", "num_output: 12 kernel_size: 3"),
    "inner product": product("InnerProduct", "num_output: 5", "mean"),
    "transposed": product("InnerProduct", "num_output: 5 transpose: true bias_term: false", "mean"),
}
MEAN = """layer { name: "mean" type: "Pooling" bottom: "x" top: "mean"
    pooling_param { pool: AVE global_pooling: true } }\n"""
# More items than an InnerProduct has weights, else it is not folded.
MANY = input_layer("x", 31, 6, 3, 2) + MEAN


def both(text: str, dtype=jnp.float32, **settings):
    """The tops and gradients of a net with folding and without, for statistics that three batches left."""
    train, net = (compile_net(text, phase=phase, dtype=dtype, **settings) for phase in ("TRAIN", "TEST"))
    (name, shape), = ((name, value.shape) for name, value in net.inputs.items())
    batches = np.random.default_rng(0).normal(1, 3, (3, *shape))
    program = net.program(kept(net))
    assert any(node.type == "Folded" for node in program.nodes)

    def run():
        variables = train.init(KEY)
        for batch in batches:
            variables["state"] = train.apply(variables, {name: batch})[1]
        for nodes in (program.nodes, net.graph.nodes):
            tops, state, gradients = differentiated(net, nodes, variables, {name: batches[-1]})
            assert state == variables["state"]
            yield tops, gradients

    return quickly(lambda: tuple(run()))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("x64", [False, True])
def test_numbers(name, x64):
    inputs = MANY if '"mean"' in PRODUCTS[name] else X
    with jax.enable_x64(x64):
        (tops, gradients), (plain, expected) = both(
            inputs + PRODUCTS[name] + BY_STORED + SCALE, jnp.float64 if x64 else jnp.float32)
        assert_near((tops, gradients), (plain, expected), 1e-12 if x64 else 1e-5)


@pytest.mark.parametrize("settings", [
    "bn_param { slope_filler { type: \"uniform\" min: 0.5 max: 2 } eps: 0.001 }", "bn_param { frozen: true }",
    "bn_param { bn_mode: INFERENCE scale_filler { value: 1.5 } shift_filler { value: -2 } }"])
def test_numbers_of_forks(settings):
    (tops, gradients), (plain, expected) = both(X + product() + BN.replace("BatchNorm", "BN").replace("SET", settings))
    assert_near((tops, gradients), (plain, expected), 1e-5)


def test_bfloat16_multiplies_the_weights_in_float32():
    """As near to float32 as the net that is not folded, and the weights are rounded once."""
    text = BLOCK.replace(RELU, "")
    (tops, _), (plain, _) = both(text, precision="bfloat16")
    exact = both(text)[0][0]
    off, off_plain = (np.abs(one["c"] - exact["c"]).max() for one in (tops, plain))
    assert off <= off_plain * 1.5
    assert off < 2**-8 * 4 * np.abs(exact["c"]).max()


def test_frozen_weights_stay_so():
    (_, gradients), _ = both(X + product().replace("convolution_param", "param { lr_mult: 0 } convolution_param")
                             + BY_STORED + SCALE)
    assert not gradients["c"]["weight"].any()
    assert gradients["c"]["bias"].any()
    assert gradients["scale"]["scale"].any()


def test_shared_weights():
    """Two products of one weight, each with a bias and statistics of its own."""
    named = 'param { name: "w" } convolution_param'
    twice = BLOCK.replace(RELU, "").replace("convolution_param", named)
    twice += twice[len(X):].replace('"c"', '"d"').replace('"bn"', '"bn2"').replace('"scale"', '"scale2"')
    (tops, gradients), (plain, expected) = both(twice)
    assert set(tops) == {"c", "d"}
    assert_near((tops, gradients), (plain, expected), 1e-5)


def test_missing_statistics_are_named():
    net = compile_net(BLOCK)
    with pytest.raises(SpecError, match=r"layer 'bn'.*no 'state' 'bn' 'mean'"):
        net.apply({**net.init(KEY), "state": {}}, {"x": np.zeros((2, 6, 11, 7))})


def test_exports():
    """StableHLO runs the folded net; ONNX has the layers as they are."""
    net = compile_net(BLOCK)
    variables = net.init(KEY)
    x = np.random.default_rng(0).normal(size=(5, 6, 11, 7)).astype(np.float32)
    expected = net.apply(variables, {"x": x})[0]["c"]
    artefact = jax.export.deserialize(bytearray(net.export(variables)))
    assert_near(artefact.call({"x": x})["c"], expected, 1e-5)
    model = net.export_onnx(variables)
    assert [node.op_type for node in model.graph.node][:2] == ["Conv", "BatchNormalization"]
