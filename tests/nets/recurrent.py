"""Nets for tests: recurrent layers."""

from __future__ import annotations

from tests.nets.case import Case, input_layer, one

STEPS, BATCH, UNITS = 5, 3, 7
SMALL = 'weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "gaussian" std: 0.1 }'
SEQUENCE = input_layer("x", STEPS, BATCH, 2) + input_layer("cont", STEPS, BATCH)
STATIC = input_layer("s", BATCH, 11)
H0 = input_layer("h0", 1, BATCH, UNITS)
C0 = input_layer("c0", 1, BATCH, UNITS)


def recurrent(kind: str, extra: str = "", tops: str = "t", inputs: str = "", settings: str = "") -> str:
    """A net of one recurrent layer with bottoms x, cont and ``extra``."""
    return one(kind, f"recurrent_param {{ num_output: {UNITS} {SMALL} {settings} }}", bottoms=f"x cont {extra}",
               tops=tops, inputs=SEQUENCE + inputs)


EXPOSED = "expose_hidden: true"
GRADIENT = "expose_hidden: true hidden_gradient: true"
CONT = {"cont": 2}

NETS = {
    "lstm": Case(recurrent("LSTM"), integers=CONT),
    "lstm_static": Case(recurrent("LSTM", "s", inputs=STATIC), integers=CONT),
    "lstm_exposed": Case(recurrent("LSTM", "h0 c0", "t hT cT", H0 + C0, EXPOSED), integers=CONT,
                         fixed=("h0", "c0"), no_gradient=("hT", "cT")),
    "lstm_gradient": Case(recurrent("LSTM", "s h0 c0", "t hT cT", STATIC + H0 + C0, GRADIENT), integers=CONT),
    "rnn": Case(recurrent("RNN"), integers=CONT),
    "rnn_static": Case(recurrent("RNN", "s", inputs=STATIC), integers=CONT),
    "rnn_gradient": Case(recurrent("RNN", "h0", "t hT", H0, GRADIENT), integers=CONT),
    "lstm_unit": Case(
        one("LSTMUnit", bottoms="c g cont", tops="t u",
            inputs=input_layer("c", 1, 3, 5) + input_layer("g", 1, 3, 20) + input_layer("cont", 1, 3)),
        integers=CONT,
    ),
}
