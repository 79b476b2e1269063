"""Merging of 1x1 convolutions: pairs of graphs, and numbers against the same layers run one by one."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import merge_siblings
from tests.compile.programs import after, assert_near, differentiated, kept, quickly
from tests.nets.case import FILL, input_layer

KEY = jax.random.key(0)
X = input_layer("x", 2, 5, 7, 3) + input_layer("y", 2)


def conv(name: str, bottom: str = "x", settings: str = "kernel_size: 1", outputs: int = 3, more: str = "") -> str:
    return (f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {more} '
            f'convolution_param {{ num_output: {outputs} {settings} {FILL} }} }}\n')


def layer(kind: str, name: str, *bottoms: str, settings: str = "") -> str:
    return (f'layer {{ name: "{name}" type: "{kind}" {" ".join(f"bottom: {chr(34)}{one}{chr(34)}" for one in bottoms)} '
            f'top: "{name}" {settings} }}\n')


def head(bottom: str, name: str = "loss") -> str:
    """Scores of that value, and their loss."""
    return layer("InnerProduct", f"scores_{name}", bottom,
                 settings=f"inner_product_param {{ num_output: 7 {FILL} }}") + layer(
                     "SoftmaxWithLoss", name, f"scores_{name}", "y")


# Three siblings, one of them behind a pooling, as in GoogLeNet.
INCEPTION = (
    X + conv("stem", settings="kernel_size: 3 pad: 1", outputs=11) + layer("ReLU", "r", "stem") + conv("a", "r")
    + conv("b0", "r", outputs=4) + conv("b", "b0", "kernel_size: 3 pad: 1", 5)
    + conv("c0", "r", outputs=2) + conv("c", "c0", "kernel_size: 5 pad: 2")
    + layer("Pooling", "p0", "r", settings="pooling_param { kernel_size: 3 stride: 1 pad: 1 }") + conv("p", "p0")
    + layer("Concat", "both", "a", "b", "c", "p") + head("both"))


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_inception(phase):
    assert after(merge_siblings, INCEPTION, phase=phase)[4:] == [
        "a, b0, c0 = Merged<a, b0, c0>(r)", "b = Convolution<b>(b0)", "c = Convolution<c>(c0)",
        "p0 = Pooling<p0>(r)", "p = Convolution<p>(p0)", "both = Concat<both>(a, b, c, p)",
        "scores_loss = InnerProduct<scores_loss>(both)", "loss *1 = SoftmaxWithLoss<loss>(scores_loss, y)"]


def test_values_asked_for_are_there():
    assert after(merge_siblings, INCEPTION, "a", "b0")[4] == "a, b0, c0 = Merged<a, b0, c0>(r)"


PAIR = X + conv("a") + conv("b", outputs=2)
FROZEN = "param { lr_mult: 0 }"
AS_IT_WAS = {
    "a larger kernel": X + conv("a") + conv("b", settings="kernel_size: 3"),
    "one axis of it": X + conv("a") + conv("b", settings="kernel_h: 1 kernel_w: 3"),
    "stride": X + conv("a") + conv("b", settings="kernel_size: 1 stride: 2"),
    "pad": X + conv("a") + conv("b", settings="kernel_size: 1 pad: 1"),
    "groups": X + conv("a") + conv("b", settings="kernel_size: 1 group: 5", outputs=5),
    "another axis": X + conv("a") + conv("b", settings="kernel_size: 1 axis: 2"),
    "one has no bias": X + conv("a") + conv("b", settings="kernel_size: 1 bias_term: false"),
    "other values": X + conv("a") + conv("b", "a"),
    "values of one blob": X + conv("a") + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }' + conv("b"),
    "a gradient stops at one": X + conv("a") + conv("b", more="propagate_down: false"),
    "one is frozen": X + conv("a", more=FROZEN) + conv("b") + head("a", "one") + head("b", "two"),
    "one leads to no loss": X + conv("a") + conv("b") + head("a"),
    "deconvolutions": PAIR.replace('"Convolution"', '"Deconvolution"'),
}


@pytest.mark.parametrize("name", AS_IT_WAS)
def test_what_is_not_merged(name):
    assert not any("Merged" in line for line in after(merge_siblings, AS_IT_WAS[name], phase="TRAIN"))


def test_those_that_are_alike_are_merged():
    """Dilation does nothing to one pixel; the two that are frozen go together, and the two that have no bias."""
    text = (X + conv("a") + conv("b", settings="kernel_size: 1 dilation: 2") + conv("f", more=FROZEN)
            + conv("n", settings="kernel_size: 1 bias_term: false") + conv("g", more=FROZEN)
            + conv("m", settings="kernel_size: 1 bias_term: false", outputs=6))
    text += "".join(head(name, f"of_{name}") for name in "abfngm")
    assert after(merge_siblings, text, phase="TRAIN")[2:5] == [
        "a, b = Merged<a, b>(x)", "f, g = Merged<f, g>(x)", "n, m = Merged<n, m>(x)"]


NUMBERS = {
    "inception": INCEPTION,
    "no bias": PAIR.replace("kernel_size", "bias_term: false kernel_size") + head("a", "one") + head("b", "two"),
    "frozen": conv("a", more=FROZEN).join([X, conv("b", more=FROZEN, outputs=4)]) + head("a", "one") + head("b", "two"),
    "shared": X + "".join(conv(name, more='param { name: "w" }') for name in "ab")
              + head("a", "one") + head("b", "two"),
    "no gradient back": X + conv("s") + "".join(conv(name, "s", more="propagate_down: false") for name in "ab")
                        + head("a", "one") + head("b", "two"),
    "one axis": input_layer("x", 2, 5, 7) + input_layer("y", 2) + conv("a") + conv("b") + head("a", "one")
                + head("b", "two"),
    "rows": input_layer("x", 2, 5) + input_layer("y", 2) + conv("a") + conv("b") + head("a", "one") + head("b", "two"),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("x64", [False, True])
def test_numbers(name, x64):
    with jax.enable_x64(x64):
        net = compile_net(NUMBERS[name], phase="TRAIN", dtype=jnp.float64 if x64 else jnp.float32)
        program = net.program(kept(net))
        assert any(node.type == "Merged" for node in program.nodes)
        random = np.random.default_rng(0)
        inputs = {"x": random.normal(size=net.inputs["x"].shape), "y": random.integers(0, 7, 2)}
        found, expected = quickly(lambda: tuple(
            differentiated(net, nodes, net.init(KEY), inputs) for nodes in (program.nodes, net.graph.nodes)))
        assert_near(found, expected, 1e-12 if x64 else 1e-5)
        if name == "frozen":
            assert not found[2]["a"]["weight"].any()
            assert found[2]["a"]["bias"].any()


def test_bfloat16():
    net = compile_net(INCEPTION, phase="TRAIN", precision="bfloat16")
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 5, 7, 3)), "y": np.zeros(2)}
    found, expected = quickly(lambda: tuple(
        differentiated(net, nodes, net.init(KEY), inputs) for nodes in (net.program(kept(net)).nodes, net.graph.nodes)))
    assert_near(found, expected, 2**-8 * 4)


def test_one_product_in_the_program():
    """Of three siblings: one forward, one back to the weights, one back to what they read."""
    def products(text: str) -> int:
        net = compile_net(X + conv("stem") + text, phase="TRAIN", lowering="plain")
        variables = net.init(KEY)
        step = jax.jit(jax.grad(lambda params, inputs: net.loss({**variables, "params": params}, inputs)[0]))
        return len(re.findall(r"stablehlo\.convolution", step.lower(variables["params"], net.inputs).as_text()))

    apart = "".join(conv(name, "stem", "kernel_size: 1 " + bias) + head(name, f"of_{name}")
                    for name, bias in (("a", ""), ("b", "bias_term: false")))
    alike = "".join(conv(name, "stem") + head(name, f"of_{name}") for name in "ab")
    assert (products(apart), products(alike)) == (2 + 2 * 3, 2 + 3)
