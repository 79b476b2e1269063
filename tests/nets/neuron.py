"""Nets for tests: activations."""

from __future__ import annotations

from tests.nets.case import Case, X, one

# x on both sides of 0, and of 6; never on them.
SIGNED = X + 'layer { name: "s" type: "Power" bottom: "x" top: "s" power_param { scale: 5 shift: -3 } }\n'

NETS = {
    "relu": Case(one("ReLU", "relu_param { negative_slope: 0.1 }")),
    "relu_capped": Case(one("ReLU", "relu_param { negative_slope: 0.1 relu6: true }", "s", inputs=SIGNED)),
    "relu6": Case(one("ReLU6", bottoms="s", inputs=SIGNED)),
    "crelu": Case(one("CReLU", "crelu_param { axis: -2 }", "s", inputs=SIGNED)),
    "prelu": Case(one("PReLU", "prelu_param { filler { type: 'uniform' } }", "s", inputs=SIGNED)),
    "prelu_shared": Case(one("PReLU", "prelu_param { channel_shared: true }", "s", inputs=SIGNED)),
    "elu": Case(one("ELU", "elu_param { alpha: 0.7 }", "s", inputs=SIGNED)),
    "bnll": Case(one("BNLL", bottoms="s", inputs=SIGNED)),
    "swish": Case(one("Swish", "swish_param { beta: 1.5 }", "s", inputs=SIGNED)),
    "maxout": Case(one("Maxout", "maxout_param { pieces: 3 }")),
    "absval": Case(one("AbsVal", bottoms="s", inputs=SIGNED)),
    "clip": Case(one("Clip", "clip_param { min: -0.5 max: 3 }", "s", inputs=SIGNED)),
    "exp": Case(one("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }")),
    "log": Case(one("Log", "log_param { base: 10 scale: 0.5 shift: 1 }")),
    "threshold": Case(one("Threshold", "threshold_param { threshold: 1 }"), no_gradient=("t",)),
    "sigmoid": Case(one("Sigmoid")),
    "tanh": Case(one("TanH")),
    "power": Case(one("Power", "power_param { power: 3 scale: 0.5 shift: 1 }")),
    "dropout": Case(one("Dropout", "dropout_param { dropout_ratio: 0.3 }")),
    "softmax": Case(one("Softmax")),
}
