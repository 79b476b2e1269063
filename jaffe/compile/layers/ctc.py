"""Connectionist temporal classification: labels of a sequence whose places in time are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.indexing import row_index
from jaffe.compile.layers.loss import normaliser, normalization_mode
from jaffe.netdef.jaffe_pb2 import LossParameter

_NEVER = -1e30  # for log(0): finite, because optax multiplies what it does not count by 0


class _Sequences(Layer):
    """Scores (T, N, C), one class of which is the blank, and perhaps cont (T, N)."""

    def check(self, scores: Shape, cont: Sequence[Shape]) -> None:
        """Raises SpecError where the scores, cont or ``blank_label`` do not fit."""
        if len(scores) != 3:
            raise self.node.error(f"expected scores of 3 axes (T, N, C); found {scores}")
        if cont and cont[0] != scores[:2]:
            raise self.node.error(f"expected cont to be (T, N) = {scores[:2]}; found {cont[0]}")
        if self.p.blank_label >= scores[2]:
            raise self.node.error(f"blank_label is one of the {scores[2]} classes; found {self.p.blank_label}")


def _over(scores: Array, cont: Sequence[Array]) -> Array:
    """Which steps (T, N) are behind the end of their sequence: those from cont's first 0 after the first step on."""
    if not cont:
        return jnp.zeros(scores.shape[:2], bool)
    begins = (lax.stop_gradient(cont[0]) == 0) & (jnp.arange(scores.shape[0]) > 0)[:, None]
    return jnp.cumsum(begins, 0) > 0


@built_in("CTCLoss")
class CTCLoss(_Sequences):
    """``- sum over the sequences of log p(labels | scores) / Z``: p adds up the probabilities of all ways to write the
    labels over the steps, each once or several times, with blanks between them where wanted, and between equal ones.

    Shapes: scores (T, N, C), which a softmax turns into probabilities; labels (N, L), of which all from the first
    negative one on are not there; optionally cont (T, N), whose first 0 after the first step ends the sequence -> ().
    Scores behind the end may be anything. ``blank_label`` is the class of the blank.
    A sequence that cannot be its labels, mostly because it is too short for them, has an infinite loss and no gradient;
    a label outside the classes, or a blank among them, gives NaN.
    Z by ``loss_param.normalization``: BATCH_SIZE (default) and FULL N; VALID the sequences that can be their labels,
    and the others add nothing; NONE 1; never less than 1.
    Source: Graves et al. 2006, computed by ``optax.ctc_loss``. Forks differ: that of BVLC's pull request 4681 has cont
    second, labels (T, N) third and the last class as blank; CtcLoss, and WarpCTCLoss of two bottoms, leave out blanks
    among the labels.
    """

    bottoms = (2, 3)
    constant_bottoms = (1, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, labels, *cont = bottoms
        self.check(scores, cont)
        if len(labels) != 2 or labels[0] != scores[1]:
            raise self.node.error(f"expected labels (N = {scores[1]}, L); found {labels}")
        if self.node.proto.loss_param.HasField("ignore_label"):
            raise self.node.error("CTCLoss does not read loss_param.ignore_label; expected a negative label behind the "
                                  "last of a sequence")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        import optax

        scores, labels, *cont = bottoms
        _, batch, classes = scores.shape
        blank, dtype = self.p.blank_label, scores.dtype
        over, labels = _over(scores, cont), lax.stop_gradient(labels)
        missing = jnp.cumsum(labels <= -1, 1) > 0
        index = row_index(labels, classes)
        wrong = ((index == classes) | (index == blank)) & ~missing
        scores = jnp.where(over[..., None], 0, jnp.maximum(scores, _NEVER))
        # Its products only pick values, which TensorFloat-32 and bfloat16 would round.
        with jax.default_matmul_precision("highest"):
            losses = optax.ctc_loss(
                jnp.moveaxis(scores, 0, 1), over.T.astype(dtype), jnp.where(missing | wrong, blank, index),
                missing.astype(dtype), blank_id=blank, log_epsilon=_NEVER)
        never = losses >= -_NEVER / 10  # NaN is not
        mode = normalization_mode(self, LossParameter.BATCH_SIZE)
        losses = jnp.where(never, 0 if mode == LossParameter.VALID else jnp.inf, losses)
        losses = jnp.where(wrong.any(1), jnp.nan, losses)
        return [losses.sum() / normaliser(mode, batch, (~never).sum(), batch)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        # a softmax, and of each step three products and sums for each label and the blanks around them
        return 5 * math.prod(bottoms[0]) + 6 * bottoms[0][0] * bottoms[0][1] * (2 * bottoms[1][1] + 1)


@built_in("CTCGreedyDecoder")
class CTCGreedyDecoder(_Sequences):
    """The likeliest class of each step, repetitions once and blanks left out: (T, N, C) -> (N, T), -1 behind the end.

    Bottoms: scores, optionally cont, as ``CTCLoss`` has them; ``ctc_loss_param { blank_label }`` too. No gradient.
    Source: Graves et al. 2006, "best path decoding".
    """

    bottoms = (1, 2)
    constant_bottoms = (0, 1)
    constant_tops = (0,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, *cont = bottoms
        self.check(scores, cont)
        return [(scores[1], scores[0])]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        scores, *cont = map(lax.stop_gradient, bottoms)
        best = scores.argmax(-1).T
        before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        kept = (best != before) & (best != self.p.blank_label) & ~_over(scores, cont).T
        steps = scores.shape[0]
        places = jnp.where(kept, jnp.cumsum(kept, 1) - 1, steps)
        written = jnp.full((best.shape[0], steps + 1), -1.0, scores.dtype)
        rows = jnp.arange(best.shape[0])[:, None]
        return [written.at[rows, places].set(best.astype(scores.dtype))[:, :steps]]
