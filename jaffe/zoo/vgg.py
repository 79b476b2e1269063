"""VGG-16 and VGG-19. Source: Simonyan and Zisserman 2014 (arXiv 1409.1556)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, classify, images, relu

_INPUT = "224x224, BGR, 0 to 255 less 103.939, 116.779, 123.68"
# The authors began from a smaller net that was trained before; He et al.'s filler needs none.
_FILLED: dict[str, Any] = {"param": learned(), "weight_filler": MSRA}


@published(
    title="VGG-16", task="classification",
    paper="Simonyan, Zisserman 2014 (arXiv 1409.1556), configuration D; VGG_ILSVRC_16_layers", input=_INPUT,
    accuracy=[Figure("73.0 % top-1, 91.2 % top-5", "ImageNet, images of 256, all places; the paper")],
    params=Figure("138,357,544", "torchvision 0.24"), multiply_adds=Figure("15.47 G", "torchvision 0.24"),
)
def vgg16(
    *, classes: int = 1000, batch: int = 64, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """VGG-16: 13 convolutions of 3x3 and three inner products.

    Args:
        transform: fields of ``transform_param``; the original subtracts a mean for each channel, crops and mirrors.
    """
    return _vgg("VGG_ILSVRC_16_layers", (2, 2, 3, 3, 3), classes, batch, test_batch, transform)


@published(
    title="VGG-19", task="classification",
    paper="Simonyan, Zisserman 2014 (arXiv 1409.1556), configuration E; VGG_ILSVRC_19_layers", input=_INPUT,
    accuracy=[Figure("92.0 % top-5", "ImageNet, images of 384, all places; the authors' VGG_ILSVRC_19_layers")],
    params=Figure("143,667,240", "torchvision 0.24"), multiply_adds=Figure("19.632 G", "torchvision 0.24"),
)
def vgg19(
    *, classes: int = 1000, batch: int = 64, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """VGG-19: 16 convolutions of 3x3 and three inner products.

    Args:
        transform: fields of ``transform_param``; the original subtracts a mean for each channel, crops and mirrors.
    """
    return _vgg("VGG_ILSVRC_19_layers", (2, 2, 4, 4, 4), classes, batch, test_batch, transform)


def _vgg(
    name: str, stages: Sequence[int], classes: int, batch: int, test_batch: int, transform: Mapping[str, Any] | None
) -> NetSpec:
    n = NetSpec(name)
    images(n, (3, 224, 224), batch, test_batch, transform)
    x = vgg_convolutions(n, n.data, stages)
    for i in (6, 7):
        x = relu(n, f"fc{i}", L.InnerProduct(x, num_output=4096, **_FILLED), f"relu{i}")
        n[f"drop{i}"] = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.fc8 = L.InnerProduct(x, num_output=classes, **_FILLED)
    classify(n, n.fc8)
    return n


def vgg_convolutions(n: NetSpec, x: Top, stages: Sequence[int] = (2, 2, 3, 3, 3), first_pad: int = 1) -> Top:
    """The layers from images to pool5, (N, 3, H, W) -> (N, 512, H / 32, W / 32).

    Args:
        stages: how many convolutions each has.
        first_pad: of conv1_1; fully convolutional nets have 100.
    """
    for stage, (convolutions, width) in enumerate(zip(stages, (64, 128, 256, 512, 512), strict=True), 1):
        for i in range(1, convolutions + 1):
            pad = first_pad if stage == i == 1 else 1
            convolution = L.Convolution(x, num_output=width, kernel_size=3, pad=pad, **_FILLED)
            x = relu(n, f"conv{stage}_{i}", convolution, f"relu{stage}_{i}")
        n[f"pool{stage}"] = x = max_pool(x, kernel_size=2)
    return x
