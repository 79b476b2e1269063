"""Squeeze-and-excitation nets. Source: Hu, Shen, Sun 2017 (arXiv 1709.01507); the authors' Caffe files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import XAVIER, classify, conv_bn, global_pool, images, relu

_PAPER = "Hu, Shen, Sun 2017 (arXiv 1709.01507); the authors' SENet"
_INPUT = "224x224, BGR, 0 to 255 less 104, 117, 123"
_SOURCE = "ImageNet, centre crop; the authors' SENet"


@published(title="SE-ResNet-50", task="classification", paper=_PAPER, input=_INPUT,
           accuracy=[Figure("77.63 % top-1, 93.64 % top-5", _SOURCE)],
           params=Figure("28,088,024", "osmr's imgclsmob"))
def se_resnet50(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """SE-ResNet-50: ResNet-50 whose blocks weight their channels by what they see in the whole image.

    Args:
        transform: fields of ``transform_param``.
    """
    n = NetSpec("SE-ResNet-50")
    images(n, (3, 224, 224), batch, test_batch, transform)
    x = _active(n, "conv1/7x7_s2", "conv1/relu_7x7_s2", n.data, 64, kernel_size=7, stride=2, pad=3)
    x = _pooled(n, x)
    for stage, count, width in zip((2, 3, 4, 5), (3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for i in range(1, count + 1):
            stride = 2 if i == 1 and stage > 2 else 1
            project = {"kernel_size": 1, "stride": stride} if i == 1 else None
            x = _block(n, f"conv{stage}_{i}", x, (width, width, 4 * width), project,
                       reduce={"stride": stride})
    return _classified(n, x, classes)


@published(title="SENet-154", task="classification", paper=_PAPER, input=_INPUT,
           accuracy=[Figure("81.32 % top-1, 95.53 % top-5", _SOURCE)],
           params=Figure("115,088,984", "osmr's imgclsmob"))
def senet154(
    *, classes: int = 1000, batch: int = 8, test_batch: int = 10, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """SENet-154: squeeze and excitation in a ResNeXt-152 of 64 groups, with three 3x3 convolutions in place of the 7x7.

    Args:
        transform: fields of ``transform_param``.
    """
    n = NetSpec("SENet-154")
    images(n, (3, 224, 224), batch, test_batch, transform)
    x = _active(n, "conv1_1/3x3_s2", "conv1_1/relu_3x3_s2", n.data, 64, kernel_size=3, stride=2, pad=1)
    x = _active(n, "conv1_2/3x3", "conv1_2/relu_3x3", x, 64, kernel_size=3, pad=1)
    x = _pooled(n, _active(n, "conv1_3/3x3", "conv1_3/relu_3x3", x, 128, kernel_size=3, pad=1))
    for stage, count, width in zip((2, 3, 4, 5), (3, 8, 36, 3), (256, 512, 1024, 2048), strict=True):
        for i in range(1, count + 1):
            stride = 2 if i == 1 and stage > 2 else 1
            size = {"kernel_size": 3, "pad": 1} if stage > 2 else {"kernel_size": 1}
            project = {**size, "stride": stride} if i == 1 else None
            x = _block(n, f"conv{stage}_{i}", x, (width // 2, width, width), project,
                       threes={"stride": stride, "group": 64})
    return _classified(n, x, classes, dropout=0.2)


def _active(n: NetSpec, name: str, activation: str, bottom: Top, num_output: int, **settings: Any) -> Top:
    x = conv_bn(n, name, f"{name}/bn", f"{name}/bn/scale", bottom, num_output, **settings)
    n[activation] = L.ReLU(x, in_place=True)
    return n[activation]


def _pooled(n: NetSpec, x: Top) -> Top:
    n["pool1/3x3_s2"] = max_pool(x, kernel_size=3)
    return n["pool1/3x3_s2"]


def _block(
    n: NetSpec, name: str, bottom: Top, widths: Sequence[int], project: Mapping[str, int] | None,
    reduce: Mapping[str, int] | None = None, threes: Mapping[str, int] | None = None,
) -> Top:
    """``widths``: of the 1x1, the 3x3 and the last 1x1 convolution; ``project``: the shortcut's convolution, if it has
    one; ``reduce`` and ``threes``: settings of the first two."""
    one, three, last = widths
    x = _active(n, f"{name}_1x1_reduce", f"{name}_1x1_reduce/relu", bottom, one, kernel_size=1, **(reduce or {}))
    x = _active(n, f"{name}_3x3", f"{name}_3x3/relu", x, three, kernel_size=3, pad=1, **(threes or {}))
    x = _normalised(n, f"{name}_1x1_increase", x, last, kernel_size=1)
    n[f"{name}_global_pool"] = global_pool(x)
    down = L.Convolution(n[f"{name}_global_pool"], num_output=last // 16, kernel_size=1, weight_filler=XAVIER)
    down = relu(n, f"{name}_1x1_down", down, f"{name}_1x1_down/relu")
    n[f"{name}_1x1_up"] = L.Convolution(down, num_output=last, kernel_size=1, weight_filler=XAVIER)
    n[f"{name}_prob"] = L.Sigmoid(n[f"{name}_1x1_up"], in_place=True)
    if project:
        bottom = _normalised(n, f"{name}_1x1_proj", bottom, last, **project)
    return relu(n, name, L.Axpy(n[f"{name}_prob"], x, bottom), f"{name}/relu")


def _normalised(n: NetSpec, name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
    return conv_bn(n, name, f"{name}/bn", f"{name}/bn/scale", bottom, num_output, **settings)


def _classified(n: NetSpec, x: Top, classes: int, dropout: float = 0) -> NetSpec:
    n["pool5/7x7_s1"] = x = ave_pool(x, kernel_size=7, stride=1)
    if dropout:
        n["pool5/dropout_7x7_s1"] = x = L.Dropout(x, dropout_ratio=dropout, in_place=True)
    n.classifier = L.InnerProduct(x, num_output=classes, param=learned(), weight_filler=XAVIER)
    classify(n, n.classifier)
    return n
