"""Nets for tests: losses and metrics."""

from __future__ import annotations

from tests.nets.case import Case, X, Y, input_layer, one

LABELS = input_layer("y", 2, 7, 5)

NETS = {
    "softmax_loss": Case(one("SoftmaxWithLoss", bottoms="x y", tops="t p", inputs=X + LABELS), integers={"y": 3}),
    "sigmoid_loss": Case(one("SigmoidCrossEntropyLoss", bottoms="x y", inputs=X + Y), fixed=("y",)),
    "euclidean_loss": Case(one("EuclideanLoss", bottoms="x y", inputs=X + Y)),
    "accuracy": Case(
        one("Accuracy", "accuracy_param { top_k: 2 }", bottoms="x y", tops="t u", inputs=X + LABELS),
        integers={"y": 3}, no_gradient=("t", "u"),
    ),
}
