"""AlexNet and CaffeNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, gaussian, images, lrn, relu


@published(
    title="AlexNet", task="classification", paper="Krizhevsky, Sutskever, Hinton 2012; Caffe's models/bvlc_alexnet",
    input="227x227, BGR, 0 to 255 less the mean image",
    accuracy=[Figure("57.1 % top-1, 80.2 % top-5", "ImageNet, centre crop; Caffe's models/bvlc_alexnet")],
    params=Figure("60,965,224", "HewlettPackard's dlcookbook-dlbs"),
)
def alexnet(
    *, classes: int = 1000, batch: int = 256, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """AlexNet: five convolutions, three of them in two groups, normalisation across channels before pooling.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image, crops and mirrors.
    """
    n = NetSpec("AlexNet")
    images(n, (3, 227, 227), batch, test_batch, transform)
    n.fc8 = L.InnerProduct(_features(n, n.data, (6, 7), normalise_first=True, bias=0.1), num_output=classes,
                           **gaussian(0.01))
    classify(n, n.fc8)
    return n


@published(
    title="CaffeNet", task="classification",
    paper="Krizhevsky, Sutskever, Hinton 2012, with pooling before normalisation; Caffe's "
          "models/bvlc_reference_caffenet",
    input="227x227, BGR, 0 to 255 less the mean image",
    accuracy=[Figure("57.4 % top-1, 80.4 % top-5", "ImageNet, centre crop; Caffe's models/bvlc_reference_caffenet")],
    multiply_adds=Figure("724 M", "albanie's convnet-burden"),
)
def caffenet(
    *, classes: int = 1000, batch: int = 256, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """CaffeNet: AlexNet with pooling before normalisation.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image, crops and mirrors.
    """
    n = NetSpec("CaffeNet")
    images(n, (3, 227, 227), batch, test_batch, transform)
    n.fc8 = L.InnerProduct(caffenet_features(n, n.data), num_output=classes, **gaussian(0.01))
    classify(n, n.fc8)
    return n


def caffenet_features(n: NetSpec, data: Top, layers: Sequence[int] = (6, 7)) -> Top:
    """CaffeNet's layers from images up to fc7, or to fc6: (N, 3, 227, 227) -> (N, 4096)."""
    return _features(n, data, layers, normalise_first=False, bias=1)


def _features(n: NetSpec, data: Top, layers: Sequence[int], *, normalise_first: bool, bias: float) -> Top:
    """``bias``: what those of layers 2 and 4 to 7 begin with, where the paper has 1."""

    def convolution(i: int, bottom: Top, num_output: int, bias: float, **settings: Any) -> Top:
        return relu(n, f"conv{i}", L.Convolution(bottom, num_output=num_output, **settings, **gaussian(0.01, bias)),
                    f"relu{i}")

    def reduce(i: int, x: Top) -> Top:
        steps = {"pool": lambda x: max_pool(x, kernel_size=3), "norm": lrn}
        for kind in ("norm", "pool") if normalise_first else ("pool", "norm"):
            n[f"{kind}{i}"] = x = steps[kind](x)
        return x

    x = reduce(1, convolution(1, data, 96, 0, kernel_size=11, stride=4))
    x = reduce(2, convolution(2, x, 256, bias, kernel_size=5, pad=2, group=2))
    x = convolution(3, x, 384, 0, kernel_size=3, pad=1)
    x = convolution(4, x, 384, bias, kernel_size=3, pad=1, group=2)
    x = convolution(5, x, 256, bias, kernel_size=3, pad=1, group=2)
    n.pool5 = x = max_pool(x, kernel_size=3)
    for i in layers:
        x = relu(n, f"fc{i}", L.InnerProduct(x, num_output=4096, **gaussian(0.005, bias)), f"relu{i}")
        n[f"drop{i}"] = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    return x
