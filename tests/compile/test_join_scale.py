"""A Scale behind a BatchNorm in training: pairs of graphs, and numbers against the two layers one by one."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import join_scale
from tests.compile.programs import after, assert_as_traced
from tests.nets.case import input_layer

X = input_layer("x", 3, 5, 7, 4)
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "b" }\n'
SCALE = """layer { name: "scale" type: "Scale" bottom: "b" top: "s" scale_param {
    filler { type: "uniform" min: 0.5 max: 2 } BIAS } }\n"""
BIAS = 'bias_term: true bias_filler { type: "uniform" min: -1 max: 1 }'
LOSS = """layer { name: "loss" type: "Reduction" bottom: "s" top: "loss" loss_weight: 1
    reduction_param { operation: SUMSQ } }"""
PAIR = X + BN + SCALE.replace("BIAS", BIAS)


def joined(text: str, *keep: str, phase: str = "TRAIN") -> list[str]:
    return after(join_scale, text, *keep, phase=phase)[1:]


def test_a_pair_becomes_one():
    assert joined(PAIR) == ["s = ScaledNorm<bn, scale>(x)"]


@pytest.mark.parametrize(("text", "keep", "phase"), [
    (PAIR, ("b",), "TRAIN"),
    (PAIR + 'layer { name: "r" type: "ReLU" bottom: "b" top: "r" }', (), "TRAIN"),
    (PAIR, (), "TEST"),
    (PAIR.replace('top: "s"', 'top: "s" propagate_down: false'), (), "TRAIN"),
    (PAIR.replace("scale_param {", "scale_param { axis: 2"), (), "TRAIN"),
])
def test_what_stays_two(text, keep, phase):
    assert joined(text, *keep, phase=phase)[:2] == ["b = BatchNorm<bn>(x)", "s = Scale<scale>(b)"]


@pytest.mark.parametrize("bias", ["", BIAS])
def test_the_numbers_are_those_of_two(bias):
    net = compile_net(X + BN + SCALE.replace("BIAS", bias) + LOSS, phase="TRAIN")
    inputs = {"x": np.random.default_rng(0).normal(1, 3, (3, 5, 7, 4)).astype(np.float32)}
    gradients = assert_as_traced(net, inputs, rtol=2e-5, atol=1e-4, loss_rtol=1e-5)
    assert set(gradients["scale"]) == ({"scale", "bias"} if bias else {"scale"})
