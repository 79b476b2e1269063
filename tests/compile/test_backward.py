"""What the backward pass has to compute, as analysed, and as XLA computes it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Literal

from jaffe.compile import compile_net
from jaffe.compile.backward import needed_gradients
from jaffe.compile.layer import Context
from tests.nets import NETS
from tests.nets.case import input_layer

KEY = jax.random.key(0)


def reached(function, inputs, weights) -> list[list[bool]]:
    """For each input (the first: learned weights), whether the cotangent of each top takes part in its own."""

    def pull(inputs, tops):
        learned, *bottoms = inputs
        return jax.vjp(lambda some, *bottoms: function({**weights, **some}, *bottoms), learned, *bottoms)[1](tops)

    state = {name: jnp.zeros(one.shape) for name, one in weights.items() if name not in inputs[0]}
    weights = {**weights, **state}
    tops = jax.eval_shape(lambda learned, *bottoms: function({**weights, **learned}, *bottoms), *inputs)
    jaxpr = jax.make_jaxpr(pull)(inputs, tops).jaxpr
    known: dict[Any, set[int]] = {var: {i} for i, var in enumerate(jaxpr.invars[-len(tops):])}
    for eqn in jaxpr.eqns:
        tops_in = set().union(*(known.get(one, set()) for one in eqn.invars if not isinstance(one, Literal)))
        known.update((one, tops_in) for one in eqn.outvars)
    found = [set() if isinstance(one, Literal) else known.get(one, set()) for one in jaxpr.outvars]
    of_weights, of_bottoms = set().union(*found[: len(inputs[0])]), found[len(inputs[0]):]
    return [[i in one for i in range(len(tops))] for one in (of_weights, *of_bottoms)]


@pytest.mark.parametrize("name", NETS)
def test_where_gradients_pass(name: str):
    """Each layer's word on its bottoms and tops is what JAX finds."""
    net = compile_net(NETS[name].net, phase="TRAIN")
    for node in net.graph.nodes:
        layer = net.inferred.layers[node.name]
        shapes = [net.shape(value) for value in node.bottoms]
        bottoms = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        weights = {one.name: jax.ShapeDtypeStruct(one.shape, jnp.float32) for one in layer.weights(shapes)}
        trained = {one.name for one in layer.weights(shapes) if one.trained}
        if layer.source or not node.tops or not (bottoms or trained):
            continue
        context = Context(node, KEY)

        def function(weights, *bottoms, layer=layer, context=context):
            return layer.apply_with_state(weights, bottoms, context)[0]

        by_input = reached(function, [{name: weights[name] for name in trained}, *bottoms], weights)
        assert layer.differentiable() == ([any(tops) for tops in by_input[1:]],
                                          [any(tops) for tops in zip(*by_input, strict=True)]), node.name


X = input_layer("x", 2, 3, 9, 7)
Y = input_layer("y", 2)
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"
FILL = 'weight_filler { type: "xavier" }'


def layer(kind: str, name: str, bottoms: str, tops: str = "", settings: str = "") -> str:
    """A layer whose top, unless given, is its name."""
    blobs = "".join(f' bottom: "{b}"' for b in bottoms.split())
    blobs += "".join(f' top: "{t}"' for t in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}"{blobs} {settings} }}\n'


def conv(name: str, bottom: str, settings: str = "", kernel: int = 1, outputs: int = 24) -> str:
    return layer("Convolution", name, bottom, "",
                 f"{settings} convolution_param {{ num_output: {outputs} kernel_size: {kernel} {FILL} }}")


def scores(bottom: str, settings: str = "") -> str:
    """Scores and their loss."""
    return layer("InnerProduct", "scores", bottom, "",
                 f"{settings} inner_product_param {{ num_output: 7 {FILL} }}") + layer(
                     "SoftmaxWithLoss", "loss", "scores y")


def chain(frozen: int = 0, settings: str = "") -> str:
    """Three convolutions, of which the first learn nothing. ``settings``: of the last."""
    text, below = X + Y, "x"
    for i in range(3):
        text += conv(f"c{i}", below, (FROZEN if i < frozen else "") + (settings if i == 2 else ""), 3 - i)
        text += layer("ReLU", f"r{i}", f"c{i}")
        below = f"r{i}"
    return text + scores(below)


POOL = "pooling_param { kernel_size: 3 stride: 3 }"
TRUNK = conv("c0", "x", FROZEN) + layer("BatchNorm", "bn", "c0") + layer(
    "Scale", "scale", "bn", "", "scale_param { bias_term: true }") + layer("Eltwise", "sum", "c0 scale")
SEQUENCE = input_layer("x", 5, 2, 3) + input_layer("cont", 5, 2) + input_layer("y", 5)
RECURRENT = f"recurrent_param {{ num_output: 5 {FILL} }}"


def shared(kind: str, settings: str, bottom: str) -> str:
    """One of several layers with one weight."""
    return conv(kind, bottom, f'param {{ name: "w" {settings} }} param {{ name: "b" {settings} }}')


# Of each net, the layers that have a backward pass, and which gradients those are: of the weight W, of the bias b, and
# of bottoms by their index.
EXPECTED: dict[str, tuple[str, dict[str, str]]] = {
    "all learn": (chain(), {"c0": "Wb", "r0": "0", "c1": "Wb0", "r1": "0", "c2": "Wb0", "r2": "0", "scores": "Wb0",
                            "loss": "0"}),
    "one frozen": (chain(1), {"c1": "Wb", "r1": "0", "c2": "Wb0", "r2": "0", "scores": "Wb0", "loss": "0"}),
    "two frozen": (chain(2), {"c2": "Wb", "r2": "0", "scores": "Wb0", "loss": "0"}),
    "three frozen": (chain(3), {"scores": "Wb", "loss": "0"}),
    "frozen above": (chain(settings=FROZEN), {
        "c0": "Wb", "r0": "0", "c1": "Wb0", "r1": "0", "c2": "0", "r2": "0", "scores": "Wb0", "loss": "0"}),
    "propagate_down": (chain(settings="propagate_down: false"), {
        "c2": "Wb", "r2": "0", "scores": "Wb0", "loss": "0"}),
    "force_backward": ("force_backward: true\n" + chain(2, "propagate_down: false"), {
        "c0": "Wb", "r0": "0", "c1": "Wb0", "r1": "0", "c2": "Wb0", "r2": "0", "scores": "Wb0", "loss": "0"}),
    "parts of layers": (
        X + Y + conv("c0", "x", "param { lr_mult: 0 }") + conv("c1", "c0", "param {} param { lr_mult: 0 }")
        + scores("c1"),
        {"c0": "b", "c1": "W0", "scores": "Wb0", "loss": "0"}),
    "siamese": (
        X + X.replace('"x"', '"z"') + Y + conv("c0", "x", outputs=3) + shared("a", "", "c0") + shared("b", "", "z")
        + layer("ContrastiveLoss", "loss", "a b y"),
        {"c0": "Wb", "a": "Wb0", "b": "Wb", "loss": "01"}),
    "siamese, frozen by one": (
        X + X.replace('"x"', '"z"') + Y + conv("c0", "x", outputs=3) + shared("a", "lr_mult: 0", "c0")
        + shared("b", "", "z")
        + layer("ContrastiveLoss", "loss", "a b y"),
        {"c0": "Wb", "a": "0", "loss": "0"}),
    "a branch without loss": (
        X + Y + conv("c0", "x") + scores("c0") + conv("c1", "c0") + layer("InnerProduct", "other", "c1", "",
        f"inner_product_param {{ num_output: 7 {FILL} }}") + layer("Accuracy", "accuracy", "other y")
        + layer("SoftmaxWithLoss", "unweighted", "other y", "", "loss_weight: 0"),
        {"c0": "Wb", "scores": "Wb0", "loss": "0"}),
    "a branch to labels": (
        X + Y + conv("c0", "x") + conv("teacher", "c0") + conv("student", "c0")
        + layer("SigmoidCrossEntropyLoss", "loss", "student teacher"),
        {"c0": "Wb", "student": "Wb0", "loss": "0"}),
    "a branch of masks": (
        X + Y + conv("c0", "x", FROZEN) + layer("Pooling", "p0", "c0", "small0 mask0", POOL)
        + conv("c1", "x") + layer("Pooling", "p1", "c1", "small1 mask1", POOL)
        + layer("Upsample", "up", "small0 mask1", "", "upsample_param { upsample_h: 9 upsample_w: 7 }")
        + conv("c2", "up") + scores("c2"),
        {"c2": "Wb", "scores": "Wb0", "loss": "0"}),
    "a frozen trunk with batch norm": (
        X + Y + TRUNK + conv("c1", "sum") + scores("c1"),
        {"scale": "Wb", "sum": "1", "c1": "Wb0", "scores": "Wb0", "loss": "0"}),
    "recurrent": (
        SEQUENCE + layer("LSTM", "l", "x cont", "", RECURRENT) + scores("l"),
        {"l": "Wbh", "scores": "Wb0", "loss": "0"}),
    "recurrent, frozen": (
        SEQUENCE + layer("LSTM", "l", "x cont", "", "param { lr_mult: 0 } " * 3 + RECURRENT) + scores("l"),
        {"scores": "Wb", "loss": "0"}),
}
NAMES = {"W": ("weight", "scale", "input_weight"), "b": ("bias",), "h": ("hidden_weight",)}


@cache
def program(name: str):
    """The net, and XLA's program of its loss and gradients. Plain, so that a product of the net is one there."""
    net = compile_net(EXPECTED[name][0], phase="TRAIN", lowering="plain")
    variables = net.init(KEY)

    def loss(params, inputs):
        return net.loss({**variables, "params": params}, inputs, KEY)

    return net, jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"], net.inputs).compile()


@pytest.mark.parametrize("name", EXPECTED)
def test_needed_gradients(name: str):
    """The analysis, by hand; and XLA computes those gradients and no others."""
    net, xla = program(name)
    found = {}
    for one, asked in needed_gradients(net.graph, net.inferred).items():
        letters = [letter for letter, names in NAMES.items() if set(names) & set(asked.weights)]
        if asked.needed:
            found[one] = "".join([*letters, *(str(i) for i, wanted in enumerate(asked.bottoms) if wanted)])
    assert found == EXPECTED[name][1]

    if jax.default_backend() != "cpu":
        pytest.skip("reads the text of XLA:CPU's programs")
    text = xla.as_text()
    back = set(re.findall(r"transpose\(jvp\((\w+)\)\)", text))  # scopes are named as layers
    joined = {node.name: node.parts[-1].name for node in net.program(frozenset(net.loss_tops)).nodes if node.parts}
    back = {joined.get(one, one) for one in back}  # what is run as one is named as its first part
    assert back <= set(found)
    assert {one for one, which in found.items() if "W" in which} <= back  # others may be simplified into their readers
    products = 0
    for node in net.graph.nodes:
        if node.type in ("Convolution", "InnerProduct"):
            products += 1 + len(set("W0") & set(found.get(node.name, "")))
        elif node.type == "LSTM":  # of x and of h; back, of each weight, and through the steps
            products += 2 + 3 * (node.name in found)
    assert len(re.findall(r" (?:convolution|dot)\(", text)) == products


@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_frozen_layers_cost_nothing_backward(frozen: int):
    """What XLA counts less of with the first layers frozen is what the cost leaves out."""
    if jax.default_backend() != "cpu":
        pytest.skip("other backends do not count the operations of their convolutions")
    (net, xla), (other, less) = program("all learn"), program(["one", "two", "three"][frozen - 1] + " frozen")
    spared = xla.cost_analysis()["flops"] - less.cost_analysis()["flops"]
    assert net.cost().flops == other.cost().flops
    # XLA has more operations for the gradients of a ReLU and of a bias: about two an element.
    assert net.cost().backward_flops - other.cost().backward_flops == pytest.approx(spared, rel=0.05)
    assert net.cost().flops + net.cost().backward_flops == pytest.approx(xla.cost_analysis()["flops"], rel=0.05)
    for one in other.cost().layers[2 : 2 + 2 * frozen]:
        assert (one.gradients.needed, one.backward_flops) == (False, 0)


def test_without_a_loss_there_is_no_backward_pass():
    net = compile_net(chain().rsplit("layer", 1)[0])
    assert net.cost().backward_flops == 0
    assert not any(one.needed for one in needed_gradients(net.graph, net.inferred).values())
    assert "backward" not in net.summary()


def test_remarks():
    def remarks(name: str) -> dict[str, str]:
        lines = program(name)[0].summary().splitlines()
        return {line.split()[0]: line.rpartition("  ")[2] for line in lines if line.strip()}

    parts = remarks("parts of layers")
    assert (parts["c0"], parts["c1"]) == ("weight frozen", "bias frozen")
    branch = remarks("a branch without loss")
    assert branch["other"] == branch["accuracy"] == branch["unweighted"] == "forward only"
    frozen = remarks("one frozen")
    assert (frozen["c0"], frozen["r0"]) == ("frozen; forward only", "forward only")
    assert "forward only" not in frozen["x"] + frozen["c1"] + frozen["scores"]
