"""Connectionist temporal classification: labels of a sequence whose places in time are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in


@built_in("CTCLoss")
class CTCLoss(Layer):
    """``- mean over the sequences of log p(labels | scores)``: p adds up the probabilities of all ways to write the
    labels over the steps, each once or several times, with blanks between them where wanted, and between equal ones.

    Shapes: scores (T, N, C), which a softmax turns into probabilities; labels (N, L), of which all from the first
    negative one on are not there; optionally cont (T, N), whose first 0 after the first step ends the sequence -> ().
    ``blank_label`` is the class of the blank. A sequence that is too short for its labels has an infinite loss and no
    gradient; a label outside the classes, or a blank among them, gives NaN.
    Source: Graves et al. 2006, computed by ``optax.ctc_loss``.
    """

    bottoms = (2, 3)
    constant_bottoms = (1, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, labels, *cont = bottoms
        if len(scores) != 3:
            raise self.node.error(f"expected scores of 3 axes (T, N, C); found {scores}")
        if len(labels) != 2 or labels[0] != scores[1]:
            raise self.node.error(f"expected labels (N = {scores[1]}, L); found {labels}")
        if cont and cont[0] != scores[:2]:
            raise self.node.error(f"expected cont to be (T, N) = {scores[:2]}; found {cont[0]}")
        if self.p.blank_label >= scores[2]:
            raise self.node.error(f"blank_label is one of the {scores[2]} classes; found {self.p.blank_label}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        import optax

        scores, labels, *cont = bottoms
        steps, _, classes = scores.shape
        blank = self.p.blank_label
        labels = lax.stop_gradient(labels).astype(jnp.int32)
        missing = jnp.cumsum(labels < 0, 1) > 0
        over = jnp.zeros(scores.shape[:2], bool)
        if cont:
            begins = (lax.stop_gradient(cont[0]) == 0) & (jnp.arange(steps) > 0)[:, None]
            over = jnp.cumsum(begins, 0) > 0
        wrong = ((labels >= classes) | (labels == blank)) & ~missing
        equal = (labels[:, 1:] == labels[:, :-1]) & ~missing[:, 1:]
        short = (~missing).sum(1) + equal.sum(1) > (~over).sum(0)
        absent = missing | short[:, None]  # where there is no way, optax gives a large number, and a gradient
        losses = optax.ctc_loss(jnp.moveaxis(scores, 0, 1), over.T.astype(scores.dtype),
                                jnp.where(missing | wrong, 0, labels), absent.astype(scores.dtype), blank_id=blank)
        losses = jnp.where(short, jnp.inf, losses)
        return [jnp.where(wrong.any(1), jnp.nan, losses).mean()]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        # a softmax, and of each step three products and sums for each label and the blanks around them
        return 5 * math.prod(bottoms[0]) + 6 * bottoms[0][0] * bottoms[0][1] * (2 * bottoms[1][1] + 1)


@built_in("CTCGreedyDecoder")
class CTCGreedyDecoder(Layer):
    """The likeliest class of each step, repetitions once and blanks left out: (T, N, C) -> (N, T), -1 behind the end.

    Bottoms: scores, optionally cont, as ``CTCLoss`` has them; ``ctc_loss_param { blank_label }`` too. No gradient.
    Source: Graves et al. 2006, "best path decoding".
    """

    bottoms = (1, 2)
    constant_bottoms = (0, 1)
    constant_tops = (0,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, *cont = bottoms
        if len(scores) != 3:
            raise self.node.error(f"expected scores of 3 axes (T, N, C); found {scores}")
        if cont and cont[0] != scores[:2]:
            raise self.node.error(f"expected cont to be (T, N) = {scores[:2]}; found {cont[0]}")
        if self.p.blank_label >= scores[2]:
            raise self.node.error(f"blank_label is one of the {scores[2]} classes; found {self.p.blank_label}")
        return [(scores[1], scores[0])]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        scores, *cont = map(lax.stop_gradient, bottoms)
        best = scores.argmax(-1).T
        before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        kept = (best != before) & (best != self.p.blank_label)
        if cont:
            begins = (cont[0] == 0) & (jnp.arange(len(scores)) > 0)[:, None]
            kept &= (jnp.cumsum(begins, 0) == 0).T
        steps = scores.shape[0]
        places = jnp.where(kept, jnp.cumsum(kept, 1) - 1, steps)
        written = jnp.full((best.shape[0], steps + 1), -1.0, scores.dtype)
        rows = jnp.arange(best.shape[0])[:, None]
        return [written.at[rows, places].set(best.astype(scores.dtype))[:, :steps]]
