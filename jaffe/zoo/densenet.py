"""DenseNet-121, as in shicai's DenseNet-Caffe. Source: Huang et al. 2016 (arXiv 1608.06993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, classify, global_pool, images, normalise


@published(
    title="DenseNet-121", task="classification", paper="Huang et al. 2016 (arXiv 1608.06993)",
    input="224x224, BGR, 0 to 255 less 103.94, 116.78, 123.68, times 0.017",
    accuracy=[Figure("74.91 % top-1, 92.19 % top-5", "ImageNet, centre crop; shicai's DenseNet-Caffe")],
    params=Figure("7,978,856", "torchvision 0.24"), multiply_adds=Figure("2.834 G", "torchvision 0.24"),
)
def densenet121(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """DenseNet-121: four blocks in which each layer reads all before it and adds 32 channels.

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 103.94, 116.78,
            123.68, times 0.017.
    """
    n = NetSpec("DENSENET_121")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def active(name: str, activation: str, bottom: Top) -> Top:
        x = normalise(n, f"{name}/bn", f"{name}/scale", bottom, in_place=False)
        n[activation] = L.ReLU(x, in_place=True)
        return n[activation]

    def convolution(name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        n[name] = L.Convolution(bottom, num_output=num_output, bias_term=False, weight_filler=MSRA, **settings)
        return n[name]

    def layer(i: str, bottom: Top) -> Top:
        x = convolution(f"conv{i}/x1", active(f"conv{i}/x1", f"relu{i}/x1", bottom), 128, kernel_size=1)
        x = convolution(f"conv{i}/x2", active(f"conv{i}/x2", f"relu{i}/x2", x), 32, kernel_size=3, pad=1)
        n[f"concat_{i}"] = L.Concat(bottom, x)
        return n[f"concat_{i}"]

    x = active("conv1", "relu1", convolution("conv1", n.data, 64, kernel_size=7, stride=2, pad=3))
    n.pool1 = x = max_pool(x, kernel_size=3, pad=1, ceil_mode=False)
    width = 64
    for stage, count in zip((2, 3, 4, 5), (6, 12, 24, 16), strict=True):
        for i in range(1, count + 1):
            x = layer(f"{stage}_{i}", x)
        width += 32 * count
        x = active(f"conv{stage}_blk", f"relu{stage}_blk", x)
        if stage < 5:
            width //= 2
            x = convolution(f"conv{stage}_blk", x, width, kernel_size=1)
            n[f"pool{stage}"] = x = ave_pool(x)
    n.pool5 = global_pool(x)
    n.fc6 = L.Convolution(n.pool5, num_output=classes, kernel_size=1, param=learned(), weight_filler=MSRA)
    classify(n, n.fc6)
    return n
