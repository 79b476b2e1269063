"""Losses and Accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.indexing import row_index
from jaffe.netdef.jaffe_pb2 import LossParameter

FLT_MIN = float(np.finfo(np.float32).tiny)  # Caffe's FLT_MIN: log(p) is taken of max(p, this)


def normaliser(mode: int, full: int, valid: Array | int, batch: int) -> Array | int:
    """What a summed loss is divided by, never less than 1."""
    by_mode: dict[int, Array | int] = {
        LossParameter.FULL: full,
        LossParameter.VALID: valid,
        LossParameter.BATCH_SIZE: batch,
        LossParameter.NONE: 1,
    }
    count = by_mode[mode]
    return max(1, count) if isinstance(count, int) else jnp.maximum(1, count)


def normalization_mode(layer: Layer, fallback: int) -> int:
    """``normalization`` if given; else ``normalize`` (true VALID, false BATCH_SIZE); else the layer's own."""
    p = layer.node.proto.loss_param
    if p.HasField("normalization"):
        return p.normalization
    if p.HasField("normalize"):
        return LossParameter.VALID if p.normalize else LossParameter.BATCH_SIZE
    return fallback


def of_label(values: Array, label: Array) -> Array:
    """The value of each label's class, along the last axis; NaN where the label is outside the classes, or NaN."""
    index = row_index(label, values.shape[-1])[..., None]
    return jnp.take_along_axis(values, index, -1, mode="fill", fill_value=jnp.nan)[..., 0]


def not_ignored(label: Array, p: Any) -> Array:
    """Which labels, stored as floats, are not the ``ignore_label`` of the settings p. NaN is not."""
    return jnp.trunc(label) != p.ignore_label if p.HasField("ignore_label") else jnp.ones(label.shape, bool)


def log_softmax_of(scores: Array, counted: Array, axis: int) -> Array:
    """The logarithm of the softmax along ``axis``, which becomes the last, with a gradient where ``counted`` only.

    Shapes: scores (N, K, ...), counted (N, ...) -> (N, ..., K). What is not counted may be NaN or infinite.
    """
    scores = jnp.where(jnp.expand_dims(counted, axis), scores, 0)
    return jnp.moveaxis(jax.nn.log_softmax(scores, axis), axis, -1)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def floored(log_p: Array, least: float) -> Array:
    """``log(max(p, least))`` of a softmax, as Caffe has it, with the gradient of ``log(p)``: p - onehot in the end."""
    return jnp.maximum(log_p, math.log(least))


@floored.defjvp
def _floored_jvp(least: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return floored(*primals, least), tangents[0]


def sigmoid_cross_entropy(x: Array, target: Array) -> Array:
    """``-t log s(x) - (1 - t) log(1 - s(x))``, element by element, exact for any x: of gradient s(x) - t."""
    size = jnp.where(x >= 0, x, -x)
    return x * ((x >= 0) - target) + jnp.log1p(jnp.exp(-size))


def check_first_axis(layer: Layer, bottoms: Sequence[Shape]) -> None:
    """Refuse first bottoms whose batches differ."""
    a, b = bottoms[0], bottoms[1]
    if not a or not b or a[0] != b[0]:
        raise layer.node.error(f"bottoms have one first axis (the batch); found {a} and {b}")


def check_labels(layer: Layer, scores: Shape, labels: Shape, axis: int) -> None:
    """Refuse other than one label for each position of the scores beside ``axis``."""
    expected = scores[:axis] + scores[axis + 1 :]
    if math.prod(labels) != math.prod(expected):
        raise layer.node.error(f"expected one label for each of {math.prod(expected)} predictions {expected}; "
                               f"found {math.prod(labels)} labels {labels}")


@built_in("SoftmaxWithLoss")
class SoftmaxWithLoss(Layer):
    """Multinomial logistic loss of the softmax: ``-sum of log(max(p[label], FLT_MIN)) / Z``, p along ``axis``.

    Shapes: scores (N, K, ...), labels (N, ...) -> (), and optionally p, shaped as the scores.
    Z by ``loss_param.normalization``: VALID (default) the labels that are not ``ignore_label``; FULL all labels;
    BATCH_SIZE N; NONE 1; never less than 1. Ignored labels add nothing, whatever their scores are. A label outside
    0..K-1 gives NaN.

    Beyond Caffe: ``loss_param.label_smoothing`` e takes ``(1 - e) log p[label] + e mean_k log p[k]`` in place of
    ``log p[label]``; and labels shaped as the scores are shares t of the classes, with ``sum_k t[k] log p[k]`` in its
    place: none of them is ignored.
    Source: Caffe 1.0, ``softmax_loss_layer.cpp``; Szegedy et al., arXiv:1512.00567, section 7.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    constant_bottoms = (1,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.axis(self.node.proto.softmax_param.axis, len(bottoms[0]))
        if bottoms[1] != bottoms[0]:
            check_labels(self, bottoms[0], bottoms[1], axis)
        if not 0 <= self.node.proto.loss_param.label_smoothing < 1:
            raise self.node.error("label_smoothing is a share, from 0 to below 1; found "
                                  f"{self.node.proto.loss_param.label_smoothing:g}")
        return [(), bottoms[0]][: len(self.node.tops)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        scores = bottoms[0]
        p = self.node.proto.loss_param
        axis = self.axis(self.node.proto.softmax_param.axis, scores.ndim)
        positions = scores.shape[:axis] + scores.shape[axis + 1 :]
        label = lax.stop_gradient(bottoms[1])
        if label.shape == scores.shape and scores.shape[axis] > 1:
            counted = jnp.ones(positions, bool)
            log_p = floored(log_softmax_of(scores, counted, axis), FLT_MIN)
            picked = (jnp.moveaxis(label, axis, -1) * log_p).sum(-1)
        else:
            label = label.reshape(positions)
            counted = not_ignored(label, p)
            log_p = log_softmax_of(scores, counted, axis)
            picked = floored(of_label(log_p, label), FLT_MIN)
        if p.label_smoothing:
            picked = (1 - p.label_smoothing) * picked + p.label_smoothing * log_p.mean(-1)
        loss = jnp.where(counted, -picked, 0)
        mode = normalization_mode(self, LossParameter.VALID)
        total = loss.sum() / normaliser(mode, loss.size, counted.sum(), math.prod(scores.shape[:axis]))
        return [total, jax.nn.softmax(scores, axis)] if len(self.node.tops) == 2 else [total]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 5 * math.prod(bottoms[0])


@built_in("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """Cross entropy of sigmoids with targets in [0, 1]: ``-sum of t log s(x) + (1 - t) log(1 - s(x)) / Z``.

    Shapes: logits and targets of one count -> (). Z by ``loss_param.normalization``: BATCH_SIZE (default) the
    first axis; FULL all elements; VALID those whose target is not ``ignore_label``; NONE 1; never less than 1.
    Source: Caffe 1.0, ``sigmoid_cross_entropy_loss_layer.cpp``. Caffe compares ignore_label with the truncated
    target, so that 0.7 is ignored with ignore_label 0; here the target itself is compared.
    """

    bottoms = (2, 2)
    constant_bottoms = (1,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_first_axis(self, bottoms)
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.node.error(f"logits and targets have one count; found {bottoms[0]} and {bottoms[1]}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, target = bottoms[0], lax.stop_gradient(bottoms[1]).reshape(bottoms[0].shape)
        p = self.node.proto.loss_param
        counted = target != p.ignore_label if p.HasField("ignore_label") else jnp.ones(x.shape, bool)
        loss = jnp.where(counted, sigmoid_cross_entropy(jnp.where(counted, x, 0), target), 0)
        mode = normalization_mode(self, LossParameter.BATCH_SIZE)
        return [loss.sum() / normaliser(mode, x.size, counted.sum(), x.shape[0])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 7 * math.prod(bottoms[0])


@built_in("EuclideanLoss")
class EuclideanLoss(Layer):
    """``sum of (a - b)^2 / (2 N)``, N the first axis; the gradient reaches both bottoms.

    Shapes: a and b of one first axis and one count -> (). Source: Caffe 1.0, ``euclidean_loss_layer.cpp``.
    """

    bottoms = (2, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_first_axis(self, bottoms)
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.node.error(f"bottoms have one count; found {bottoms[0]} and {bottoms[1]}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        a, b = bottoms
        return [jnp.square(a - b.reshape(a.shape)).sum() / (2 * a.shape[0])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 3 * math.prod(bottoms[0])


@built_in("Accuracy")
class Accuracy(Layer):
    """Share of labels whose class has fewer than ``top_k`` other classes with a score as large.

    Shapes: scores (N, K, ...), labels (N, ...) -> (), and optionally the recall of each class, (K): 0 for a
    class without labels. Ties count against, and labels outside 0..K-1. ``ignore_label`` is left out; 0 when
    nothing is counted.
    Source: Caffe 1.0, ``accuracy_layer.cpp``. A NaN score counts as wrong here; Caffe counts it as right, so
    that a diverged net could report accuracy 1.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    constant_bottoms = (0, 1)
    constant_tops = (0, 1)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        check_labels(self, bottoms[0], bottoms[1], axis)
        classes = bottoms[0][axis]
        if not 1 <= self.p.top_k <= classes:
            raise self.node.error(f"expected top_k from 1 to the number of classes, {classes}; found {self.p.top_k}")
        return [(), (classes,)][: len(self.node.tops)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        scores, label = (lax.stop_gradient(bottom) for bottom in bottoms)
        axis = self.axis(self.p.axis, scores.ndim)
        scores = jnp.moveaxis(scores, axis, -1)
        classes = scores.shape[-1]
        label = label.reshape(scores.shape[:-1])
        counted = not_ignored(label, self.p)
        own = of_label(scores, label)
        rivals = (scores >= own[..., None]).sum(-1) - 1  # the class itself is among them
        right = counted & (rivals < self.p.top_k) & ~jnp.isnan(own)
        accuracy = right.sum() / jnp.maximum(counted.sum(), 1)
        tops = [accuracy.astype(scores.dtype)]
        if len(self.node.tops) == 2:
            of_class = jax.nn.one_hot(row_index(label, classes), classes, dtype=scores.dtype) * counted[..., None]
            total = of_class.reshape(-1, classes).sum(0)
            hits = (of_class * right[..., None]).reshape(-1, classes).sum(0)
            tops.append(hits / jnp.maximum(total, 1))
        return tops
