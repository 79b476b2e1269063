"""Nets for tests: layers of the detection forks."""

from __future__ import annotations

import numpy as np

from tests.nets.case import Case, X, Y, input_layer, one

IMAGE = input_layer("image", 2, 3, 43, 31)
# Image, x1, y1, x2, y2: inside the map, of one cell, over its border, and turned around.
REGIONS = np.array([[0, 1.5, 2, 7, 9], [1, 4, 4, 4, 4], [1, -3, 6, 30, 40], [0, 6, 5, 2, 1]])


def priors(count: int, seed: int = 0) -> np.ndarray:
    """(1, 2, count * 4): boxes of different sizes in the unit square, and variances as SSD has them."""
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 0.6, (count, 2)), random.uniform(0.1, 0.4, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1)
    return np.stack([boxes.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], count)])[None]

# Image, label, instance, xmin, ymin, xmax, ymax, difficult; a row of image -1 does not count.
TRUTH = np.array([
    [0, 1, 0, 0.1, 0.1, 0.5, 0.4, 0], [1, 2, 0, 0.3, 0.2, 0.6, 0.7, 0], [0, 2, 1, 0.4, 0.4, 0.9, 0.8, 0],
    [-1] * 8, [1, 1, 0, 0.1, 0.1, 0.8, 0.8, 0],
])[None, None]


NETS = {
    "prior_box": Case(
        one("PriorBox", "prior_box_param { min_size: 3 min_size: 5 max_size: 7 max_size: 11 aspect_ratio: 2 "
            "aspect_ratio: 3 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", "x image", inputs=X + IMAGE),
        no_gradient=("t",),
    ),
    "prior_box_clustered": Case(
        one("PriorBoxClustered", "prior_box_param { width: 3 width: 5.5 height: 7 height: 2.5 clip: true step: 6 }",
            "x image", inputs=X + IMAGE),
        no_gradient=("t",),
    ),
    "detection_output": Case(
        one("DetectionOutput", "detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 7 "
            "confidence_threshold: 0.12 nms_param { nms_threshold: 0.2 top_k: 5 } }", "l s p",
            inputs=input_layer("l", 2, 44) + input_layer("s", 2, 33) + input_layer("p", 1, 2, 44)),
        no_gradient=("t",), values={"p": priors(11)},
    ),
    "multibox_loss": Case(
        one("MultiBoxLoss", "multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE overlap_threshold: 0.3 "
            "neg_overlap: 0.3 neg_pos_ratio: 1.5 }", "l s p g",
            inputs=input_layer("l", 2, 44) + input_layer("s", 2, 33) + input_layer("p", 1, 2, 44)
            + input_layer("g", 1, 1, 5, 8)),
        fixed=("p", "g"), values={"p": priors(11), "g": TRUTH},
    ),
    "correlation": Case(
        one("Correlation", "correlation_param { kernel_size: 3 max_displacement: 2 pad: 2 stride_1: 2 stride_2: 2 }",
            "x y", inputs=X + Y),
    ),
    "roi_pooling": Case(
        one("ROIPooling", "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 }", "x r",
            inputs=X + input_layer("r", 4, 5)),
        fixed=("r",), values={"r": REGIONS},
    ),
    "psroi_pooling": Case(
        one("PSROIPooling", "psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.5 }", "x r",
            inputs=input_layer("x", 2, 12, 7, 5) + input_layer("r", 4, 5)),
        fixed=("r",), values={"r": REGIONS},
    ),
}
