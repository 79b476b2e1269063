"""How well objects are found: average precision, as PASCAL VOC counts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaffe.compile.net import compile_net
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.netdef.source import Spec, load
from jaffe.train.data.dataset import Data
from jaffe.train.data.feed import Feed
from jaffe.train.evaluate import Evaluation

METHODS = ("area", "11point")


@dataclass(frozen=True)
class DetectionReport:
    """Average precision of each class. Prints as a table.

    Attributes:
        ap: (K,); NaN for a class without true boxes, the background among them.
        objects: (K,) true boxes that are not difficult.
        found: (K,) those of them that some detection found.
        overlap: intersection over union from which on a true box is found.
        method: ``"area"`` or ``"11point"``.
    """

    ap: np.ndarray
    objects: np.ndarray
    found: np.ndarray
    overlap: float
    method: str

    @cached_property
    def mean(self) -> float:
        """mAP: the mean over classes with true boxes; NaN when there is none."""
        there = self.ap[self.objects > 0]
        return float(there.mean()) if len(there) else float("nan")

    def __str__(self) -> str:
        lines = [f"mAP {self.mean:.2%} ({self.method}, overlap {self.overlap:g})",
                 "class   objects     found        AP"]
        lines += [f"{i:>5}{self.objects[i]:>10,}{self.found[i]:>10,}{self.ap[i]:>10.2%}"
                  for i in np.flatnonzero(self.objects)]
        return "\n".join(lines)


def evaluate_detection(
    spec: Spec, variables: Any, data: Data, *, overlap: float = 0.5, method: str = "area",
) -> DetectionReport:
    """Run a net over a whole data set and compare the boxes that it finds with the true ones.

    >>> solver = jaffe.Solver(recipe); solver.run()                                       # doctest: +SKIP
    >>> print(evaluate_detection(recipe.net, solver.variables, recipe.data))              # doctest: +SKIP

    Args:
        spec: a net with DetectionOutput and MultiBoxLoss in phase TEST, as ``jaffe.zoo.ssd300``.
        variables: of its layers.
        data: as ``Solver`` takes it; its test split.
        overlap, method: as for ``detection_report``.

    Raises:
        JaffeError: the net lacks one of these layers, or does not fit the data, whose records are whole batches.
    """
    source = load(spec)
    graph = resolve(source, NetState("TEST"))
    nodes = {node.type: node for node in graph.nodes}
    for kind in ("DetectionOutput", "MultiBoxLoss"):
        if kind not in nodes:
            raise JaffeError(f"net {graph.name!r} has no {kind} layer in phase TEST: expected one that finds boxes, "
                             "and one that reads the true ones")
    found, truth = nodes["DetectionOutput"].proto.top[0], nodes["MultiBoxLoss"].proto.bottom[3]
    feed = Feed(graph, data, base=source.directory)
    net = compile_net(source, phase="TEST", inputs=feed.shapes)
    blobs = Evaluation(net, feed, None, jax.random.key(0)).blobs(variables, [found, truth])
    classes = nodes["DetectionOutput"].proto.detection_output_param.num_classes
    return detection_report(((one[found], one[truth]) for one in blobs), classes, overlap=overlap, method=method)


def detection_report(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], classes: int, *, overlap: float = 0.5, method: str = "area",
) -> DetectionReport:
    """Compare what ``DetectionOutput`` gives with the true boxes.

    >>> blobs = evaluation.blobs(variables, ["detection_out", "label"])                              # doctest: +SKIP
    >>> print(detection_report(((b["detection_out"], b["label"]) for b in blobs), classes=21))        # doctest: +SKIP

    Of each class and image, detections from the best down: each is right when the true box that it overlaps most, by
    ``overlap`` at least, was not found before; one whose box is difficult does not count. Over all images, with
    precision and recall from the best down: ``"area"`` is the area below the highest precision at this recall or a
    higher one (VOC 2010 and after); ``"11point"`` its mean at recalls 0, 0.1, ..., 1 (VOC 2007, and SSD's figures).
    Source: Everingham et al. 2010, The PASCAL visual object classes challenge; its ``VOCevaldet.m``.

    Args:
        batches: detections (..., 7): image, class, score, xmin, ymin, xmax, ymax, image -1 for none; and true boxes
            (1, 1, G, 8) or (N, G, 8), as ``MultiBoxLoss`` reads them.
        classes: with the background.

    Raises:
        JaffeError: there is no such method; a shape is another; a class is none of these.
    """
    if method not in METHODS:
        raise JaffeError(f"method is {' or '.join(METHODS)}; received {method!r}")
    scores: list[list[float]] = [[] for _ in range(classes)]
    right: list[list[bool]] = [[] for _ in range(classes)]
    objects = np.zeros(classes, int)
    for found, truth in batches:
        if found.shape[-1:] != (7,) or truth.shape[-1:] != (8,):
            raise JaffeError(f"expected detections (..., 7) and true boxes (..., 8); found {found.shape} and "
                             f"{truth.shape}")
        found, truth = found.reshape(-1, 7).astype(np.float64), _rows(truth).astype(np.float64)
        found, truth = found[found[:, 0] >= 0], truth[truth[:, 0] >= 0]
        labels = np.concatenate([found[:, 1], truth[:, 1]])
        if len(labels) and (labels.min() < 0 or labels.max() >= classes):
            raise JaffeError(f"expected classes 0 to {classes - 1}; found {labels.min():g} to {labels.max():g}")
        for label in np.unique(labels).astype(int):
            own, true = found[found[:, 1] == label], truth[truth[:, 1] == label]
            objects[label] += int((true[:, 7] == 0).sum())
            for score, hit in _hits(own, true, overlap):
                scores[label].append(score)
                right[label].append(hit)
    ap = np.array([average_precision(np.array(scores[label]), np.array(right[label], bool), objects[label], method)
                   for label in range(classes)])
    return DetectionReport(ap, objects, np.array([sum(hits) for hits in right]), overlap, method)


def average_precision(scores: np.ndarray, right: np.ndarray, objects: int, method: str = "area") -> float:
    """Of detections with these scores, (D), which of them are right, (D), and how many objects there are in all.

    NaN when there are no objects. Of equal scores the earlier one goes first. See ``detection_report``.
    """
    if not objects:
        return float("nan")
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if method == "11point":
        at = np.searchsorted(recall, np.arange(11) / 10 - 1e-12)
        return float(np.append(highest, 0)[at].mean())
    return float((np.diff(recall, prepend=0) * highest).sum())


def _rows(truth: np.ndarray) -> np.ndarray:
    """(G, 8); of (N, G, 8), with places in the batch as their images."""
    if truth.ndim == 3:
        truth = truth.copy()
        truth[..., 0] = np.where(truth[..., 0] >= 0, np.arange(len(truth))[:, None], -1)
    return truth.reshape(-1, 8)


def _hits(found: np.ndarray, truth: np.ndarray, overlap: float) -> list[tuple[float, bool]]:
    """Score of each detection of a class, and whether it is right; without those of difficult boxes."""
    hits = []
    taken = np.zeros(len(truth), bool)
    for row in found[np.argsort(-found[:, 2], kind="stable")]:
        common = np.where(truth[:, 0] == row[0], _overlap(row[3:7], truth[:, 3:7]), -1.0)
        best = int(common.argmax()) if len(common) else -1
        if best < 0 or common[best] < overlap:
            hits.append((float(row[2]), False))
        elif not truth[best, 7]:
            hits.append((float(row[2]), not taken[best]))
            taken[best] = True
    return hits


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of others, (G, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(0).prod(1)
    union = (box[2:] - box[:2]).clip(0).prod() + (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
