"""Nets for tests: losses and metrics."""

from __future__ import annotations

from tests.nets.case import Case, X, Y, input_layer, one

LABELS = input_layer("y", 2, 7, 5)
ROWS = input_layer("x", 3, 5)
ROW_LABELS = input_layer("y", 3)
PAIRS = input_layer("x", 3, 5) + input_layer("z", 3, 5) + input_layer("y", 3)

NETS = {
    "softmax_loss": Case(one("SoftmaxWithLoss", bottoms="x y", tops="t p", inputs=X + LABELS), integers={"y": 3}),
    "sigmoid_loss": Case(one("SigmoidCrossEntropyLoss", bottoms="x y", inputs=X + Y), fixed=("y",)),
    "euclidean_loss": Case(one("EuclideanLoss", bottoms="x y", inputs=X + Y)),
    "hinge_loss": Case(one("HingeLoss", bottoms="x y", inputs=ROWS + ROW_LABELS), integers={"y": 5}),
    "hinge_loss_l2": Case(
        one("HingeLoss", "hinge_loss_param { norm: L2 }", bottoms="x y", inputs=ROWS + ROW_LABELS), integers={"y": 5}
    ),
    "multinomial_loss": Case(
        one("MultinomialLogisticLoss", bottoms="x y", inputs=ROWS + ROW_LABELS), integers={"y": 5}
    ),
    "infogain_loss": Case(
        one("InfogainLoss", bottoms="x y h", tops="t p", inputs=X + LABELS + input_layer("h", 3, 3)),
        integers={"y": 3}, fixed=("h",),
    ),
    "ctc_loss": Case(
        one("CTCLoss", "ctc_loss_param { blank_label: 4 }", bottoms="x y",
            inputs=input_layer("x", 7, 3, 5) + input_layer("y", 3, 2)), integers={"y": 4}
    ),
    "ctc_decoder": Case(one("CTCGreedyDecoder", inputs=input_layer("x", 7, 3, 5)), no_gradient=("t",)),
    # Caffe's gradient of a dissimilar pair is not quite that of its loss: see test_losses.
    "contrastive_loss": Case(
        one("ContrastiveLoss", bottoms="x z y", inputs=PAIRS), integers={"y": 2}, fixed=("x", "z")
    ),
    "contrastive_loss_legacy": Case(
        one("ContrastiveLoss", "contrastive_loss_param { legacy_version: true margin: 3 }", bottoms="x z y",
            inputs=PAIRS),
        integers={"y": 2},
    ),
    "smooth_l1_loss": Case(
        one("SmoothL1Loss", "smooth_l1_loss_param { sigma: 1.5 }", bottoms="x y i o",
            inputs=X + Y + input_layer("i", 2, 3, 7, 5) + input_layer("o", 2, 3, 7, 5)),
        fixed=("i", "o"),
    ),
    "accuracy": Case(
        one("Accuracy", "accuracy_param { top_k: 2 }", bottoms="x y", tops="t u", inputs=X + LABELS),
        integers={"y": 3}, no_gradient=("t", "u"),
    ),
}
