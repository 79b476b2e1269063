"""Recipes on scenes of coloured shapes: a class, a depth or a box for what is in a picture."""

from __future__ import annotations

from typing import Any

from jaffe.zoo import detection, segmentation, unet
from jaffe.zoo.detection import BoxMap
from jaffe.zoo.recipes.base import Recipe, entered

_PIXELS = {"scale": 1 / 256}
_SIZE = (3, 64, 64)
_CLASSES = 4  # with the background


def _adam(iterations: int) -> dict[str, Any]:
    return dict(
        type="Adam", base_lr=0.003, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="cosine",
        max_iter=iterations, test_iter=[8], test_interval=iterations // 4, test_initialization=False, display=50,
        average_loss=20, random_seed=1,
    )


@entered
def _unet_shapes() -> Recipe:
    return Recipe(
        "unet_shapes",
        unet.unet(classes=_CLASSES, shape=_SIZE, width=8, depth=3, padded=True, normalised=True, dropout=0, batch=16,
                  test_batch=50, transform=_PIXELS),
        _adam(1200), "made:shapes",
        "a small U-Net that finds circles, squares and triangles pixel by pixel; mean IoU 90 %",
    )


@entered
def _fcn_shapes() -> Recipe:
    return Recipe(
        "fcn_shapes",
        segmentation.small_fcn(classes=_CLASSES, shape=_SIZE, batch=16, test_batch=50, transform=_PIXELS),
        _adam(1400), "made:shapes",
        "a small fully convolutional net with scores of every pool, on the same; mean IoU 88 %",
    )


@entered
def _segnet_shapes() -> Recipe:
    return Recipe(
        "segnet_shapes",
        segmentation.segnet(classes=_CLASSES, shape=_SIZE, widths=(16, 32, 64), convolutions=(2, 2, 2), batch=16,
                            ignore_label=None, test_batch=50, transform=_PIXELS),
        _adam(700), "made:shapes", "a small SegNet, on the same; mean IoU 90 %",
    )


@entered
def _ssd_shapes() -> Recipe:
    maps = (BoxMap("conv3_2", 11, 18), BoxMap("conv4_2", 20, 28), BoxMap("conv5_2", 32, 44))
    return Recipe(
        "ssd_shapes",
        detection.small_ssd(classes=_CLASSES, objects=4, shape=_SIZE, widths=(16, 32, 48, 64, 64), maps=maps, batch=16,
                            test_batch=50, transform=_PIXELS),
        _adam(900) | dict(test_state=[{"stage": [detection.LOSS_ONLY]}]),
        "made:shapes?data=data&label=boxes", "a small SSD that draws boxes around the shapes; mAP 99 %",
        measure="mbox_loss", higher=False,
    )


@entered
def _depth_shapes() -> Recipe:
    return Recipe(
        "depth_shapes", unet.depth_unet(width=8, transform=_PIXELS), _adam(1000), "made:shapes",
        "how far away each pixel is, by a small U-Net; 4 % off, where the mean of all scenes is 8 % off",
        measure="relative_error", higher=False,
    )
