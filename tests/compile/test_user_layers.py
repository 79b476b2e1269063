"""Layers of the user's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile import temporary_layers
from jaffe.compile.fillers import constant

NET = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "m" type: "Mish" bottom: "x" top: "m" {attributes} }}
"""


@pytest.fixture(autouse=True)
def own_layers():
    with temporary_layers():
        yield


def test_function():
    @jaffe.register_layer("Mish", beta=1.0)
    def mish(x, *, beta):
        return x * jnp.tanh(jax.nn.softplus(beta * x))

    x = np.array([[1.0, -2, 3], [0, 0.5, -1]], np.float32)
    for attributes, beta in (("", 1.0), ('attribute { name: "beta" number: 2 }', 2.0)):
        net = jaffe.compile_net(NET.format(attributes=attributes))
        outputs, _ = jax.jit(lambda x, net=net: net.apply({}, {"x": x}))(x)
        np.testing.assert_allclose(outputs["m"], mish(x, beta=beta), rtol=1e-6)
    n = jaffe.NetSpec()
    n.x = jaffe.L.Input(shape={"dim": [2, 3]})
    n.m = jaffe.L.Mish(n.x, beta=2.0)
    assert jaffe.compile_net(n).apply({}, {"x": x})[0]["m"].tolist() == outputs["m"].tolist()


def test_function_with_several_tops_and_bottoms():
    @jaffe.register_layer("SumAndDifference")
    def both(a, b):
        return a + b, a - b

    net = jaffe.compile_net("""
    layer { name: "x" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 } } }
    layer { name: "l" type: "SumAndDifference" bottom: "x" bottom: "y" top: "s" top: "d" }""")
    outputs, _ = net.apply({}, {"x": [3, 4], "y": [1, 1]})
    assert (outputs["s"].tolist(), outputs["d"].tolist()) == ([4, 5], [2, 3])


def test_class_with_weights_and_gradient():
    @jaffe.register_layer("Affine")
    class Affine(jaffe.Layer):
        """``y = gain * x + 1``."""

        def weights(self, bottoms):
            return [jaffe.Weight("gain", bottoms[0][1:], constant(3))]

        def apply(self, weights, bottoms, ctx):
            return [weights["gain"] * bottoms[0] + 1]

    net = jaffe.compile_net("""
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "l" type: "Affine" bottom: "x" top: "y" loss_weight: 1 param { lr_mult: 2 } }""")
    variables = net.init(jax.random.key(0))
    x = np.arange(6.0).reshape(2, 3)
    gradient = jax.grad(lambda p: net.loss({"params": p}, {"x": x})[0])(variables["params"])
    np.testing.assert_allclose(gradient["l"]["gain"], x.sum(0))
    assert net.cost().params == 3
    assert net.stored["l"][0].lr_mult == 2


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('attribute { name: "bta" number: 1 }', "Mish has no attribute 'bta'; did you mean 'beta'?"),
        ('attribute { name: "beta" text: "x" }', "attribute 'beta': expected number; found ['x']"),
        ('attribute { name: "beta" number: 1 number: 2 }', "attribute 'beta': expected one value; found [1.0, 2.0]"),
    ],
)
def test_wrong_attributes(attributes, message):
    jaffe.register_layer("Mish", beta=1.0)(lambda x, *, beta: x)
    with pytest.raises(jaffe.SpecError) as caught:
        jaffe.compile_net(NET.format(attributes=attributes))
    assert str(caught.value) == f"layer 'm' (<text>:3): {message}"


def test_function_that_fails_names_the_layer():
    jaffe.register_layer("Mish")(lambda x: x.reshape(7))
    with pytest.raises(jaffe.SpecError, match=r"layer 'm' \(<text>:3\): Mish failed on bottoms of shape \(2, 3\): "):
        jaffe.compile_net(NET.format(attributes=""))


def test_types_are_registered_once():
    with pytest.raises(ValueError, match="layer type 'ReLU' is registered already; choose another name"):
        jaffe.register_layer("ReLU")(lambda x: x)
    with pytest.raises(TypeError, match=r"a layer class derives from jaffe\.Layer"):
        jaffe.register_layer("Own")(int)


def test_whole_number_and_text_attributes():
    seen = {}

    @jaffe.register_layer("Own", count=2, flag=False, mode="a", sizes=[1, 2])
    def own(x, *, count, flag, mode, sizes):
        seen.update(count=count, flag=flag, mode=mode, sizes=sizes)
        return x

    n = jaffe.NetSpec()
    n.x = jaffe.L.Input(shape={"dim": [2]})
    n.y = jaffe.L.Own(n.x, count=3, flag=True, mode="b", sizes=[4, 5, 6])
    jaffe.compile_net(n)
    assert seen == {"count": 3, "flag": True, "mode": "b", "sizes": [4, 5, 6]}
    assert isinstance(seen["count"], int)


def stateful(new: dict, **carried):
    """A net of one layer that keeps ``sum`` (3,) and carries ``h`` (2, 3), and returns ``new`` values."""

    @jaffe.register_layer("Own")
    class Own(jaffe.Layer):
        """Returns its bottom."""

        def weights(self, bottoms):
            h = {"filler": constant(0), "trained": False, **carried}
            return [jaffe.Weight("sum", (3,), constant(0), trained=False),
                    jaffe.Weight("h", bottoms[0], carried=True, **h)]

        def apply_with_state(self, weights, bottoms, ctx):
            return bottoms, {name: jnp.ones(shape) for name, shape in new.items()}

    return jaffe.compile_net(NET.format(attributes="").replace("Mish", "Own"))


def test_state():
    net = stateful({"sum": (3,), "h": (5, 3)})
    variables, x = net.init(jax.random.key(0)), {"x": np.zeros((5, 3))}
    variables["state"]["m"] |= net.fresh_carry(x)["m"]
    _, state = net.apply(variables, x)
    assert jax.tree.map(jnp.shape, state) == {"m": {"sum": (3,), "h": (5, 3)}}
    assert all(np.all(value == 1) for value in state["m"].values())


@pytest.mark.parametrize(("new", "carried", "message"), [
    ({"foo": (3,)}, {}, "Own returns new values of 'foo'; its untrained weights are sum, h"),
    ({"sum": (2,)}, {}, "Own returns 'sum' of shape (2,); its weights say (3,)"),
    ({"h": (3,)}, {}, "Own returns 'h' of shape (3,); its weights say (2, 3)"),
    ({}, {"filler": constant(5)}, "h is carried from call to call: expected trained=False, and constant(0) as its "
                                  "filler"),
    ({}, {"trained": True}, "h is carried from call to call: expected trained=False, and constant(0) as its filler"),
])
def test_wrong_state(new, carried, message):
    def run():
        net = stateful(new, **carried)
        net.apply(net.init(jax.random.key(0)), {"x": np.zeros((2, 3))})

    with pytest.raises(jaffe.SpecError) as caught:
        run()
    assert str(caught.value) == f"layer 'm' (<text>:3): {message}"
