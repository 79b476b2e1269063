"""Layers of SSD and the forks around it: PriorBox, PriorBoxClustered, DetectionOutput."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.indexing import top_k
from jaffe.compile.lowering.boxes import decode, suppress


class _Priors(Layer):
    """Boxes of fixed sizes around each cell of a map, as shares of the image. They depend on shapes only."""

    bottoms = (2, 2)
    constant_bottoms = (0, 1)
    constant_tops = (0,)
    others: ClassVar[tuple[str, ...]]  # settings that the message has for the other layer type

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        cells, image = bottoms
        for field, _ in self.p.ListFields():
            if field.name in self.others:
                raise self.node.error(f"{self.type} does not read {field.name}")
        if len(cells) != 4:
            raise self.node.error(f"expected a map of 4 axes (N, C, H, W); found {cells}")
        self._image(image)
        self._steps((1, 1), (1, 1))
        variances = list(self.p.variance)
        if len(variances) not in (0, 1, 4) or any(not value > 0 for value in variances):
            raise self.node.error(f"expected one positive variance or four; found {variances}")
        return [(1, 2, cells[2] * cells[3] * len(self.sizes()) * 4)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [jnp.asarray(self.boxes(bottoms[0].shape, bottoms[1].shape), ctx.dtype)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0

    def sizes(self) -> list[tuple[float, float]]:
        """Width and height of each box of a cell, in pixels."""
        raise NotImplementedError

    def boxes(self, cells: Shape, bottom: Shape) -> np.ndarray:
        """The top: (1, 2, H * W * boxes * 4), coordinates and then variances."""
        height, width = image = self._image(bottom)
        step_h, step_w = self._steps(image, cells[2:])
        half = np.array(self.sizes(), np.float64) / 2
        shape = (*cells[2:], len(half))
        y = np.broadcast_to(((np.arange(cells[2]) + self.p.offset) * step_h)[:, None, None], shape)
        x = np.broadcast_to(((np.arange(cells[3]) + self.p.offset) * step_w)[None, :, None], shape)
        w, h = half.T
        boxes = np.stack([(x - w) / width, (y - h) / height, (x + w) / width, (y + h) / height], -1)
        if self.p.clip:
            boxes = boxes.clip(0, 1)
        variances = np.broadcast_to(np.array(list(self.p.variance) or [0.1]), boxes.shape)
        return np.stack([boxes.ravel(), variances.ravel()])[None]

    def _image(self, bottom: Shape) -> tuple[int, int]:
        """Height and width: img_h and img_w, or img_size, or those of the second bottom."""
        p = self.p
        if p.HasField("img_h") or p.HasField("img_w"):
            if p.HasField("img_size"):
                raise self.node.error("expected img_size, or img_h and img_w; found both")
            image = (p.img_h, p.img_w)
        elif p.HasField("img_size"):
            image = (p.img_size, p.img_size)
        elif len(bottom) != 4:
            raise self.node.error(f"expected an image of 4 axes (N, C, H, W); found {bottom}")
        else:
            image = (bottom[2], bottom[3])
        if 0 in image:
            raise self.node.error(f"the image's height and width are positive; found {image}")
        return image

    def _steps(self, image: Sequence[int], cells: Sequence[int]) -> tuple[float, float]:
        """Pixels from cell to cell: step_h and step_w, or step, or image / map."""
        p = self.p
        if p.HasField("step_h") or p.HasField("step_w"):
            if p.HasField("step"):
                raise self.node.error("expected step, or step_h and step_w; found both")
            steps = (p.step_h, p.step_w)
        elif p.HasField("step"):
            steps = (p.step, p.step)
        else:
            return image[0] / cells[0], image[1] / cells[1]
        if not min(steps) > 0:
            raise self.node.error(f"steps are positive; found {steps}")
        return steps


@built_in("PriorBox")
class PriorBox(_Priors):
    """Default boxes around each cell of a map: for each ``min_size`` s a square of side s; with its ``max_size``
    m one of ``sqrt(s m)``; and for each further ``aspect_ratio`` r, and 1 / r with ``flip``, ``s sqrt(r)`` wide
    and ``s / sqrt(r)`` high.

    Shapes: map (N, C, H, W), image (N, C, H', W') -> (1, 2, H * W * boxes * 4): row by row the corners xmin, ymin,
    xmax, ymax, divided by the image's size (``img_size``, ``img_h`` and ``img_w``, or the second bottom's) and with
    ``clip`` cut to [0, 1]; beside them the ``variance``, one for all or four (default 0.1). The centre of a cell is
    ``(index + offset) * step``, step by default image / map.
    Source: SSD's ``prior_box_layer.cpp``. Like it sizes are cut to whole pixels, as published weights expect
    (SSD512 declares 35.84 and was trained with 35).
    """

    others = ("width", "height")

    def sizes(self) -> list[tuple[float, float]]:
        smallest, largest = list(self.p.min_size), list(self.p.max_size)
        if not smallest or min(smallest) < 1:
            raise self.node.error(f"expected a min_size of 1 pixel at least; found {smallest or 'none'}")
        if largest and len(largest) != len(smallest):
            raise self.node.error(f"expected as many max_size as min_size ({len(smallest)}); found {len(largest)}")
        if any(not small < large for small, large in zip(smallest, largest, strict=False)):
            raise self.node.error(f"each max_size is greater than its min_size; found {largest} and {smallest}")
        sizes = []
        for i, small in enumerate(map(int, smallest)):
            sides = [small, math.sqrt(small * int(largest[i]))] if largest else [small]
            sizes += [(side, side) for side in sides]
            sizes += [(small * math.sqrt(ratio), small / math.sqrt(ratio)) for ratio in self._ratios()]
        return sizes

    def _ratios(self) -> list[float]:
        """The aspect ratios beside 1, each once."""
        ratios = [1.0]
        for ratio in self.p.aspect_ratio:
            if not ratio > 0:
                raise self.node.error(f"aspect_ratio is positive; found {ratio:g}")
            if all(abs(ratio - other) >= 1e-6 for other in ratios):
                ratios += [ratio, 1 / ratio] if self.p.flip else [ratio]
        return ratios[1:]


@built_in("PriorBoxClustered")
class PriorBoxClustered(_Priors):
    """Default boxes around each cell of a map, of the sizes that ``width`` and ``height`` list, in pixels.

    Shapes and other settings as PriorBox. Source: ``prior_box_clustered_layer.cpp`` of OpenVINO's training toolbox,
    which reads past the end of a missing height.
    """

    others = ("min_size", "max_size", "aspect_ratio", "flip")

    def sizes(self) -> list[tuple[float, float]]:
        widths, heights = list(self.p.width), list(self.p.height)
        if not widths or len(widths) != len(heights):
            raise self.node.error(f"expected as many height as width, one at least; found {len(heights)} and "
                                  f"{len(widths)}")
        if min(*widths, *heights) <= 0:
            raise self.node.error(f"width and height are positive; found {widths} and {heights}")
        return list(zip(widths, heights, strict=True))


@built_in("DetectionOutput")
class DetectionOutput(Layer):
    """Detected objects, from offsets, scores and prior boxes: decoding, non-maximum suppression, the best of all.

    Shapes: offsets (N, P * 4) (P * classes * 4 without ``share_location``), scores (N, P * classes), priors
    (1, 2, P * 4) -> (1, 1, N * K, 7), rows of image, label, score, xmin, ymin, xmax, ymax.
    For each class but ``background_label_id``: of the scores above ``confidence_threshold`` the ``nms_param.top_k``
    best, from the best down, each kept when it overlaps (intersection over union) none kept before by more than
    ``nms_threshold``. Then the ``keep_top_k`` best of each image, in the order of labels and within a label from
    the best down.
    Sizes are fixed, so K is ``keep_top_k`` (-1: what NMS can leave, classes * top_k), image i has the rows from
    i * K on, and rows without a detection, at the end of each image's, hold -1 in all places. Has no gradient.
    Source: SSD's ``detection_output_layer.cpp``, ``bbox_util.cpp``; there the top has as many rows as detections.
    Of equal scores the lower label and then the earlier prior goes first. What writes files and pictures
    (``save_output_param``, ``visualize``, ``save_file``) is ignored.
    """

    bottoms = (3, 3)
    constant_bottoms = (0, 1, 2)
    constant_tops = (0,)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        offsets, scores, priors = bottoms
        p, nms, error = self.p, self.p.nms_param, self.node.error
        count = prior_count(self, priors, p.variance_encoded_in_target)
        if self._classes() < 1:
            raise error(f"expected num_classes, one at least beside the background; found {p.num_classes}")
        check_predictions(self, offsets, scores, count)
        if p.keep_top_k == 0 or p.keep_top_k < -1:
            raise error(f"keep_top_k is positive, or -1 for all; found {p.keep_top_k}")
        if nms.HasField("top_k") and (nms.top_k == 0 or nms.top_k < -1):
            raise error(f"top_k is positive, or -1 for all; found {nms.top_k}")
        if not nms.nms_threshold >= 0:
            raise error(f"nms_threshold is not negative; found {nms.nms_threshold:g}")
        if not 0 < nms.eta <= 1:
            raise error(f"eta is above 0 and at most 1; found {nms.eta:g}")
        return [(1, 1, offsets[0] * self._rows(count), 7)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        offsets, scores, priors = (lax.stop_gradient(x) for x in bottoms)
        p, batch = self.p, scores.shape[0]
        prior, variance = split_priors(priors, p.variance_encoded_in_target)
        count = len(prior)
        labels = np.array([label for label in range(p.num_classes) if label != p.background_label_id])

        every = scores.reshape(batch, count, -1)[..., labels].swapaxes(1, 2)  # (N, classes, P)
        least = p.confidence_threshold if p.HasField("confidence_threshold") else -np.inf
        every = jnp.where(every > least, every, -jnp.inf)
        score, place = top_k(every, self._candidates(count))
        offsets = offsets.reshape(batch, count, -1, 4)
        if p.share_location:
            boxes = decode(p.code_type, prior, variance, offsets[:, :, 0])[:, None]
        else:
            boxes = decode(p.code_type, prior[:, None], variance[:, None], offsets[:, :, labels]).swapaxes(1, 2)
        boxes = jnp.take_along_axis(boxes, place[..., None], 2)

        kept = suppress(boxes, (score > -jnp.inf).sum(-1), p.nms_param.nms_threshold, p.nms_param.eta)
        label = jnp.broadcast_to(jnp.asarray(labels, scores.dtype)[:, None], score.shape)
        image = jnp.broadcast_to(jnp.arange(batch, dtype=scores.dtype)[:, None, None], score.shape)
        rows = jnp.concatenate([jnp.stack([image, label, score], -1), boxes], -1).reshape(batch, -1, 7)
        return [self._best(rows, kept.reshape(batch, -1), count)]

    def _best(self, rows: Array, kept: Array, count: int) -> Array:
        """Of rows in the order of label and rank (N, M, 7) the best that were kept, in that order: the top."""
        wanted = self._rows(count)
        most = min(wanted, rows.shape[1])
        best, chosen = top_k(jnp.where(kept, rows[..., 2], -jnp.inf), most)
        chosen = jnp.where(best > -jnp.inf, chosen, rows.shape[1]).sort(-1)
        rows = jnp.take_along_axis(rows, chosen[..., None], 1, mode="fill", fill_value=-1)
        rows = jnp.pad(rows, [(0, 0), (0, wanted - most), (0, 0)], constant_values=-1)
        return rows.reshape(1, 1, -1, 7)

    def _classes(self) -> int:
        """Classes beside the background."""
        return int(self.p.num_classes - (0 <= self.p.background_label_id < self.p.num_classes))

    def _candidates(self, count: int) -> int:
        """Boxes of a class that enter NMS."""
        top_k = self.p.nms_param.top_k if self.p.nms_param.HasField("top_k") else -1
        return count if top_k == -1 else min(top_k, count)

    def _rows(self, count: int) -> int:
        """Rows of an image in the top."""
        return self.p.keep_top_k if self.p.keep_top_k > 0 else self._classes() * self._candidates(count)

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Decoding, and NMS as if no box were dropped before it."""
        candidates = self._candidates(math.prod(bottoms[2][2:]) // 4)
        return 10 * math.prod(bottoms[0]) + 15 * bottoms[0][0] * self._classes() * candidates**2


def prior_count(layer: Layer, priors: Shape, encoded: bool = False) -> int:
    """How many boxes a blob of priors (1, 2, P * 4) has, (1, 1, P * 4) too where the targets have the variances in.

    Raises:
        SpecError: the blob has another shape.
    """
    rows = priors[1] if len(priors) > 1 else 0
    if priors[:1] != (1,) or rows not in ((1, 2) if encoded else (2,)) or math.prod(priors[2:]) % 4:
        raise layer.node.error(f"expected priors of shape (1, 2, 4 * boxes); found {priors}")
    return math.prod(priors[2:]) // 4


def check_predictions(layer: Layer, offsets: Shape, scores: Shape, count: int) -> None:
    """Refuse offsets and scores that are not those of ``count`` priors and ``num_classes``."""
    p = layer.p
    boxes = count * (1 if p.share_location else p.num_classes)
    if len(offsets) < 2 or math.prod(offsets[1:]) != boxes * 4:
        raise layer.node.error(f"expected offsets of shape (N, {boxes * 4}), 4 for each of {boxes} boxes; "
                               f"found {offsets}")
    if scores[:1] != offsets[:1] or math.prod(scores[1:]) != count * p.num_classes:
        raise layer.node.error(f"expected scores of shape {(offsets[0], count * p.num_classes)}, {p.num_classes} for "
                               f"each of {count} priors; found {scores}")


def split_priors(priors: Array, encoded: bool) -> tuple[Array, Array]:
    """Boxes and variances, (P, 4) each; variances of 1 where the targets have them in."""
    prior, *variance = priors.reshape(priors.shape[1], -1, 4)
    return prior, jnp.ones_like(prior) if encoded else variance[0]
