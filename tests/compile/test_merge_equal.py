"""Layers that compute the same, as pairs of graphs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import PIPELINE, merge_equal, run
from tests.compile.programs import after, assert_near, differentiated, kept
from tests.nets.case import FILL, input_layer

X = input_layer("x", 2, 3)


def layer(kind: str, name: str, bottoms: str, more: str = "") -> str:
    below = "".join(f' bottom: "{one}"' for one in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}"{below} top: "{name}" {more} }}\n'


def product(name: str, weight: str, bottom: str = "x", more: str = "") -> str:
    return layer("InnerProduct", name, bottom, f'param {{ name: "{weight}" {more} }} inner_product_param {{ '
                                               f"num_output: 5 bias_term: false {FILL} }}")


TWICE = X + product("a", "w") + layer("TanH", "ta", "a") + product("b", "w") + layer("TanH", "tb", "b") + (
    layer("Eltwise", "y", "ta tb"))


def test_what_follows_from_equal_layers_is_equal_too():
    assert after(merge_equal, TWICE) == [
        "x = Input<x>()", "a = InnerProduct<a>(x)", "ta = TanH<ta>(a)", "y = Eltwise<y>(ta, ta)"]


@pytest.mark.parametrize(("text", "left"), [
    (X + product("a", "w") + product("b", "v") + layer("Eltwise", "y", "a b"), 4),  # other weights
    (X + layer("ReLU", "a", "x") + layer("ReLU", "b", "x", "relu_param { negative_slope: 0.1 }")
     + layer("Eltwise", "y", "a b"), 4),  # other settings
    (X + layer("TanH", "a", "x", "propagate_down: false") + layer("TanH", "b", "x") + layer("Eltwise", "y", "a b"), 4),
    (X + layer("Dropout", "a", "x") + layer("Dropout", "b", "x") + layer("Eltwise", "y", "a b"), 4),  # random in TRAIN
    (X + layer("TanH", "a", "x") + layer("TanH", "b", "x"), 3),  # both are outputs
])
def test_what_stays(text, left):
    assert len(after(merge_equal, text, phase="TRAIN")) == left


def test_gradients_of_all_readers_add_up():
    net = compile_net(TWICE, phase="TRAIN")
    variables, inputs = net.init(jax.random.key(0)), {"x": np.random.default_rng(0).normal(size=(2, 3))}
    merged = run(net.graph, PIPELINE, net.context(kept(net)))
    assert len(merged.nodes) == 4
    found, expected = (differentiated(net, graph.nodes, variables, inputs) for graph in (merged, net.graph))
    assert_near(found, expected, 1e-6)
