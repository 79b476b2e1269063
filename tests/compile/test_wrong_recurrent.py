"""Wrong recurrent layers, and the exact message that each gets."""

from __future__ import annotations

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer, one

X = input_layer("x", 5, 3, 2)
CONT = input_layer("cont", 5, 3)
H = input_layer("h", 1, 3, 7)
SEVEN = "recurrent_param { num_output: 7 }"
EXPOSED = "recurrent_param { num_output: 7 expose_hidden: true }"

# name: (net, line of the layer, message)
WRONG = {
    "num_output": (one("LSTM", bottoms="x cont", inputs=X + CONT), 3, "expected num_output > 0; found none"),
    "one_bottom": (one("LSTM", SEVEN, inputs=X), 2, "LSTM takes 2 to 3 bottoms; found 1 (x)"),
    "exposed_bottoms": (
        one("LSTM", EXPOSED, bottoms="x cont h", tops="a b c", inputs=X + CONT + H), 4,
        "LSTM takes 4 to 5 bottoms; found 3 (x, cont, h)",
    ),
    "exposed_tops": (
        one("RNN", EXPOSED, bottoms="x cont h", inputs=X + CONT + H), 4, "RNN takes 2 tops; found 1 (t)",
    ),
    "axes": (
        one("RNN", SEVEN, bottoms="cont cont", inputs=CONT), 2,
        "expected a first bottom of at least 3 axes (T, N, ...); found (5, 3)",
    ),
    "cont": (
        one("RNN", SEVEN, bottoms="x x", inputs=X), 2,
        "expected the second bottom, cont, to be (T, N) = (5, 3); found (5, 3, 2)",
    ),
    "static": (
        one("LSTM", SEVEN, bottoms="x cont x", inputs=X + CONT), 3,
        "expected a static input of at least 2 axes (N = 3, ...); found (5, 3, 2)",
    ),
    "first_state": (
        one("LSTM", EXPOSED, bottoms="x cont h x", tops="a b c", inputs=X + CONT + H), 4,
        "expected the first c to be (1, N, num_output) = (1, 3, 7); found (5, 3, 2)",
    ),
    "hidden_gradient": (
        one("RNN", "recurrent_param { num_output: 7 hidden_gradient: true }", bottoms="x cont", inputs=X + CONT), 3,
        "hidden_gradient is for the blobs of expose_hidden: true; found it without",
    ),
    "params": (
        one("RNN", SEVEN + "param { } " * 6, bottoms="x cont", inputs=X + CONT), 3,
        "expected at most 5 param entries (input_weight, bias, hidden_weight, output_weight, output_bias); found 6",
    ),
    "blobs": (
        one("LSTM", SEVEN + "blobs { shape { dim: 28 dim: 2 } } " * 5, bottoms="x cont", inputs=X + CONT), 3,
        "expected 3 stored blobs; found 5",
    ),
    "unit_c": (
        one("LSTMUnit", bottoms="x x cont", tops="a b", inputs=X + CONT), 3,
        "expected a first bottom, c, of shape (1, N, H); found (5, 3, 2)",
    ),
    "unit_gates": (
        one("LSTMUnit", bottoms="h h cont", tops="a b", inputs=H + CONT), 3,
        "expected gates of shape (1, N, 4H) = (1, 3, 28); found (1, 3, 7)",
    ),
    "unit_cont": (
        one("LSTMUnit", bottoms="h g cont", tops="a b", inputs=H + input_layer("g", 1, 3, 28) + CONT), 4,
        "expected cont to be (1, N) = (1, 3); found (5, 3)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str):
    text, line, message = WRONG[name]
    with pytest.raises(SpecError) as caught:
        compile_net(text)
    assert str(caught.value) == f"layer 'l' (<text>:{line}): {message}"
