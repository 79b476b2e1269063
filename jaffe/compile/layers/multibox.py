"""SSD's training loss: MultiBoxLoss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.detection import check_predictions, prior_count, split_priors
from jaffe.compile.layers.distance_loss import smooth_l1
from jaffe.compile.layers.indexing import row_index
from jaffe.compile.layers.loss import (
    FLT_MIN,
    floored,
    log_softmax_of,
    normaliser,
    normalization_mode,
    of_label,
    sigmoid_cross_entropy,
)
from jaffe.compile.lowering.boxes import decode, encode, overlap
from jaffe.netdef.jaffe_pb2 import LossParameter, MultiBoxLossParameter

_LEAST_OVERLAP = 1e-6  # less does not count as one


@built_in("MultiBoxLoss")
class MultiBoxLoss(Layer):
    """Loss of offsets and scores of prior boxes, for true boxes: ``(loc_weight * loc + conf) / Z`` (Liu et al. 2016).

    Shapes: offsets (N, P * 4), scores (N, P * classes), priors (1, 2, P * 4), truth (1, 1, G, 8) -> (). A row of
    truth is image, label, instance, xmin, ymin, xmax, ymax, difficult; one of an image that is not in the batch, such
    as -1, does not count. Truth (N, G, 8), jaffe's own, has rows of its own for each image, all of which are the
    image's but those with -1 there.
    Matching: again and again the prior and the true box that overlap most, each once; then, with PER_PREDICTION
    (default), each other prior with the true box that it overlaps most, by ``overlap_threshold`` at least.
    loc: smooth L1 (or ``L2``, halved) of the matched priors' offsets from those that give the true boxes.
    conf: softmax loss (or ``LOGISTIC``: sigmoid cross entropy) of the matched priors' labels, and of the background
    for negatives: those whose background loss is largest of the priors that overlap no true box by
    ``neg_overlap``, ``neg_pos_ratio`` for each match of the image (MAX_NEGATIVE), or all others (NONE).
    Z by ``loss_param.normalization``: VALID (default) the number of matches; FULL N * P; BATCH_SIZE N; NONE 1; never
    less than 1. Gradients reach offsets and scores. A match with a label outside the classes, or the background's,
    gives NaN.
    Source: SSD's ``multibox_loss_layer.cpp``, ``bbox_util.cpp``. Of equal losses the earlier prior is the negative.
    With LOGISTIC and NONE SSD forgets that priors without a match are background (all their targets are 0) and mixes
    up the rows of images; here it is as with mining. ``share_location: false``, HARD_EXAMPLE mining (to which
    ``sample_size`` belongs) and NMS before mining (``nms_param``, ``use_prior_for_nms``) are refused.
    """

    bottoms = (4, 4)
    constant_bottoms = (2, 3)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        p, error = self.p, self.node.error
        if not p.share_location:
            raise error("expected share_location: true; found false, which is not implemented")
        if p.mining_type == MultiBoxLossParameter.HARD_EXAMPLE:
            raise error("expected mining_type MAX_NEGATIVE or NONE; found HARD_EXAMPLE, which is not implemented")
        if p.HasField("nms_param") or p.use_prior_for_nms:
            field = "nms_param" if p.HasField("nms_param") else "use_prior_for_nms"
            raise error(f"{field}, NMS before mining, is not implemented; expected none")
        if p.sample_size <= 0:
            raise error(f"sample_size is positive; found {p.sample_size}")
        if p.HasField("do_neg_mining") and p.do_neg_mining != (p.mining_type != MultiBoxLossParameter.NONE):
            raise error("do_neg_mining is the old name of mining_type; found them to disagree")
        if not 0 <= p.background_label_id < p.num_classes:
            raise error(f"expected num_classes above background_label_id {p.background_label_id}; found "
                        f"{p.num_classes}")
        if p.map_object_to_agnostic and (p.num_classes, p.background_label_id) != (2, 0):
            raise error(f"map_object_to_agnostic needs 2 classes, background_label_id 0; found {p.num_classes} and "
                        f"{p.background_label_id}")
        check_predictions(self, bottoms[0], bottoms[1], prior_count(self, bottoms[2]))
        if math.prod(bottoms[3]) % 8 or bottoms[3][-1:] != (8,):
            raise error(f"expected true boxes of shape (1, 1, G, 8); found {bottoms[3]}")
        return [()]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        p, batch = self.p, bottoms[0].shape[0]
        prior, variance = split_priors(lax.stop_gradient(bottoms[2]), False)
        offsets = bottoms[0].reshape(batch, -1, 4)
        scores = bottoms[1].reshape(batch, len(prior), -1)
        truth = _rows(lax.stop_gradient(bottoms[3]), batch)
        scale = jnp.ones_like(variance) if p.encode_variance_in_target else variance

        boxes = prior[None]
        if not p.use_prior_for_matching:
            boxes = decode(p.code_type, prior, scale, lax.stop_gradient(offsets))
        index, overlaps, own = self._matches(boxes, truth, batch)
        matched = index >= 0
        z = normaliser(normalization_mode(self, LossParameter.VALID), matched.size, matched.sum(), batch)

        target = encode(p.code_type, prior, scale, truth[index, 3:7])
        wanted = matched[..., None]
        if p.bp_inside:
            wanted = wanted & (boxes >= 0) & (boxes <= 1)
        difference = jnp.where(wanted, offsets - jnp.where(wanted, target, 0), 0)
        if p.encode_variance_in_target:
            difference /= variance
        squares = p.loc_loss_type == MultiBoxLossParameter.L2
        loc = jnp.square(difference) / 2 if squares else smooth_l1(difference)

        label = row_index(truth[index, 1], p.num_classes)
        foreground = p.background_label_id + 1 if p.map_object_to_agnostic else label
        label = jnp.where(label == p.background_label_id, p.num_classes, foreground)  # no class: NaN
        label = jnp.where(matched, label, p.background_label_id)
        counted = jnp.ones_like(matched)
        if p.mining_type == MultiBoxLossParameter.MAX_NEGATIVE:
            open_to = (index == -1) & (overlaps < p.neg_overlap) & own.any(1)[:, None]
            conf = self._confidence(lax.stop_gradient(scores), label, counted)
            counted = matched | self._hardest(conf, open_to, matched.sum(1))
        return [(p.loc_weight * loc.sum() + self._confidence(scores, label, counted).sum()) / z]

    def _matches(self, boxes: Array, truth: Array, batch: int) -> tuple[Array, Array, Array]:
        """For each prior (N, P) the row of its true box, -1 for none, -2 for never; and its largest overlap.

        boxes: (N or 1, P, 4). Also which rows are whose image's, (N, G).
        """
        p = self.p
        image = row_index(truth[:, 0], batch)
        valid = image < batch
        if not p.use_difficult_gt:
            valid &= truth[:, 7] == 0
        own = valid & (image == jnp.arange(batch)[:, None])
        never = jnp.zeros(boxes.shape[:2], bool)
        if p.ignore_cross_boundary_bbox:
            never = ((boxes < 0) | (boxes > 1)).any(-1)
        seat = jnp.zeros_like(image) if p.use_prior_for_matching else jnp.where(valid, image, 0)
        common = overlap(boxes[seat], truth[:, None, 3:7])  # (G, P)
        common = jnp.where((common > _LEAST_OVERLAP) & ~never[seat], common, 0)

        free = jnp.where(jnp.broadcast_to(never, (batch, boxes.shape[1])), jnp.int32(-2), jnp.int32(-1))
        index = _bipartite(common, own, free)
        best = jnp.where(own[..., None], common, 0)  # (N, G, P)
        overlaps = best.max(1)
        if p.match_type == MultiBoxLossParameter.PER_PREDICTION:
            near = (overlaps >= p.overlap_threshold) & (overlaps > 0)
            index = jnp.where((index == -1) & near, lax.argmax(best, 1, jnp.int32), index)
        return index, overlaps, own

    def _confidence(self, scores: Array, label: Array, counted: Array) -> Array:
        """The loss of each prior's scores (N, P, classes) for a label (N, P) where ``counted`` (N, P), else 0."""
        if self.p.conf_loss_type == MultiBoxLossParameter.SOFTMAX:
            loss = -floored(of_label(log_softmax_of(scores, counted, 2), label), FLT_MIN)
        else:
            target = jax.nn.one_hot(label, scores.shape[-1], dtype=scores.dtype)
            loss = sigmoid_cross_entropy(jnp.where(counted[..., None], scores, 0), target).sum(-1)
            loss = jnp.where(label < scores.shape[-1], loss, jnp.nan)
        return jnp.where(counted, loss, 0)

    def _hardest(self, loss: Array, eligible: Array, matches: Array) -> Array:
        """Of the eligible priors (N, P) those with the largest loss: neg_pos_ratio for each of the matches (N)."""
        order = jnp.argsort(jnp.where(eligible, -loss, jnp.inf), -1)
        rank = jnp.argsort(order, -1)
        most = jnp.floor(matches.astype(jnp.float32) * np.float32(self.p.neg_pos_ratio))  # in float32, as SSD
        return eligible & (rank < most[:, None])

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Of the overlaps and the losses."""
        pairs = math.prod(bottoms[2][2:]) // 4 * (math.prod(bottoms[3]) // 8)
        return 15 * pairs + 10 * math.prod(bottoms[0]) + 5 * math.prod(bottoms[1])


def _rows(truth: Array, batch: int) -> Array:
    """The rows of true boxes, (G, 8); of (N, G, 8), with places in the batch as their images."""
    if truth.ndim == 3 and truth.shape[0] == batch:
        image = jnp.arange(batch, dtype=truth.dtype)[:, None]
        truth = truth.at[..., 0].set(jnp.where(truth[..., 0] >= 0, image, -1))
    return truth.reshape(-1, 8)


def _bipartite(common: Array, own: Array, index: Array) -> Array:
    """Greedy matching in every image at once: the pair of largest overlap, without its row and prior the next, ...

    common: overlaps (G, P) of true boxes with the priors as their image sees them. own: (N, G), which are whose.
    index: (N, P), -1 for priors to be matched. Returns the index with rows of true boxes in it. Of equal overlaps
    the earlier prior, then the earlier row, goes first.
    """
    rows = jnp.arange(len(common), dtype=jnp.int32)
    images = jnp.arange(own.shape[0])
    seat = own.argmax(0)  # the image of each row; of rows of no image any, they are left out below

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        index, left, _ = state
        value = jnp.where(index[seat] == -1, common, 0)  # (G, P)
        place, value = lax.argmax(value, 1, jnp.int32), value.max(1)
        value = jnp.where(own & left, value, 0)  # (N, G)
        best = value.max(1, keepdims=True)
        pairs = jnp.where(value == best, place * len(common) + rows, jnp.iinfo(jnp.int32).max)
        row = lax.argmin(pairs, 1, jnp.int32)
        found = best[:, 0] > 0
        index = index.at[images, jnp.where(found, place[row], index.shape[1])].set(row, mode="drop")
        left = left.at[jnp.where(found, row, len(common))].set(False, mode="drop")
        return index, left, found.any()

    start = (index, jnp.ones(len(common), bool), jnp.array(True))
    return lax.while_loop(lambda state: state[2], step, start)[0]
