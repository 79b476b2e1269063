"""What a net makes of its test data: classes, and the items with the highest loss."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaffe.compile.net import CompiledNet
from jaffe.inspect import deprocess
from jaffe.netdef.errors import JaffeError
from jaffe.report.run import Run
from jaffe.train.class_report import ClassReport
from jaffe.train.confusion import Head, find_head
from jaffe.train.evaluate import Evaluation, share

WORST = 24
LONGEST = 112  # pixels of the longer side of what is shown of an image
_SOFTMAX_LOSSES = ("SoftmaxWithLoss", "InfogainLoss")


@dataclass(frozen=True)
class Item:
    """A test item.

    Attributes:
        number: in the order of the test, from 0.
        label, taken_for: classes.
        loss: ``-log`` of the label's probability; of a net without probabilities, the highest other score less that of
            the label.
        probability: of the class it was taken for; ``None``: the net has no probabilities.
        picture: the image as the net read it, with mean and scale undone, (h, w) or (h, w, RGB).
    """

    number: int
    label: int
    taken_for: int
    loss: float
    probability: float | None
    picture: np.ndarray


@dataclass(frozen=True)
class Results:
    """Of one test: the classes; the worst items, none where the data are no images with one label each."""

    classes: ClassReport
    worst: Sequence[Item]


def results_of(run: Run, evaluation: Evaluation) -> Results | None:
    """Run the test that the solver makes, and look at its classes; ``None`` for a net that is no classifier."""
    net = evaluation.net
    try:
        head = find_head(net)
    except JaffeError:
        return None
    assert run.net is not None
    variables = share(run.net, run.variables, net, evaluation.own)
    found = evaluation.class_report(variables)
    blob = _images(net, head)
    worst = _worst(run, evaluation, head, blob, variables) if blob else ()
    return Results(found, worst)


def _images(net: CompiledNet, head: Head) -> str | None:
    """The only input that is an image for each label."""
    items = head.positions(net)
    found = [name for name, value in net.inputs.items()
             if len(value.shape) == 4 and value.shape[0] == items and value.shape[1] in (1, 3)
             and min(value.shape[2:]) > 1]
    return found[0] if len(found) == 1 else None


def _worst(run: Run, evaluation: Evaluation, head: Head, blob: str, variables: object) -> list[Item]:
    """The items of highest loss, highest first. What is not finite is highest."""
    net = evaluation.net
    records = max((size for size, _ in evaluation.feed.sizes), default=0)
    kept: list[tuple[float, int, int, int, float | None, np.ndarray]] = []
    start = 0
    for batch in evaluation.blobs(variables, [head.scores, head.labels, blob]):
        scores = np.moveaxis(batch[head.scores], head.axis, -1).reshape(-1, head.classes(net)).astype(np.float64)
        labels = np.trunc(batch[head.labels].reshape(-1)).astype(np.int64)
        losses, shares = _losses(net, head, scores, labels)
        counted = np.ones(labels.shape, bool) if head.ignore_label is None else labels != head.ignore_label
        order = [i for i in np.argsort(-losses, kind="stable") if counted[i]][:WORST]
        for i in order:
            number = start + int(i)
            if number >= records:  # the test goes through the data more than once
                continue
            taken = int(np.argmax(scores[i]))
            probability = None if shares is None else float(shares[i, taken])
            item = (float(losses[i]), -number, int(labels[i]), taken, probability, batch[blob][i])
            (heapq.heappushpop if len(kept) == WORST else heapq.heappush)(kept, item)
        start += len(labels)
    kept.sort(key=lambda item: item[:2], reverse=True)
    if not kept:
        return []
    pictures = _pictures(net, np.stack([item[-1] for item in kept]), blob, run.nets[1].order)
    return [Item(-number, label, taken, loss, probability, picture)
            for (loss, number, label, taken, probability, _), picture in zip(kept, pictures, strict=True)]


def _losses(
    net: CompiledNet, head: Head, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """The loss of each item (infinite where it is not finite, or the label is no class), and its probabilities."""
    value = net.value_of(head.scores)
    writer = next((node.type for node in net.graph.nodes if value in node.tops), "")
    inside = (labels >= 0) & (labels < scores.shape[1])
    rows, own = np.arange(len(labels)), np.where(inside, labels, 0)
    shares = None
    with np.errstate(all="ignore"):
        if writer == "Softmax":
            shares = scores
        elif any(node.type in _SOFTMAX_LOSSES and value in node.bottoms for node in net.graph.nodes):
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
        if shares is not None:
            losses = -np.log(shares[rows, own])
        else:
            others = scores.copy()
            others[rows, own] = -np.inf
            losses = others.max(1) - scores[rows, own]
    return np.where(inside & np.isfinite(losses), losses + 0.0, np.inf), shares  # no -0


def _pictures(net: CompiledNet, images: np.ndarray, blob: str, order: str) -> np.ndarray:
    """Pictures (N, h, w) or (N, h, w, RGB) in [0, 1]: black is 0, or the least value; white the greatest of all."""
    import cv2

    try:
        x = deprocess(net, images, input=blob, order=order)
    except JaffeError:  # the file of the mean is gone
        x = images[:, 0] if images.shape[1] == 1 else images[:, :: 1 if order == "RGB" else -1].transpose(0, 2, 3, 1)
    x = np.nan_to_num(x.astype(np.float32))
    low = min(float(x.min()), 0.0)
    x = (x - low) / max(float(x.max()) - low, 1e-12)
    height, width = x.shape[1:3]
    if max(height, width) > LONGEST:
        factor = LONGEST / max(height, width)
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        x = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in x])
    return x
