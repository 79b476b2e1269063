"""LSTM and RNN written out as Caffe's layers unroll themselves, against what Caffe recorded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.execute import execute
from jaffe.compile.fused import make_program
from jaffe.compile.passes import PIPELINE, reroll, run
from jaffe.compile.reader import read_inputs
from tests.compile.programs import kept, quickly
from tests.conftest import ROOT
from tests.nets.case import input_layer
from tests.nets.unrolled import layer, pieces, together

GOLDENS = ROOT / "tests" / "goldens" / "layers"
STEPS = range(1, 6)


def product(name: str, bottom: str, outputs: int, weights: str, axis: int = 2) -> str:
    """``weights``: names with spaces between; a second one is a bias's."""
    shared = " ".join(f'param {{ name: "{one}" }}' for one in weights.split())
    bias = str(len(weights.split()) > 1).lower()
    return layer("InnerProduct", name, bottom, more=f"{shared} inner_product_param {{ num_output: {outputs} "
                                                    f"axis: {axis} bias_term: {bias} }}")


def written_out(golden, kind: str) -> str:
    """The net of a recording; its layers are named as in Caffe's ``lstm_layer.cpp`` and ``rnn_layer.cpp``."""
    units = golden["param:l:1"].size // (4 if kind == "lstm" else 1)
    gates = golden["param:l:1"].size // units
    shapes = {key[3:].split(":")[0]: golden[key].shape for key in golden.files if key.startswith("in:")}
    text = "".join(input_layer(name, *shape) for name, shape in shapes.items())
    state = [f"{name}_0" for name in ("h", "s")[: 1 + (kind == "lstm")]]
    text += "".join(input_layer(name, 1, 3, units) for name in state)
    text += product("W_xh_x", "x", gates * units, "W_xh b_h") + pieces("W_xh_x", "W_xh_x", 5) + pieces("c", "c", 5)
    extra = ""
    if "s" in shapes:
        text += product("W_sh_s", "s", gates * units, "W_sh", axis=1)
        text += layer("Reshape", "static", "W_sh_s",
                      more=f"reshape_param {{ shape {{ dim: 1 dim: 3 dim: {gates * units} }} }}")
        extra = " static"
    for t in STEPS:
        text += layer("Scale", f"h_conted_{t}", f"h_{t - 1} c_{t}", more="scale_param { axis: 0 }")
        text += product(f"W_hh_h_{t}", f"h_conted_{t}", gates * units, "W_hh")
        text += layer("Eltwise", f"gate_input_{t}", f"W_hh_h_{t} W_xh_x_{t}{extra}")
        if kind == "lstm":
            text += layer("LSTMUnit", f"unit_{t}", f"s_{t - 1} gate_input_{t} c_{t}", f"s_{t} h_{t}")
        else:
            text += layer("TanH", f"h_neuron_{t}", f"gate_input_{t}", f"h_{t}")
            text += product(f"W_ho_h_{t}", f"h_{t}", units, "W_ho b_o") + layer("TanH", f"o_{t}", f"W_ho_h_{t}")
    return "force_backward: true\n" + text + together("h" if kind == "lstm" else "o", STEPS, "all")


def parameters(golden, kind: str) -> dict[str, dict[str, jax.Array]]:
    static = any(key.startswith("in:s") for key in golden.files)
    names = [("W_xh_x", "weight"), ("W_xh_x", "bias"), *([("W_sh_s", "weight")] if static else []),
             ("W_hh_h_1", "weight"), *([("W_ho_h_1", "weight"), ("W_ho_h_1", "bias")] if kind == "rnn" else [])]
    found: dict[str, dict[str, jax.Array]] = {}
    for i, (node, weight) in enumerate(names):
        found.setdefault(node, {})[weight] = jnp.asarray(golden[f"param:l:{i}"])
    return found


def program(net, rolled: bool):
    passes = [one for one in PIPELINE if rolled or one is not reroll]
    return make_program(run(net.graph, passes, net.context(kept(net))).nodes)


@pytest.mark.parametrize("rolled", [True, False], ids=["loop", "as written"])
@pytest.mark.parametrize("name", ["lstm_basic", "lstm_static", "rnn_basic", "rnn_static"])
def test_values_and_gradients(name, rolled):
    golden, kind = np.load(GOLDENS / f"{name}.npz"), name[: name.index("_")]
    net = compile_net(written_out(golden, kind))
    nodes = program(net, rolled)
    assert any(node.plan is not None for node, _ in nodes) == rolled
    inputs = {key[3:]: jnp.asarray(golden[key]) for key in golden.files if key.startswith("in:")}
    start = {key: jnp.zeros(shape.shape) for key, shape in net.inputs.items() if key not in inputs}

    def value(params, inputs):
        variables = {"params": params, "state": {}}
        top = execute(net, nodes, variables, read_inputs(net, {**inputs, **start}))[0]["all"]
        return (top * golden["dtop:h"]).sum(), top

    params = parameters(golden, kind)
    (_, top), (by_params, by_inputs) = quickly(
        lambda: jax.value_and_grad(value, (0, 1), has_aux=True)(params, inputs))
    close(top, golden["top:h"])
    order = [(node, weight) for node, weights in parameters(golden, kind).items() for weight in weights]
    for i, (node, weight) in enumerate(order):
        close(by_params[node][weight], golden[f"dparam:l:{i}"])
    for key in (key for key in golden.files if key.startswith("din:")):
        close(by_inputs[key[4:]], golden[key])


@pytest.mark.parametrize("name", ["lstm_carry", "rnn_carry"])
def test_state_goes_from_call_to_call(name):
    """Three passes, each from the h, and the c, that the one before ended with."""
    golden, kind = np.load(GOLDENS / f"{name}.npz"), name[: name.index("_")]
    net = compile_net(written_out(golden, kind))
    variables = {"params": parameters(golden, kind), "state": {}}
    states = ["h", "s"] if kind == "lstm" else ["h"]
    state = {f"{one}_0": jnp.zeros((1, 3, golden["top:h:0"].shape[-1])) for one in states}
    for k in range(3):
        inputs = {one: golden[f"in:{one}:{k}"] for one in ("x", "c")}
        outputs, _ = net.apply(variables, {**inputs, **state}, blobs=[f"{one}_5" for one in states])
        close(outputs["all"], golden[f"top:h:{k}"])
        state = {f"{one}_0": outputs[f"{one}_5"] for one in states}


def close(found, expected) -> None:
    """To a few roundings of float32, of sums in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
