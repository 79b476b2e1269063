"""Cells inside of cells, and what they read; their numbers are in ``tests/compile/test_cells.py``."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import Cell, L, SpecError, cells, unroll
from tests.conftest import ROOT

T, N, D, H = 5, 3, 2, 7
X = {"x": (T, N, D)}
FRAMES = {"x": (T, N, D, 5, 6)}
FILL = {"type": "uniform", "min": -0.5, "max": 0.5}


def features(frames):
    return L.Convolution(frames, num_output=4, kernel_size=3, weight_filler=FILL, name="conv")


def weights(cell, inputs, **others) -> list[str]:
    """Names of layers with weights of their own."""
    return sorted(compile_net(unroll(cell, T, inputs=inputs, **others)).init(jax.random.key(0))["params"])


@pytest.mark.parametrize("cont", [{}, {"cont": (T, N)}], ids=["one sequence", "cont"])
def test_any_cell_may_stand_in_another(cont):
    first = ["conv_1_1", "h2g_1_1", "h2g_2_1", "x2g_1_1", "x2g_2_1"]
    assert weights(cells.stacked(cells.lrcn(features, cells.lstm(5)), cells.lstm(H)), {**FRAMES, **cont}) == first
    assert weights(cells.lrcn(features, cells.stacked(cells.lstm(5), cells.lstm(H))), {**FRAMES, **cont}) == [
        "conv_1", *first[1:]]
    assert weights(cells.stacked(cells.stacked(cells.lstm(5), cells.rnn(4)), cells.rnn(H)), {**X, **cont}) == [
        "h2g_1_1_1", "h2h_2_1", "h2h_2_1_1", "x2g_1_1_1", "x2h_2_1", "x2h_2_1_1"]
    assert weights(cells.stacked(cells.attention_lstm(5, 4, 6), cells.rnn(H)), {**X, **cont},
                   static={"memory": (4, N, 9)}) == [
        "energy2score_1_1", "h2g_1_1", "h2h_2_1", "keys_1_1", "query_1_1", "x2g_1_1", "x2h_2_1"]


def test_layers_without_names_are_told_apart_when_stacked():
    def step(x, h_before):
        return {"h": L.Eltwise(L.InnerProduct(x, num_output=H, axis=2), L.InnerProduct(h_before, num_output=H, axis=2))}

    cell = Cell(step, lambda inputs: {"h": (1, N, H)})
    assert weights(cells.stacked(cell, cell), {"x": (T, N, H)}) == [f"InnerProduct{i}_1" for i in range(1, 5)]


def test_cells_that_do_not_fit():
    with pytest.raises(SpecError, match="expected at least one cell to stack; found none"):
        cells.stacked()
    with pytest.raises(SpecError, match=r"the cell wants memory, which nobody gives; it is given .*h_before"):
        unroll(cells.stacked(cells.attention_lstm(H, 4, 6)), T, inputs=X)
    bare = Cell(lambda x, h_before: {"h": L.Eltwise(x, h_before)}, lambda inputs: {"h": (1, N, D)})
    with pytest.raises(SpecError, match="the cell does not read 'cont'"):
        unroll(cells.stacked(bare), T, inputs={**X, "cont": (T, N)})


@pytest.mark.parametrize(("cell", "inputs", "static"), [
    (cells.rnn(H, FILL), X, {}),
    (cells.lstm(H, FILL), X, {}),
    (cells.peephole_lstm(H, FILL), X, {}),
    (cells.gru(H, FILL), X, {}),
    (cells.attention_lstm(H, 4, 6, FILL), X, {"memory": (4, N, 9)}),
    (cells.conv_lstm(4, filler=FILL), FRAMES, {}),
    (cells.stacked(cells.lrcn(features, cells.gru(5, FILL)), cells.lstm(H, FILL)), FRAMES, {}),
], ids=["rnn", "lstm", "peephole lstm", "gru", "attention", "conv lstm", "stacked lrcn"])
def test_nothing_is_left_of_the_sequence_before(cell, inputs, static):
    """From where cont is 0, outputs are the same whatever came before."""
    net = compile_net(unroll(cell, T, inputs={**inputs, "cont": (T, N)}, static=static))
    variables = net.init(jax.random.key(3))
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in {**inputs, **static}.items()}
    given["cont"] = np.repeat(np.array([[1], [1], [0], [1], [1]], np.float32), N, 1)
    other = {**given, "x": np.concatenate([given["x"][:2] + 1, given["x"][2:]])}
    apply = jax.jit(lambda inputs: net.apply(variables, inputs)[0][net.graph.nodes[-1].tops[0]])
    found, expected = apply(given), apply(other)
    assert (found[:2] != expected[:2]).any()
    np.testing.assert_array_equal(found[2:], expected[2:])


def test_the_lstm_cell_is_what_caffe_recorded():
    """Values and gradients."""
    golden = np.load(ROOT / "tests" / "goldens" / "layers" / "lstm_basic.npz")
    x, cont = golden["in:x"], golden["in:c"]
    net = compile_net(unroll(cells.lstm(golden["top:h"].shape[2]), 5, inputs={"x": x.shape, "cont": cont.shape}))
    params = {"x2g_1": {"weight": golden["param:l:0"], "bias": golden["param:l:1"]},
              "h2g_1": {"weight": golden["param:l:2"]}}

    def value(params, x):
        h = net.apply({"params": params, "state": {}}, {"x": x, "cont": cont})[0]["h"]
        return (h * golden["dtop:h"]).sum(), h

    (_, h), (by_params, by_x) = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params, x)
    for found, expected in [
        (h, golden["top:h"]), (by_x, golden["din:x"]), (by_params["x2g_1"]["weight"], golden["dparam:l:0"]),
        (by_params["x2g_1"]["bias"], golden["dparam:l:1"]), (by_params["h2g_1"]["weight"], golden["dparam:l:2"]),
    ]:
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
