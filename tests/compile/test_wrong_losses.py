"""Wrong declarations of losses, and the exact message that each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer

# On the first line of every net.
INPUTS = input_layer("x", 3, 5).rstrip() + input_layer("y", 3).rstrip() + input_layer("z", 3, 7).rstrip() + \
    input_layer("w", 2, 5)

# name: (type and settings of a layer, its bottoms, message)
WRONG = {
    "hinge_labels": ("HingeLoss", "", "x z", "expected one label for each of 3 predictions (3,); found 21 labels "
                     "(3, 7)"),
    "hinge_batch": ("HingeLoss", "", "x w", "bottoms have one first axis (the batch); found (3, 5) and (2, 5)"),
    "hinge_param": ("HingeLoss", "contrastive_loss_param { margin: 2 }", "x y",
                    "HingeLoss does not read contrastive_loss_param; expected hinge_loss_param"),
    "multinomial_bottoms": ("MultinomialLogisticLoss", "", "x", "MultinomialLogisticLoss takes 2 bottoms; found 1 (x)"),
    "infogain_axis": ("InfogainLoss", "infogain_loss_param { axis: 2 }", "x y x",
                      "axis 2 is out of range for a blob of 2 axes; expected -2 to 1"),
    "infogain_normalize": ("InfogainLoss", "loss_param { normalize: true }", "x y x",
                           "InfogainLoss does not read loss_param.normalize; expected normalization"),
    "infogain_matrix": ("InfogainLoss", "", "x y z", "expected an infogain matrix of 5 x 5 values; found (3, 7)"),
    "infogain_none": ("InfogainLoss", "", "x y", "expected the infogain matrix as third bottom or in "
                      "infogain_loss_param.source; found neither"),
    "contrastive_count": ("ContrastiveLoss", "", "x z y", "the first two bottoms have one count; found (3, 5) and "
                          "(3, 7)"),
    "contrastive_labels": ("ContrastiveLoss", "", "x x z", "expected one similarity for each of 3 pairs; found 21, "
                           "(3, 7)"),
    "contrastive_margin": ("ContrastiveLoss", "contrastive_loss_param { margin: nan }", "x x y",
                           "margin is a finite number; found nan"),
    "smooth_l1_count": ("SmoothL1Loss", "", "x x z", "bottoms have one count; found (3, 5), (3, 5), (3, 7)"),
    "smooth_l1_sigma": ("SmoothL1Loss", "smooth_l1_loss_param { sigma: 0 }", "x x", "sigma is positive; found 0"),
    "smooth_l1_infinite": ("SmoothL1Loss", "smooth_l1_loss_param { sigma: inf }", "x x",
                           "sigma is a finite number; found inf"),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    kind, settings, bottoms, message = WRONG[name]
    blobs = "".join(f'bottom: "{blob}" ' for blob in bottoms.split())
    path = tmp_path / "net.prototxt"
    path.write_text(INPUTS + f'layer {{ name: "l" type: "{kind}" {blobs}top: "t" {settings} }}\n')
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == f"layer 'l' (net.prototxt:2): {message}"
