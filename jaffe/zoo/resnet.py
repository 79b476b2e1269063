"""Residual nets. Source: He et al. 2015 (arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, XAVIER, classify, conv_bn, global_pool, images, relu

_PAPER = "He et al. 2015 (arXiv 1512.03385)"
_AUTHORS = f"{_PAPER}; the authors' deep-residual-networks"
_CROP = "ImageNet, centre crop; the authors' deep-residual-networks"
_INPUT = "224x224, BGR, 0 to 255 less the mean image"
_CIFAR = "32x32, RGB, 0 to 255 less the mean image"


@published(
    title="ResNet-18", task="classification", paper=_PAPER, input=_INPUT,
    accuracy=[Figure("69.76 % top-1, 89.08 % top-5", "ImageNet, centre crop; torchvision 0.24")],
    params=Figure("11,689,512", "torchvision 0.24"), multiply_adds=Figure("1.814 G", "torchvision 0.24"),
)
def resnet18(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-18: residual blocks of two 3x3 convolutions, with identity shortcuts where the sizes are equal.

    Args:
        transform: fields of ``transform_param``.
    """
    return _resnet("ResNet-18", (2, 2, 2, 2), _basic, classes, batch, test_batch, transform)


@published(
    title="ResNet-34", task="classification", paper=_PAPER, input=_INPUT,
    accuracy=[Figure("73.31 % top-1, 91.42 % top-5", "ImageNet, centre crop; torchvision 0.24")],
    params=Figure("21,797,672", "torchvision 0.24"), multiply_adds=Figure("3.664 G", "torchvision 0.24"),
)
def resnet34(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-34: residual blocks of two 3x3 convolutions, with identity shortcuts where the sizes are equal.

    Args:
        transform: fields of ``transform_param``.
    """
    return _resnet("ResNet-34", (3, 4, 6, 3), _basic, classes, batch, test_batch, transform)


@published(
    title="ResNet-50", task="classification", paper=_AUTHORS, input=_INPUT,
    accuracy=[Figure("75.3 % top-1, 92.2 % top-5", _CROP)],
    params=Figure("25,557,032", "torchvision 0.24", "the bias of the first convolution: 64"),
    multiply_adds=Figure("4.089 G", "torchvision 0.24",
                         "torchvision's halves the image in the 3x3 convolutions, not in the 1x1 before them"),
)
def resnet50(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-50: residual blocks of 1x1, 3x3 and 1x1 convolutions; the first convolution has a bias, as in the authors'
    file.

    Args:
        transform: fields of ``transform_param``.
    """
    return _resnet("ResNet-50", (3, 4, 6, 3), _bottleneck, classes, batch, test_batch, transform, bias=True)


@published(
    title="ResNet-101", task="classification", paper=_AUTHORS, input=_INPUT,
    accuracy=[Figure("76.4 % top-1, 92.9 % top-5", _CROP)],
    params=Figure("44,549,160", "torchvision 0.24"),
    multiply_adds=Figure("7.6 G", "megvii-model's ShuffleNet-Series, which says FLOPs"),
)
def resnet101(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-101: residual blocks of 1x1, 3x3 and 1x1 convolutions.

    Args:
        transform: fields of ``transform_param``.
    """
    return _resnet("ResNet-101", (3, 4, 23, 3), _bottleneck, classes, batch, test_batch, transform, numbered=True)


@published(
    title="ResNet-152", task="classification", paper=_AUTHORS, input=_INPUT,
    accuracy=[Figure("77.0 % top-1, 93.3 % top-5", _CROP)],
    params=Figure("60,192,808", "torchvision 0.24"),
    multiply_adds=Figure("11.3 G", "the paper, section 4.1, which says FLOPs"),
)
def resnet152(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-152: residual blocks of 1x1, 3x3 and 1x1 convolutions.

    Args:
        transform: fields of ``transform_param``.
    """
    return _resnet("ResNet-152", (3, 8, 36, 3), _bottleneck, classes, batch, test_batch, transform, numbered=True)


def _resnet(
    name: str, blocks: Sequence[int], residual: Callable[..., Top], classes: int, batch: int, test_batch: int,
    transform: Mapping[str, Any] | None, *, numbered: bool = False, bias: bool = False,
) -> NetSpec:
    """``blocks``: of each stage; ``numbered``: see ``_block``; ``bias``: the first convolution has one."""
    n = NetSpec(name)
    images(n, (3, 224, 224), batch, test_batch, transform)
    x = conv_bn(n, "conv1", "bn_conv1", "scale_conv1", n.data, 64, kernel_size=7, stride=2, pad=3, bias_term=bias)
    n.conv1_relu = L.ReLU(x, in_place=True)
    n.pool1 = x = max_pool(n.conv1_relu, kernel_size=3)
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 2):
        for i in range(count):
            x = residual(n, f"{stage}{_block(i, count, numbered)}", x, width, stage, first=i == 0)
    n.pool5 = global_pool(x)
    n.fc1000 = L.InnerProduct(n.pool5, num_output=classes, param=learned(lr=(1, 1)), weight_filler=XAVIER)
    classify(n, n.fc1000)
    return n


def _block(i: int, count: int, numbered: bool) -> str:
    """The authors' names: a, b, c, ...; in the longer stages of the deepest nets a, b1, b2, ..."""
    return f"b{i}" if numbered and count > 3 and i else ascii_lowercase[i]


def _convolution(n: NetSpec, block: str, bottom: Top, num_output: int, **settings: Any) -> Top:
    return conv_bn(n, f"res{block}", f"bn{block}", f"scale{block}", bottom, num_output, **settings)


def _basic(n: NetSpec, block: str, bottom: Top, width: int, stage: int, *, first: bool) -> Top:
    stride = 2 if first and stage > 2 else 1
    x = _convolution(n, f"{block}_branch2a", bottom, width, kernel_size=3, stride=stride, pad=1)
    n[f"res{block}_branch2a_relu"] = x = L.ReLU(x, in_place=True)
    x = _convolution(n, f"{block}_branch2b", x, width, kernel_size=3, pad=1)
    if first and stage > 2:
        bottom = _convolution(n, f"{block}_branch1", bottom, width, kernel_size=1, stride=stride)
    return relu(n, f"res{block}", L.Eltwise(bottom, x), f"res{block}_relu")


def _bottleneck(n: NetSpec, block: str, bottom: Top, width: int, stage: int, *, first: bool) -> Top:
    stride = 2 if first and stage > 2 else 1
    shortcut = bottom
    if first:
        shortcut = _convolution(n, f"{block}_branch1", bottom, 4 * width, kernel_size=1, stride=stride)
    x = _convolution(n, f"{block}_branch2a", bottom, width, kernel_size=1, stride=stride)
    n[f"res{block}_branch2a_relu"] = x = L.ReLU(x, in_place=True)
    x = _convolution(n, f"{block}_branch2b", x, width, kernel_size=3, pad=1)
    n[f"res{block}_branch2b_relu"] = x = L.ReLU(x, in_place=True)
    x = _convolution(n, f"{block}_branch2c", x, 4 * width, kernel_size=1)
    return relu(n, f"res{block}", L.Eltwise(shortcut, x), f"res{block}_relu")


@published(
    title="ResNet-20 (CIFAR)", task="classification", paper=_PAPER, input=_CIFAR,
    accuracy=[Figure("91.25 %", "CIFAR-10; the paper")], params=Figure("0.27 M", "the paper"),
)
def resnet20(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-20 for CIFAR-10: three stages of 3 blocks; shortcuts have no weights.

    Args:
        transform: fields of ``transform_param``; the original pads images by 4 pixels, crops and mirrors.
    """
    return _cifar_resnet(20, classes, batch, test_batch, transform)


@published(
    title="ResNet-32 (CIFAR)", task="classification", paper=_PAPER, input=_CIFAR,
    accuracy=[Figure("92.49 %", "CIFAR-10; the paper")], params=Figure("0.46 M", "the paper"),
)
def resnet32(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-32 for CIFAR-10: three stages of 5 blocks; shortcuts have no weights.

    Args:
        transform: fields of ``transform_param``; the original pads images by 4 pixels, crops and mirrors.
    """
    return _cifar_resnet(32, classes, batch, test_batch, transform)


@published(
    title="ResNet-44 (CIFAR)", task="classification", paper=_PAPER, input=_CIFAR,
    accuracy=[Figure("92.83 %", "CIFAR-10; the paper")], params=Figure("0.66 M", "the paper"),
)
def resnet44(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-44 for CIFAR-10: three stages of 7 blocks; shortcuts have no weights.

    Args:
        transform: fields of ``transform_param``; the original pads images by 4 pixels, crops and mirrors.
    """
    return _cifar_resnet(44, classes, batch, test_batch, transform)


@published(
    title="ResNet-56 (CIFAR)", task="classification", paper=_PAPER, input=_CIFAR,
    accuracy=[Figure("93.03 %", "CIFAR-10; the paper")], params=Figure("0.85 M", "the paper"),
)
def resnet56(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-56 for CIFAR-10: three stages of 9 blocks; shortcuts have no weights.

    Args:
        transform: fields of ``transform_param``; the original pads images by 4 pixels, crops and mirrors.
    """
    return _cifar_resnet(56, classes, batch, test_batch, transform)


@published(
    title="ResNet-110 (CIFAR)", task="classification", paper=_PAPER, input=_CIFAR,
    accuracy=[Figure("93.57 %", "CIFAR-10; the paper")], params=Figure("1.7 M", "the paper"),
)
def resnet110(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-110 for CIFAR-10: three stages of 18 blocks; shortcuts have no weights.

    Args:
        transform: fields of ``transform_param``; the original pads images by 4 pixels, crops and mirrors.
    """
    return _cifar_resnet(110, classes, batch, test_batch, transform)


def _cifar_resnet(
    depth: int, classes: int, batch: int, test_batch: int, transform: Mapping[str, Any] | None
) -> NetSpec:
    n = NetSpec(f"ResNet-{depth}")
    images(n, (3, 32, 32), batch, test_batch, transform)

    def convolution(name: str, bottom: Top, width: int, stride: int = 1) -> Top:
        return conv_bn(n, name, f"{name}/bn", f"{name}/scale", bottom, width, kernel_size=3, pad=1, stride=stride)

    n["conv1/relu"] = x = L.ReLU(convolution("conv1", n.data, 16), in_place=True)
    for stage, width in zip((2, 3, 4), (16, 32, 64), strict=True):
        for i in range(1, (depth - 2) // 6 + 1):
            block = f"res{stage}_{i}"
            wider = stage > 2 and i == 1
            n[f"{block}/relu1"] = y = L.ReLU(convolution(f"{block}/conv1", x, width, 2 if wider else 1), in_place=True)
            y = convolution(f"{block}/conv2", y, width)
            x = relu(n, block, L.Eltwise(_shorter(n, block, x) if wider else x, y), f"{block}/relu2")
    n.pool = global_pool(x)
    n.scores = L.InnerProduct(n.pool, num_output=classes, param=learned(lr=(1, 1)), weight_filler=MSRA)
    classify(n, n.scores)
    return n


def _shorter(n: NetSpec, block: str, x: Top) -> Top:
    """The paper's option A: every second pixel, and zeros for the channels that there are more."""
    n[f"{block}/pixels"] = pixels = L.Pooling(x, pool="MAX", kernel_size=1, stride=2, ceil_mode=False)
    n[f"{block}/zeros"] = L.Power(pixels, scale=0)
    n[f"{block}/shortcut"] = L.Concat(pixels, n[f"{block}/zeros"])
    return n[f"{block}/shortcut"]
