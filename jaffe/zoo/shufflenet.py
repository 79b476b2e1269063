"""ShuffleNet v1, as in farmingyard's Caffe file. Source: Zhang et al. 2017 (arXiv 1707.01083)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, classify, global_pool, images, normalise, relu


@published(
    title="ShuffleNet v1", task="classification", paper="Zhang et al. 2017 (arXiv 1707.01083), 1x, three groups",
    input="224x224, BGR, 0 to 255 less 103.94, 116.78, 123.68, times 0.017",
    accuracy=[Figure("67.8 % top-1, 87.7 % top-5", "ImageNet; the authors' ShuffleNet-Series")],
    params=Figure("1.9 M", "the authors' ShuffleNet-Series",
                  "units that halve the image narrow to a quarter of the channels they add, not of all: 50,994 less"),
)
def shufflenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ShuffleNet 1x with three groups: 1x1 convolutions in groups, whose channels are shuffled between them.

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 103.94, 116.78,
            123.68, times 0.017.
    """
    n = NetSpec("shufflenet")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def convolution(name: str, bottom: Top, num_output: int, kind: Any = L.Convolution, **settings: Any) -> Top:
        n[name] = kind(bottom, num_output=num_output, bias_term=False, weight_filler=MSRA, **settings)
        return normalise(n, f"{name}_bn", f"{name}_scale", n[name])

    def unit(i: int, bottom: Top, width: int, stride: int) -> Top:
        """``width``: of what the convolutions add."""
        first = i == 1  # reads so few channels that they are not divided, nor shuffled
        name, groups = f"resx{i}", {} if first else {"group": 3}
        n[f"{name}_conv1_relu"] = x = L.ReLU(
            convolution(f"{name}_conv1", bottom, width // 4, kernel_size=1, **groups), in_place=True)
        if not first:
            n[f"shuffle{i}"] = x = L.ShuffleChannel(x, group=3)
        x = convolution(f"{name}_conv2", x, width // 4, L.ConvolutionDepthwise, kernel_size=3, pad=1, stride=stride)
        x = convolution(f"{name}_conv3", x, width, kernel_size=1, group=3)
        if stride == 1:
            return relu(n, f"{name}_elewise", L.Eltwise(bottom, x), f"{name}_elewise_relu")
        n[f"{name}_match_conv"] = ave_pool(bottom, kernel_size=3)
        return relu(n, f"{name}_concat", L.Concat(n[f"{name}_match_conv"], x), f"{name}_concat_relu")

    n.conv1_relu = L.ReLU(convolution("conv1", n.data, 24, kernel_size=3, stride=2, pad=1), in_place=True)
    n.pool1 = x = max_pool(n.conv1_relu, kernel_size=3)
    i, channels = 1, 24
    for width, count in ((240, 4), (480, 8), (960, 4)):
        x = unit(i, x, width - channels, stride=2)
        for k in range(i + 1, i + count):
            x = unit(k, x, width, stride=1)
        i, channels = i + count, width
    n.pool_ave = global_pool(x)
    n.fc1000 = L.Convolution(n.pool_ave, num_output=classes, kernel_size=1, param=learned(), weight_filler=MSRA)
    classify(n, n.fc1000)
    return n
