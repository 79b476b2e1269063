"""Wrong declarations of the detection forks' layers, and the exact message that each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer

SIZES = {"x": (2, 12, 7, 5), "y": (2, 3), "l": (2, 44), "s": (2, 33), "p": (1, 2, 44), "r": (3, 5), "q": (3, 4),
         "g": (1, 1, 5, 8)}
# On the first line of every net.
INPUTS = "".join(input_layer(name, *dims).rstrip() for name, dims in SIZES.items()) + "\n"

# name: (type, settings without their field, bottoms, message)
WRONG = {
    "prior_box_map": ("PriorBox", "min_size: 3", "y x", "expected a map of 4 axes (N, C, H, W); found (2, 3)"),
    "prior_box_image": ("PriorBox", "min_size: 3", "x y", "expected an image of 4 axes (N, C, H, W); found (2, 3)"),
    "prior_box_bottoms": ("PriorBox", "min_size: 3", "x", "PriorBox takes 2 bottoms; found 1 (x)"),
    "prior_box_no_size": ("PriorBox", "", "x x", "expected a min_size of 1 pixel at least; found none"),
    "prior_box_small": ("PriorBox", "min_size: 0.5", "x x", "expected a min_size of 1 pixel at least; found [0.5]"),
    "prior_box_max_count": ("PriorBox", "min_size: 3 min_size: 5 max_size: 7", "x x",
                            "expected as many max_size as min_size (2); found 1"),
    "prior_box_max": ("PriorBox", "min_size: 3 max_size: 3", "x x",
                      "each max_size is greater than its min_size; found [3.0] and [3.0]"),
    "prior_box_ratio": ("PriorBox", "min_size: 3 aspect_ratio: 0", "x x", "aspect_ratio is positive; found 0"),
    "prior_box_variance": ("PriorBox", "min_size: 3 variance: 0.5 variance: 0.25", "x x",
                           "expected one positive variance or four; found [0.5, 0.25]"),
    "prior_box_img": ("PriorBox", "min_size: 3 img_size: 3 img_w: 3", "x x",
                      "expected img_size, or img_h and img_w; found both"),
    "prior_box_img_w": ("PriorBox", "min_size: 3 img_w: 3", "x x",
                        "the image's height and width are positive; found (0, 3)"),
    "prior_box_step": ("PriorBox", "min_size: 3 step: 3 step_w: 3", "x x",
                       "expected step, or step_h and step_w; found both"),
    "prior_box_step_w": ("PriorBox", "min_size: 3 step_w: 3", "x x", "steps are positive; found (0.0, 3.0)"),
    "prior_box_width": ("PriorBox", "min_size: 3 width: 3", "x x", "PriorBox does not read width"),
    "clustered_min": ("PriorBoxClustered", "width: 3 height: 3 min_size: 3", "x x",
                      "PriorBoxClustered does not read min_size"),
    "clustered_ratio": ("PriorBoxClustered", "width: 3 height: 3 aspect_ratio: 3", "x x",
                        "PriorBoxClustered does not read aspect_ratio"),
    "clustered_flip": ("PriorBoxClustered", "width: 3 height: 3 flip: true", "x x",
                       "PriorBoxClustered does not read flip"),
    "clustered_none": ("PriorBoxClustered", "", "x x",
                       "expected as many height as width, one at least; found 0 and 0"),
    "clustered_count": ("PriorBoxClustered", "width: 3 width: 5 height: 3", "x x",
                        "expected as many height as width, one at least; found 1 and 2"),
    "clustered_zero": ("PriorBoxClustered", "width: 3 height: 0", "x x",
                       "width and height are positive; found [3.0] and [0.0]"),
    "detection_classes": ("DetectionOutput", "", "l s p",
                          "expected num_classes, one at least beside the background; found 0"),
    "detection_background": ("DetectionOutput", "num_classes: 1", "l s p",
                             "expected num_classes, one at least beside the background; found 1"),
    "detection_priors": ("DetectionOutput", "num_classes: 3", "l s y",
                         "expected priors of shape (1, 2, 4 * boxes); found (2, 3)"),
    "detection_offsets": ("DetectionOutput", "num_classes: 3", "s s p",
                          "expected offsets of shape (N, 44), 4 for each of 11 boxes; found (2, 33)"),
    "detection_own": ("DetectionOutput", "num_classes: 3 share_location: false", "l s p",
                      "expected offsets of shape (N, 132), 4 for each of 33 boxes; found (2, 44)"),
    "detection_scores": ("DetectionOutput", "num_classes: 2", "l s p",
                         "expected scores of shape (2, 22), 2 for each of 11 priors; found (2, 33)"),
    "detection_many": ("DetectionOutput", "num_classes: 4294967295", "l s p",
                       "expected scores of shape (2, 47244640245), 4294967295 for each of 11 priors; found (2, 33)"),
    "detection_keep": ("DetectionOutput", "num_classes: 3 keep_top_k: 0", "l s p",
                       "keep_top_k is positive, or -1 for all; found 0"),
    "detection_top_k": ("DetectionOutput", "num_classes: 3 nms_param { top_k: -2 }", "l s p",
                        "top_k is positive, or -1 for all; found -2"),
    "detection_threshold": ("DetectionOutput", "num_classes: 3 nms_param { nms_threshold: -0.5 }", "l s p",
                            "nms_threshold is not negative; found -0.5"),
    "detection_eta": ("DetectionOutput", "num_classes: 3 nms_param { eta: 0 }", "l s p",
                      "eta is above 0 and at most 1; found 0"),
    "multibox_location": ("MultiBoxLoss", "num_classes: 3 share_location: false", "l s p g",
                          "expected share_location: true; found false, which is not implemented"),
    "multibox_mining": ("MultiBoxLoss", "num_classes: 3 mining_type: HARD_EXAMPLE", "l s p g",
                        "expected mining_type MAX_NEGATIVE or NONE; found HARD_EXAMPLE, which is not implemented"),
    "multibox_nms": ("MultiBoxLoss", "num_classes: 3 nms_param { top_k: 3 }", "l s p g",
                     "nms_param, NMS before mining, is not implemented; expected none"),
    "multibox_use_nms": ("MultiBoxLoss", "num_classes: 3 use_prior_for_nms: true", "l s p g",
                         "use_prior_for_nms, NMS before mining, is not implemented; expected none"),
    "multibox_sample": ("MultiBoxLoss", "num_classes: 3 sample_size: -3", "l s p g",
                        "sample_size is positive; found -3"),
    "multibox_do": ("MultiBoxLoss", "num_classes: 3 do_neg_mining: false", "l s p g",
                    "do_neg_mining is the old name of mining_type; found them to disagree"),
    "multibox_classes": ("MultiBoxLoss", "num_classes: 3 background_label_id: 3", "l s p g",
                         "expected num_classes above background_label_id 3; found 3"),
    "multibox_agnostic": ("MultiBoxLoss", "num_classes: 3 map_object_to_agnostic: true", "l s p g",
                          "map_object_to_agnostic needs 2 classes, background_label_id 0; found 3 and 0"),
    "multibox_scores": ("MultiBoxLoss", "num_classes: 4", "l s p g",
                        "expected scores of shape (2, 44), 4 for each of 11 priors; found (2, 33)"),
    "multibox_truth": ("MultiBoxLoss", "num_classes: 3", "l s p r",
                       "expected true boxes of shape (1, 1, G, 8); found (3, 5)"),
    "correlation_shapes": ("Correlation", "kernel_size: 1 max_displacement: 1", "x y",
                           "expected two maps of one shape (N, C, H, W); found (2, 12, 7, 5) and (2, 3)"),
    "correlation_kernel": ("Correlation", "kernel_size: 2 max_displacement: 1", "x x", "kernel_size is odd; found 2"),
    "correlation_displacement": ("Correlation", "kernel_size: 1", "x x", "expected max_displacement; found none"),
    "correlation_stride": ("Correlation", "kernel_size: 1 max_displacement: 1 stride_2: 0", "x x",
                           "stride_1 and stride_2 are positive; found 1 and 0"),
    "correlation_abs": ("Correlation", "kernel_size: 1 max_displacement: 1 do_abs: true", "x x",
                        "do_abs and single_direction are not implemented; expected neither"),
    "correlation_fit": ("Correlation", "kernel_size: 3 max_displacement: 3 pad: 1", "x x",
                        "kernel_size 3 and max_displacement 3 with pad 1 do not fit an input of (7, 5)"),
    "correlation_huge": ("Correlation", "kernel_size: 1 max_displacement: 4000000000", "x x",
                         "kernel_size 1 and max_displacement 4000000000 with pad 0 do not fit an input of (7, 5)"),
    "correlation_channels": ("Correlation", "kernel_size: 1 max_displacement: 4000000000 pad: 4000000000", "x x",
                             f"pad 4000000000 makes maps of {24 * 8000000007 * 8000000005} values; expected at most "
                             "2147483647"),
    "correlation_pad": ("Correlation", "kernel_size: 1 max_displacement: 0 pad: 4000000000 stride_1: 4294967295",
                        "x x", f"pad 4000000000 makes maps of {24 * 8000000007 * 8000000005} values; expected at most "
                        "2147483647"),
    "roi_map": ("ROIPooling", "pooled_h: 3 pooled_w: 3", "y r",
                "expected a map of 4 axes (N, C, H, W); found (2, 3)"),
    "roi_regions": ("ROIPooling", "pooled_h: 3 pooled_w: 3", "x q",
                    "expected regions of shape (R, 5): image, x1, y1, x2, y2; found (3, 4)"),
    "roi_size": ("ROIPooling", "pooled_h: 3", "x r", "pooled_h and pooled_w are positive; found 3 and 0"),
    "psroi_scale": ("PSROIPooling", "output_dim: 3 group_size: 2", "x r", "spatial_scale is positive; found 0"),
    "psroi_size": ("PSROIPooling", "output_dim: 3 spatial_scale: 0.5", "x r",
                   "group_size and output_dim are positive; found 0 and 3"),
    "psroi_channels": ("PSROIPooling", "output_dim: 3 group_size: 3 spatial_scale: 0.5", "x r",
                       "expected 27 channels, output_dim times group_size squared; found 12"),
    "prior_box_min_inf": ("PriorBox", "min_size: inf", "x x",
                          "min_size is a finite number; found inf"),
    "prior_box_min_nan": ("PriorBox", "min_size: 3 min_size: nan", "x x",
                          "min_size is a finite number; found nan"),
    "prior_box_max_inf": ("PriorBox", "min_size: 3 max_size: inf", "x x",
                          "max_size is a finite number; found inf"),
    "prior_box_ratio_inf": ("PriorBox", "min_size: 3 aspect_ratio: inf", "x x",
                            "aspect_ratio is a finite number; found inf"),
    "prior_box_offset_nan": ("PriorBox", "min_size: 3 offset: nan", "x x",
                             "offset is a finite number; found nan"),
    "prior_box_step_inf": ("PriorBox", "min_size: 3 step: inf", "x x",
                           "step is a finite number; found inf"),
    "prior_box_variance_inf": ("PriorBox", "min_size: 3 variance: inf", "x x",
                               "variance is a finite number; found inf"),
    "clustered_nan": ("PriorBoxClustered", "width: nan height: 3", "x x",
                      "width is a finite number; found nan"),
    "clustered_inf": ("PriorBoxClustered", "width: 3 height: inf", "x x",
                      "height is a finite number; found inf"),
    "detection_confidence": ("DetectionOutput", "num_classes: 3 confidence_threshold: nan", "l s p",
                             "confidence_threshold is a finite number; found nan"),
    "multibox_ratio": ("MultiBoxLoss", "num_classes: 3 neg_pos_ratio: nan", "l s p g",
                       "neg_pos_ratio is a finite number; found nan"),
    "multibox_overlap": ("MultiBoxLoss", "num_classes: 3 overlap_threshold: nan", "l s p g",
                         "overlap_threshold is a finite number; found nan"),
    "multibox_neg_overlap": ("MultiBoxLoss", "num_classes: 3 neg_overlap: nan", "l s p g",
                             "neg_overlap is a finite number; found nan"),
    "multibox_weight": ("MultiBoxLoss", "num_classes: 3 loc_weight: inf", "l s p g",
                        "loc_weight is a finite number; found inf"),
    "roi_scale_inf": ("ROIPooling", "pooled_h: 3 pooled_w: 3 spatial_scale: inf", "x r",
                      "spatial_scale is a finite number; found inf"),
}
FIELDS = {
    "PriorBox": "prior_box_param",
    "PriorBoxClustered": "prior_box_param",
    "DetectionOutput": "detection_output_param",
    "Correlation": "correlation_param",
    "MultiBoxLoss": "multibox_loss_param",
    "ROIPooling": "roi_pooling_param",
    "PSROIPooling": "psroi_pooling_param",
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    kind, settings, bottoms, message = WRONG[name]
    blobs = "".join(f'bottom: "{blob}" ' for blob in bottoms.split())
    path = tmp_path / "net.prototxt"
    path.write_text(INPUTS + f'layer {{ name: "d" type: "{kind}" {blobs}top: "t" {FIELDS[kind]} {{ {settings} }} }}\n')
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == f"layer 'd' (net.prototxt:2): {message}"
