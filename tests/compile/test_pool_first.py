"""Max pooling before biases and ReLUs: chains of graphs, and numbers to the bit."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net, trace
from jaffe.compile.passes import fold_batch_norm, pool_first
from jaffe.compile.passes.run import run
from tests.compile.programs import after, kept
from tests.nets.case import input_layer

X = input_layer("x", 3, 5, 8, 11)
CONV = """layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param {
    num_output: 7 kernel_size: 3 pad: 1 BIAS
    weight_filler { type: "gaussian" std: 1 } bias_filler { type: "uniform" min: -3 max: 3 } } }\n"""
RELU = 'layer { name: "relu" type: "ReLU" bottom: "c" top: "r" relu_param { negative_slope: SLOPE } }\n'
POOL = 'layer { name: "pool" type: "Pooling" bottom: "r" top: "p" pooling_param { kernel_size: 3 stride: 2 } }\n'
CHAIN = (X + CONV + RELU + POOL).replace("BIAS", "").replace("SLOPE", "0")
BATCH_NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "c" }\n'


def pooled(text: str, *keep: str, phase: str = "TEST") -> list[str]:
    return after(pool_first, text, *keep, phase=phase)[1:]


@pytest.mark.parametrize(("text", "layers"), [
    (CHAIN, "p = Pooled<conv, relu, pool>(x)"),
    (CHAIN.replace('"ReLU"', '"ReLU6"').replace("relu_param { negative_slope: 0 }", ""),
     "p = Pooled<conv, relu, pool>(x)"),
    (X + CONV.replace("BIAS", "") + POOL.replace('bottom: "r"', 'bottom: "c"'), "p = Pooled<conv, pool>(x)"),
    (CHAIN.replace("num_output: 7", "num_output: 7 bias_term: false"), "p = Pooled<relu, pool>(c)"),
])
def test_a_chain_becomes_one(text, layers):
    assert pooled(text)[-1] == layers


@pytest.mark.parametrize(("old", "new", "keep"), [
    ("negative_slope: 0", "negative_slope: -0.5", ()),
    ("stride: 2", "stride: 2 pool: AVE", ()),
    ("kernel_size: 3 stride: 2", "kernel_size: 2", ()),  # no window hangs over
    ("kernel_size: 3 stride: 2", "kernel_size: 1 stride: 4", ()),  # a window of width sees nothing
    ('top: "p"', 'top: "p" top: "mask"', ()),
    ('bottom: "r" top: "p"', 'bottom: "r" top: "p" propagate_down: false', ()),
    ('top: "p"', 'top: "p"', ("r", "p")),
])
def test_what_stays_apart(old, new, keep):
    text = CHAIN.replace(old, new)
    assert text != CHAIN or keep
    assert not [line for line in pooled(text, *keep) if "Pooled" in line]


def test_training_stays_apart():
    assert len(pooled(CHAIN, phase="TRAIN")) == 3


def test_a_folded_convolution_is_taken_in():
    text = CHAIN.replace('bottom: "c" top: "r"', 'bottom: "b" top: "r"').replace(
        RELU[:20], BATCH_NORM.replace('bottom: "x" top: "c"', 'bottom: "c" top: "b"') + RELU[:20])
    net = compile_net(text, phase="TEST")
    graph = run(net.graph, [fold_batch_norm, pool_first], net.context(kept(net)))
    assert "p = Pooled<conv, bn, relu, pool>(x)" in str(graph)
    assert_pools(text, rtol=2e-6)  # of folding


@pytest.mark.parametrize("slope", ["0", "0.25"])
@pytest.mark.parametrize("bias", ["", "bias_term: false"])
def test_the_numbers_are_the_same(slope, bias):
    assert_pools((X + CONV + RELU + POOL).replace("BIAS", bias).replace("SLOPE", slope), rtol=0)


def assert_pools(text: str, rtol: float) -> None:
    """Against a trace, which runs layers one by one."""
    net = compile_net(text, phase="TEST")
    variables = net.init(jax.random.key(0))
    inputs = {"x": np.random.default_rng(0).normal(0, 2, (3, 5, 8, 11)).astype(np.float32)}
    (found, _), expected = net.apply(variables, inputs), trace(net, variables, inputs).values
    np.testing.assert_allclose(found["p"], expected["p"], rtol=rtol, atol=rtol)
