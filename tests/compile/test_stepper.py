"""Nets one step at a time against the same nets over whole sequences."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import JaffeError, SpecError, zoo
from jaffe.compile import compile_net
from tests.compile.test_reroll import feed
from tests.nets import unrolled
from tests.nets.unrolled import UNROLLED, N

KEY = jax.random.key(1)


def step_by_step(net, steps: int, inputs=None, outputs=None):
    """Outputs of each step, and those of whole sequences."""
    variables, arrays = net.init(KEY), feed(net)
    stepper = net.stepper(inputs, outputs)
    carry = stepper.start(variables, {name: arrays[name] for name in stepper.given})
    step = jax.jit(stepper)
    found = []
    for t in range(steps):
        one = {name: np.split(arrays[name], steps)[t] for name in stepper.inputs}
        values, carry = step(variables, carry, one)
        found.append(values)
    whole, _ = net.apply(variables, arrays, blobs=stepper.outputs)
    return found, {name: whole[name] for name in stepper.outputs}


@pytest.mark.parametrize(("name", "steps"), [
    ("simple", 5), ("lstm", 5), ("lstm of gates", 5), ("layer major", 5), ("skip two", 7), ("last only", 5)])
def test_unrolled_nets(name, steps):
    found, whole = step_by_step(compile_net(UNROLLED[name][0]), steps)
    for blob, expected in whole.items():
        steps_of = np.concatenate([one[blob] for one in found])
        np.testing.assert_allclose(steps_of[-len(expected):], expected, rtol=0, atol=1e-6)


def test_what_comes_before_is_computed_once():
    """A decoder's steps, after the encoder has read its sentence."""
    net = compile_net(unrolled.encoder_decoder())
    stepper = net.stepper(["y"])
    assert (stepper.inputs, stepper.given, stepper.outputs) == (("y",), ("x",), ("d_all",))
    found, whole = step_by_step(net, 4, ["y"])
    np.testing.assert_allclose(np.concatenate([one["d_all"] for one in found]), whole["d_all"], rtol=0, atol=1e-6)
    carry = stepper.start(net.init(KEY), {"x": feed(net)["x"]})
    assert {name: value.shape for name, value in carry["constants"].items()} == {"seen2d_1": (1, N, 7)}


def test_layers_with_state():
    net = compile_net(zoo.char_lstm(steps=5, batch=3, units=8))
    found, whole = step_by_step(net, 5, outputs=["scores"])
    np.testing.assert_allclose(np.concatenate([one["scores"] for one in found]), whole["scores"], rtol=0, atol=1e-6)
    stepper = net.stepper(outputs=["scores"])
    assert stepper.inputs == ("data", "cont")  # and no label
    variables = net.init(KEY)
    outputs, carry = stepper(variables, stepper.start(variables, batch=1), {"data": [[65]], "cont": [[0]]})
    assert outputs["scores"].shape == (1, 1, 128)
    assert jax.tree.map(np.shape, carry["state"]) == {"lstm": {"h": (1, 1, 8), "c": (1, 1, 8)}}


@pytest.mark.parametrize(("name", "problem"), [
    ("both ways", "layer 'b_h2h_5' .*takes its steps in another order than that of time"),
    ("first differs", "layer 'x2h_2' .*or not all that there are: expected steps that are all alike"),
    ("one differs", "layer 'x2h_1' .*expected steps that are all alike"),
    ("encoder, decoder", "layer 'y2d_1' .*: 4 steps, where those of 'h2h_1' are 5: .*name the inputs of one of them"),
    ("nothing shared", "nothing goes from step to step on the way to h_all: expected an LSTM or RNN layer"),
])
def test_nets_without_one_step(name, problem):
    with pytest.raises(JaffeError, match=problem):
        compile_net(UNROLLED[name][0]).stepper()


def test_wrong_names():
    net = compile_net(unrolled.simple())
    with pytest.raises(JaffeError, match="the net has no blob 'h_al'; did you mean 'h_all'"):
        net.stepper(outputs=["h_al"])
    with pytest.raises(JaffeError, match=r"the outputs h_all need no input 'y'.*they need x"):
        net.stepper(["y"])
    stepper, variables = net.stepper(), net.init(KEY)
    with pytest.raises(JaffeError, match="expected the inputs none; received x"):
        stepper.start(variables, {"x": np.zeros((5, 3, 2))})
    with pytest.raises(JaffeError, match="expected the inputs x; received none"):
        stepper(variables, stepper.start(variables), {})


@pytest.mark.parametrize(("shape", "problem"), [
    ((2, 3, 2), "layer 'x_slice' .*expected 1 of 1 along axis 0; found a bottom of shape \\(2, 3, 2\\)"),
    ((1, 4, 2), "layer 'sum_1' .*bottoms have one shape; found \\(1, 4, 7\\), \\(1, 3, 7\\)"),
    ((1, 1, 2), "layer 'sum_1' .*bottoms have one shape"),
])
def test_wrong_sizes(shape, problem):
    net = compile_net(unrolled.simple())
    stepper, variables = net.stepper(), net.init(KEY)
    with pytest.raises(SpecError, match=problem):
        stepper(variables, stepper.start(variables), {"x": np.zeros(shape)})
