"""Which classes a net takes for which: where its scores and labels are, and counting them inside the test step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaffe.compile.layers.indexing import row_index
from jaffe.compile.layers.loss import of_label
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Node
from jaffe.train.step import Fetch, make_test_step

MOST_CLASSES = 2**14  # whose counts take 1 GiB
Counts = dict[str, jax.Array]


@dataclass(frozen=True)
class Head:
    """Scores of classes, and the labels that they are held against.

    Attributes:
        scores, labels: names of the blobs.
        axis: of the scores, the classes.
        ignore_label: the label that is left out, or ``None``.
        layer: that which reads them, ``""`` when no layer does.
    """

    scores: str
    labels: str
    axis: int = 1
    ignore_label: int | None = None
    layer: str = ""

    def classes(self, net: CompiledNet) -> int:
        """How many there are."""
        return net.shape(self.scores)[self.axis]

    def positions(self, net: CompiledNet) -> int:
        """Labels in a batch."""
        return math.prod(net.shape(self.scores)) // self.classes(net)

    def spatial(self, net: CompiledNet) -> bool:
        """Whether there is a label for each place of an image: scores (N, K, H, W)."""
        shape = net.shape(self.scores)
        return len(shape) == 4 and self.axis == 1 and shape[2] * shape[3] > 1


# Layers that hold scores against labels, best first. Each has them as its first two bottoms.
_READERS = (("Accuracy",), ("SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss"))


def find_head(net: CompiledNet, scores: str = "", labels: str = "", ignore_label: int | None = None) -> Head:
    """Where a net's scores and labels are: what its last Accuracy layer reads, else its last loss of labels.

    The last one, for auxiliary classifiers come before the main one.

    Args:
        scores, labels: names of blobs: (N, K, ...) and (N, ...). Where one is given, a layer that reads it tells the
            other; where both are and no layer reads them, the classes are axis 1.
        ignore_label: in place of what the layer says.

    Raises:
        JaffeError: there are none, or those named do not fit.
    """
    for name in filter(None, (scores, labels)):
        net.shape(name)
    found = None
    for types in _READERS:
        heads = (_read_by(net, node) for node in net.graph.nodes if node.type in types)
        fitting = [head for head in heads if head and scores in ("", head.scores) and labels in ("", head.labels)]
        if fitting:
            found = fitting[-1]
            break
    if found is None and not (scores and labels):
        what = f" that reads {scores or labels!r}" if scores or labels else ""
        raise JaffeError(f"net {net.name!r} has no Accuracy layer and no loss with labels{what} in phase {net.phase}; "
                         "name the blobs with scores and labels (--scores, --labels)")
    head = found or _by_hand(net, scores, labels)
    if ignore_label is not None:
        head = replace(head, ignore_label=ignore_label)
    classes = head.classes(net)
    if not 2 <= classes <= MOST_CLASSES:
        raise JaffeError(f"scores {head.scores!r} have {classes} classes, axis {head.axis} of "
                         f"{net.shape(head.scores)}; expected 2 to {MOST_CLASSES}")
    return head


def _read_by(net: CompiledNet, node: Node) -> Head | None:
    """The scores and labels that a layer reads; ``None`` where a later layer writes over them, or they don't fit."""
    names = {value: blob for blob, value in net.graph.blobs.items()}
    scores, labels = (names.get(value, "") for value in node.bottoms[:2])
    if not scores or not labels:
        return None
    shape, proto = net.shape(scores), node.proto
    readers: dict[str, tuple[int, Any]] = {
        "Accuracy": (proto.accuracy_param.axis, proto.accuracy_param),
        "SoftmaxWithLoss": (proto.softmax_param.axis, proto.loss_param),
        "InfogainLoss": (proto.infogain_loss_param.axis, proto.loss_param),
    }
    axis, settings = readers.get(node.type, (1, None))  # the others read no ignore_label
    if len(shape) < 2:
        return None
    ignored = settings.ignore_label if settings is not None and settings.HasField("ignore_label") else None
    head = Head(scores, labels, axis % len(shape), ignored, node.name)
    return head if math.prod(net.shape(labels)) == head.positions(net) else None


def _by_hand(net: CompiledNet, scores: str, labels: str) -> Head:
    shape, given = net.shape(scores), net.shape(labels)
    if len(shape) < 2 or math.prod(given) != math.prod(shape) // shape[1]:
        raise JaffeError(f"expected scores (N, classes, ...) and a label for each place beside the classes; found "
                         f"{scores!r} {shape} and {labels!r} {given}")
    return Head(scores, labels)


def count(scores: jax.Array, labels: jax.Array, head: Head, top_k: Sequence[int]) -> Counts:
    """Counts of one batch, int32. Pure.

    As Accuracy has it, a label is right among the first k when fewer than k other classes have a score as large as
    its own: ties count against. What is taken for another class is taken for the first of the highest others.

    Shapes: scores (N, K, ...), labels (N, ...) -> ``confusion`` (K, K): rows are labels, columns what they are taken
    for; ``hits`` (top_k); and of the labels ``counted`` how many are not ``ignore_label``, ``outside`` how many of
    those are no class 0..K-1, so in no row, and wrong; ``nan`` how many of those have a NaN among their scores.
    """
    classes = scores.shape[head.axis]
    scores = jnp.moveaxis(scores, head.axis, -1).reshape(-1, classes)
    labels = labels.reshape(-1)
    counted = jnp.ones(labels.shape, bool) if head.ignore_label is None else jnp.trunc(labels) != head.ignore_label
    truth = row_index(labels, classes)
    own = of_label(scores, labels)[:, None]
    # NaN is above nothing: of NaN for the own class, which is wrong, all are rivals.
    rivals = jnp.where(jnp.isnan(own[:, 0]), classes, (scores >= own).sum(-1) - 1)
    others = jnp.arange(classes) != truth[:, None]
    ranked = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    highest = jnp.where(others, ranked, -jnp.inf).max(-1, keepdims=True)
    taken_for = jnp.where(rivals < 1, truth, jnp.argmax(others & (ranked == highest), -1))
    outside = counted & (truth == classes)
    cell = jnp.where(counted & ~outside, truth * classes + taken_for, classes * classes)  # else dropped
    return {
        "confusion": jnp.zeros(classes * classes, jnp.int32).at[cell].add(1, mode="drop").reshape(classes, classes),
        "hits": jnp.stack([(counted & (rivals < k)).sum() for k in top_k]).astype(jnp.int32),
        "counted": counted.sum().astype(jnp.int32),
        "outside": outside.sum().astype(jnp.int32),
        "nan": (counted & jnp.isnan(scores).any(-1)).sum().astype(jnp.int32),
    }


def fresh_counts(classes: int, top_k: Sequence[int]) -> Counts:
    """Zeros, as ``count`` shapes them."""
    shapes = {"confusion": (classes, classes), "hits": (len(top_k),), "counted": (), "outside": (), "nan": ()}
    return {name: jnp.zeros(shape, jnp.int32) for name, shape in shapes.items()}


def make_counting_step(
    net: CompiledNet, fetch: Fetch, head: Head, top_k: Sequence[int], *, with_loss: bool = False
) -> Callable[..., tuple[dict[str, jax.Array], Any, Counts]]:
    """``make_test_step`` that counts too: ``(counts, variables, carry, ...) -> (outputs, new carry, new counts)``."""
    watched = copy(net)
    watched.outputs = tuple(dict.fromkeys([*net.outputs, head.scores, head.labels]))
    step = make_test_step(watched, fetch, with_loss=with_loss)
    extra = {head.scores, head.labels} - {*net.outputs}

    def counting(counts: Counts, *arguments: Any) -> tuple[dict[str, jax.Array], Any, Counts]:
        outputs, carry = step(*arguments)
        found = count(outputs[head.scores], outputs[head.labels], head, top_k)
        counts = {name: counts[name] + found[name] for name in counts}
        return {name: value for name, value in outputs.items() if name not in extra}, carry, counts

    return counting
