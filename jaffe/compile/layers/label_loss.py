"""Losses of scores and integer labels beside SoftmaxWithLoss: HingeLoss, MultinomialLogisticLoss, InfogainLoss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from google.protobuf.message import DecodeError
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.indexing import row_index, take_rows
from jaffe.compile.layers.loss import (
    check_first_axis,
    check_labels,
    floored,
    log_softmax_of,
    normaliser,
    not_ignored,
    of_label,
)
from jaffe.netdef.jaffe_pb2 import BlobProto, HingeLossParameter
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights import blob_to_array

_LEAST = 1e-20  # Caffe's kLOG_THRESHOLD


class _LabelLoss(Layer):
    """One label for each item of the batch; everything behind the first axis is a class."""

    bottoms = (2, 2)
    constant_bottoms = (1,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_first_axis(self, bottoms)
        classes = math.prod(bottoms[0][1:])
        check_labels(self, (bottoms[0][0], classes), bottoms[1], 1)
        return [()]

    def rows(self, bottoms: Sequence[Array]) -> tuple[Array, Array]:
        """Scores as (N, K) and labels as (N)."""
        scores = bottoms[0].reshape(bottoms[0].shape[0], -1)
        return scores, lax.stop_gradient(bottoms[1]).reshape(-1)


@built_in("HingeLoss")
class HingeLoss(_LabelLoss):
    """One-against-all hinge: ``sum of max(0, 1 - d x)^p / N``, d = 1 for the label's class, -1 for the others.

    Shapes: scores (N, K, ...), labels (N) -> (). p is 1 (``norm: L1``, default) or 2 (``L2``). The gradient of a
    margin of exactly 0 is 0. A label outside the classes gives NaN.
    Source: Caffe 1.0, ``hinge_loss_layer.cpp``.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x, label = self.rows(bottoms)
        label = row_index(label, x.shape[1])
        margin = 1 + x * (1 - 2 * jax.nn.one_hot(label, x.shape[1], dtype=x.dtype))
        margin = jnp.where(margin > 0, margin, 0)
        loss = margin if self.p.norm == HingeLossParameter.L1 else jnp.square(margin)
        return [jnp.where(label < x.shape[1], loss.sum(1), jnp.nan).sum() / x.shape[0]]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 4 * math.prod(bottoms[0])


@built_in("MultinomialLogisticLoss")
class MultinomialLogisticLoss(_LabelLoss):
    """``-sum of log(max(p[label], 1e-20)) / N`` of probabilities, such as a Softmax layer's.

    Shapes: p (N, K, ...), labels (N) -> (). The gradient is ``-1 / (N max(p, 1e-20))`` below the floor too.
    A label outside the classes gives NaN. Source: Caffe 1.0, ``multinomial_logistic_loss_layer.cpp``.
    """

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        p = of_label(*self.rows(bottoms))
        below = p < _LEAST
        # Below the floor a line takes the logarithm's place, of value log(1e-20) at p and of slope 1e20.
        line = math.log(_LEAST) + (p - lax.stop_gradient(p)) / _LEAST
        return [-jnp.where(below, line, jnp.log(jnp.where(below, 1, p))).sum() / p.size]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 2 * bottoms[0][0]


@built_in("InfogainLoss")
class InfogainLoss(Layer):
    """``-sum of H[label, k] log(max(p_k, 1e-20)) / Z`` over all classes k, p the softmax along ``axis``.

    Shapes: scores (N, K, ...), labels (N, ...), and H (K, K) or (1, 1, K, K) -> (), and optionally p, shaped as
    the scores. A row of H belongs to the true label. Without the third bottom H is a BlobProto in the file
    ``infogain_loss_param.source``, looked for in the current folder and in that of the net.
    Z by ``loss_param.normalization``, and ``ignore_label``, as SoftmaxWithLoss has them. Gradients reach the
    scores only. A label outside 0..K-1 gives NaN. Source: Caffe 1.0, ``infogain_loss_layer.cpp``.
    """

    bottoms = (2, 3)
    tops = (1, 2)
    constant_bottoms = (1, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = self.axis(self.p.axis, len(bottoms[0]))
        check_labels(self, bottoms[0], bottoms[1], axis)
        if self.node.proto.loss_param.HasField("normalize"):
            raise self.node.error("InfogainLoss does not read loss_param.normalize; expected normalization")
        classes = bottoms[0][axis]
        table = bottoms[2] if len(bottoms) == 3 else self.table.shape
        if table[-2:] != (classes, classes) or math.prod(table) != classes * classes:
            where = "" if len(bottoms) == 3 else f" in {self.p.source!r}"
            raise self.node.error(f"expected an infogain matrix of {classes} x {classes} values; found {table}{where}")
        return [(), bottoms[0]][: len(self.node.tops)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        scores = bottoms[0]
        p = self.node.proto.loss_param
        axis = self.axis(self.p.axis, scores.ndim)
        classes = scores.shape[axis]
        table = lax.stop_gradient(bottoms[2]) if len(bottoms) == 3 else jnp.asarray(self.table, scores.dtype)
        label = lax.stop_gradient(bottoms[1]).reshape(scores.shape[:axis] + scores.shape[axis + 1 :])
        counted = not_ignored(label, p)
        rows = jnp.where(counted[..., None], take_rows(table.reshape(classes, classes), label), 0)
        z = normaliser(p.normalization, label.size, counted.sum(), math.prod(scores.shape[:axis]))
        total = -(rows * floored(log_softmax_of(scores, counted, axis), _LEAST)).sum() / z
        return [total, jax.nn.softmax(scores, axis)] if len(self.node.tops) == 2 else [total]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 7 * math.prod(bottoms[0])

    @cached_property
    def table(self) -> np.ndarray:
        """H from the file. Raises SpecError when it is missing or not a blob."""
        source = self.p.source
        if not source:
            raise self.node.error("expected the infogain matrix as third bottom or in infogain_loss_param.source; "
                                  "found neither")
        places = list(dict.fromkeys((Path.cwd(), self.node.directory.absolute())))
        found = next((place / source for place in places if (place / source).is_file()), None)
        if found is None:
            raise self.node.error(f"infogain matrix {source!r} is not found; looked in "
                                  + " and ".join(map(str, places)))
        try:
            return blob_to_array(BlobProto.FromString(read_bytes(found)))
        except (DecodeError, ValueError) as problem:
            reason = "truncated, or text?" if isinstance(problem, DecodeError) else problem
            raise self.node.error(f"{source!r} is not a binary BlobProto ({reason})") from None
