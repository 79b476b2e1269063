"""Nets with two images, several labels or several losses; each begins as LeNet does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.builder import Top
from jaffe.netdef.errors import JaffeError
from jaffe.zoo.cards import published
from jaffe.zoo.nets import lenet_features, lenet_weights
from jaffe.zoo.parts import TEST, inputs


@published(
    title="Siamese LeNet", task="embedding",
    paper="Hadsell, Chopra, LeCun 2006, Dimensionality reduction by learning an invariant mapping; as in Caffe's "
          "examples/siamese",
    input="two images, 28x28, grey, scaled to [0, 1), as channels of one",
)
def siamese(
    *, features: int = 2, margin: float = 1, batch: int = 64, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Two LeNets with the same weights put images of one class near each other, and others ``margin`` apart; 431,102
    parameters by default.

    ``pair_data`` (batch, 2, 28, 28): both images of a pair; ``sim`` (batch): 1 where they are of one class, else 0.
    ``feat`` and ``feat_p`` (batch, features): where they are put. In phase TEST ``accuracy`` is the share of pairs that
    are told right, those less than half the margin apart being of one class; Caffe's example has no accuracy. Source:
    Caffe's ``examples/siamese``.

    Args:
        features: numbers for an image.
        margin: of the contrastive loss.
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("Siamese")
    inputs(n, batch, test_batch, {"pair_data": (2, 28, 28), "sim": ()}, transform)
    n.data, n.data_p = L.Slice(n.pair_data, ntop=2, name="slice_pair", axis=1, slice_point=[1])
    for suffix in ("", "_p"):
        x = lenet_features(n, n[f"data{suffix}"], suffix, shared=True)
        x = n[f"ip2{suffix}"] = L.InnerProduct(x, num_output=10, **lenet_weights("ip2", shared=True))
        n[f"feat{suffix}"] = L.InnerProduct(x, num_output=features, **lenet_weights("feat", shared=True))
    n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, margin=margin)
    apart = L.Eltwise(n.feat, n.feat_p, operation="SUM", coeff=[1, -1], include=TEST)
    n.squares = L.Reduction(apart, axis=1, operation="SUMSQ", include=TEST)
    n.apart = L.Reshape(n.squares, shape={"dim": [-1, 1]}, include=TEST)
    n.together = L.Power(n.apart, scale=-1, shift=margin**2 / 2, include=TEST)  # greater where apart < (margin / 2)^2
    n.same = L.Concat(n.apart, n.together, include=TEST)
    n.accuracy = L.Accuracy(n.same, n.sim, include=TEST)
    return n


@published(
    title="Multi-task LeNet", task="classification", paper="Caruana 1997, Multitask learning",
    input="28x28, grey, scaled to [0, 1)",
)
def multitask(
    *, classes: int = 10, weights: tuple[float, float, float] = (1, 1, 1), batch: int = 64, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """One LeNet that learns three things: which digit it sees, whether that is odd, and how far it is turned; 432,583
    parameters by default.

    ``data`` (batch, 1, 28, 28), ``digit`` (batch), ``odd`` (batch) and ``angle`` (batch, 1). The loss is the weighted
    sum of two softmax losses and a squared error. In phase TEST ``digit_accuracy``, ``odd_accuracy`` and
    ``angle_error``, the mean of absolute errors, say how well each is done.

    Args:
        weights: of the losses of digit, odd and angle.
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    if len(weights) != 3:
        raise JaffeError(f"expected weights of three losses: digit, odd, angle; found {weights}")
    n = NetSpec("MultiTask")
    inputs(n, batch, test_batch, {"data": (1, 28, 28), "digit": (), "odd": (), "angle": (1,)}, transform)
    x = lenet_features(n, n.data)
    for name, outputs, weight in (("digit", classes, weights[0]), ("odd", 2, weights[1])):
        n[f"{name}_scores"] = scores = L.InnerProduct(x, num_output=outputs, **lenet_weights(f"{name}_scores"))
        n[f"{name}_loss"] = L.SoftmaxWithLoss(scores, n[name], loss_weight=weight)
        n[f"{name}_accuracy"] = L.Accuracy(scores, n[name], include=TEST)
    n.turned = L.InnerProduct(x, num_output=1, **lenet_weights("turned"))
    n.angle_loss = L.EuclideanLoss(n.turned, n.angle, loss_weight=weights[2])
    n.angle_error = L.Reduction(L.AbsVal(_difference(n.turned, n.angle), include=TEST), operation="MEAN", include=TEST)
    return n


@published(
    title="Multi-label LeNet", task="classification",
    paper="Zhang, Zhou 2006, Multilabel neural networks with applications to functional genomics and text "
          "categorization",
    input="28x28, grey, scaled to [0, 1)",
)
def multilabel(
    *, labels: int = 10, batch: int = 64, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """LeNet that says of each label on its own whether an image has it; 431,080 parameters for 10 labels.

    ``data`` (batch, 1, 28, 28); ``label`` (batch, labels), each 0 or 1. The loss is the sum of the labels' cross
    entropies. In phase TEST ``accuracy`` is the share of labels that are right, ``all_right`` that of images whose
    labels are all right.

    Args:
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("MultiLabel")
    inputs(n, batch, test_batch, {"data": (1, 28, 28), "label": (labels,)}, transform)
    n.scores = L.InnerProduct(lenet_features(n, n.data), num_output=labels, **lenet_weights("scores"))
    n.loss = L.SigmoidCrossEntropyLoss(n.scores, n.label)
    n.found = L.Threshold(n.scores, threshold=0, include=TEST)
    n.wrong = L.Reduction(_difference(n.found, n.label), axis=1, operation="ASUM", include=TEST)
    n.error = L.Reduction(n.wrong, operation="MEAN", coeff=1 / labels, include=TEST)
    n.accuracy = L.Power(n.error, scale=-1, shift=1, include=TEST)
    n.any_wrong = L.Reduction(L.Threshold(n.wrong, threshold=0.5, include=TEST), operation="MEAN", include=TEST)
    n.all_right = L.Power(n.any_wrong, scale=-1, shift=1, include=TEST)
    return n


def _difference(a: Top, b: Top) -> Top:
    return L.Eltwise(a, b, operation="SUM", coeff=[1, -1], include=TEST)
