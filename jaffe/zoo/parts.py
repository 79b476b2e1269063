"""What nets begin and end with: data layers of both phases, a loss, and in phase TEST an accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.builder import Top

TRAIN, TEST = {"phase": "TRAIN"}, {"phase": "TEST"}


def images(
    n: NetSpec, shape: Sequence[int], batch: int, test_batch: int, transform: Mapping[str, Any] | None
) -> tuple[Top, Top]:
    """Data and label of each phase; ``shape`` is (C, H, W) after the transform."""
    size = dict(zip(("channels", "height", "width"), shape, strict=True))
    extra = {"transform_param": dict(transform)} if transform else {}
    n.data, n.label = L.MemoryData(ntop=2, batch_size=batch, include=TRAIN, **size, **extra)
    n.test_data = L.MemoryData(
        ntop=0, name="data", top=["data", "label"], batch_size=test_batch, include=TEST, **size, **extra
    )
    return n.data, n.label


def classify(n: NetSpec, scores: Top) -> None:
    """Softmax loss of the scores, and accuracy, against the net's label."""
    n.accuracy = L.Accuracy(scores, n.label, include=TEST)
    n.loss = L.SoftmaxWithLoss(scores, n.label)
