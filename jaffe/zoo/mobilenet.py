"""MobileNet v1 and v2, as in shicai's MobileNet-Caffe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, classify, conv_bn, global_pool, images, normalise

_INPUT = "224x224, BGR, 0 to 255 less 103.94, 116.78, 123.68, times 0.017"

# Of each pair of a depthwise and a 1x1 convolution: the stride of the first, the width of the second.
_SEPARABLE = {
    "2_1": (1, 64), "2_2": (2, 128), "3_1": (1, 128), "3_2": (2, 256), "4_1": (1, 256), "4_2": (2, 512),
    "5_1": (1, 512), "5_2": (1, 512), "5_3": (1, 512), "5_4": (1, 512), "5_5": (1, 512), "5_6": (2, 1024),
    "6": (1, 1024),
}


@published(
    title="MobileNet v1", task="classification", paper="Howard et al. 2017 (arXiv 1704.04861), width 1.0",
    input=_INPUT,
    accuracy=[Figure("70.6 % top-1", "ImageNet; the paper"),
              Figure("70.81 % top-1, 89.85 % top-5", "ImageNet, centre crop; shicai's MobileNet-Caffe")],
    params=Figure("4.2 M", "the paper, table 6"), multiply_adds=Figure("569 M", "the paper, table 6"),
)
def mobilenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """MobileNet v1: depthwise convolutions (a group for each channel), each with one of 1x1 behind it.

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 103.94, 116.78,
            123.68, times 0.017.
    """
    n = NetSpec("MobileNet")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def convolution(i: str, kind: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        name = f"conv{i}{kind}"
        x = conv_bn(n, name, f"{name}/bn", f"{name}/scale", bottom, num_output, **settings)
        n[f"relu{i}{kind}"] = L.ReLU(x, in_place=True)
        return n[f"relu{i}{kind}"]

    width = 32
    x = convolution("1", "", n.data, width, kernel_size=3, stride=2, pad=1)
    for i, (stride, wider) in _SEPARABLE.items():
        x = convolution(i, "/dw", x, width, kernel_size=3, stride=stride, pad=1, group=width)
        x = convolution(i, "/sep", x, wider, kernel_size=1)
        width = wider
    return _classifier(n, x, classes)


# Of each block: expansion, width, stride.
_INVERTED = {
    "2_1": (1, 16, 1), "2_2": (6, 24, 2), "3_1": (6, 24, 1), "3_2": (6, 32, 2), "4_1": (6, 32, 1), "4_2": (6, 32, 1),
    "4_3": (6, 64, 1), "4_4": (6, 64, 1), "4_5": (6, 64, 1), "4_6": (6, 64, 1), "4_7": (6, 96, 2), "5_1": (6, 96, 1),
    "5_2": (6, 96, 1), "5_3": (6, 160, 2), "6_1": (6, 160, 1), "6_2": (6, 160, 1), "6_3": (6, 320, 1),
}


@published(
    title="MobileNet v2", task="classification", paper="Sandler et al. 2018 (arXiv 1801.04381), width 1.0",
    input=_INPUT,
    accuracy=[Figure("71.90 % top-1, 90.49 % top-5", "ImageNet, centre crop; shicai's MobileNet-Caffe")],
    params=Figure("3,504,872", "torchvision 0.24", "an expansion in the first block, which the paper has not: 1,088"),
    multiply_adds=Figure("0.301 G", "torchvision 0.24",
                         "that expansion, and four blocks at twice the height and width, as shicai's file has it"),
)
def mobilenet_v2(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """MobileNet v2: inverted residual blocks, which expand, filter each channel and reduce without an activation.

    As shicai's file has it, for which there are weights: with ReLU where the paper has ReLU6, an expansion in the first
    block too, and the fourth halving of the image at block 4_7 in place of 4_3.

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 103.94, 116.78,
            123.68, times 0.017.
    """
    n = NetSpec("MobileNet_v2")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def convolution(name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        n[name] = L.Convolution(bottom, num_output=num_output, bias_term=False, weight_filler=MSRA, **settings)
        return normalise(n, f"{name}/bn", f"{name}/scale", n[name], in_place=False)

    def active(name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        n[f"relu{name.removeprefix('conv')}"] = x = L.ReLU(convolution(name, bottom, num_output, **settings),
                                                          in_place=True)
        return x

    width = 32
    x = active("conv1", n.data, width, kernel_size=3, stride=2, pad=1)
    for i, (expansion, wider, stride) in _INVERTED.items():
        y = active(f"conv{i}/expand", x, width * expansion, kernel_size=1)
        y = active(f"conv{i}/dwise", y, width * expansion, kernel_size=3, stride=stride, pad=1,
                   group=width * expansion)
        y = convolution(f"conv{i}/linear", y, wider, kernel_size=1)
        if stride == 1 and width == wider:
            n[f"block_{i}"] = y = L.Eltwise(x, y)
        x, width = y, wider
    return _classifier(n, active("conv6_4", x, 1280, kernel_size=1), classes)


def _classifier(n: NetSpec, x: Top, classes: int) -> NetSpec:
    n.pool6 = global_pool(x)
    n.fc7 = L.Convolution(n.pool6, num_output=classes, kernel_size=1, param=learned(), weight_filler=MSRA)
    classify(n, n.fc7)
    return n
