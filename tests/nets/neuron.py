"""Nets for tests: activations."""

from __future__ import annotations

from tests.nets.case import Case, one

NETS = {
    "relu": Case(one("ReLU", "relu_param { negative_slope: 0.1 }")),
    "sigmoid": Case(one("Sigmoid")),
    "tanh": Case(one("TanH")),
    "power": Case(one("Power", "power_param { power: 3 scale: 0.5 shift: 1 }")),
    "dropout": Case(one("Dropout", "dropout_param { dropout_ratio: 0.3 }")),
    "softmax": Case(one("Softmax")),
}
