"""SqueezeNet 1.0 and 1.1. Source: Iandola et al. 2016 (arXiv 1602.07360)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import XAVIER, classify, global_pool, images, relu

_INPUT = "227x227, BGR, 0 to 255 less 104, 117, 123"
_ACCURACY = "57.5 % top-1, 80.3 % top-5"
# Of each fire module from the second on: squeezed to, and expanded to by 1x1 and by 3x3.
_WIDTHS = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


@published(
    title="SqueezeNet 1.0", task="classification",
    paper="Iandola et al. 2016 (arXiv 1602.07360); the authors' SqueezeNet_v1.0", input=_INPUT,
    accuracy=[Figure(_ACCURACY, "ImageNet; the paper")],
    params=Figure("1,248,424", "torchvision 0.24"),
    multiply_adds=Figure("0.819 G", "torchvision 0.24", "of 224x224 pixels, and without the padding of the last layer"),
)
def squeezenet1_0(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """SqueezeNet 1.0: fire modules, which squeeze by 1x1 and expand by 1x1 and 3x3, and no inner products.

    Args:
        transform: fields of ``transform_param``; the original subtracts 104, 117, 123, and crops.
    """
    return _squeezenet("SqueezeNet_v1.0", {"num_output": 96, "kernel_size": 7}, {2: "pool1", 5: "pool4", 9: "pool8"}, 1,
                       classes, batch, test_batch, transform)


@published(
    title="SqueezeNet 1.1", task="classification",
    paper="Iandola et al. 2016 (arXiv 1602.07360); the authors' SqueezeNet_v1.1", input=_INPUT,
    accuracy=[Figure(_ACCURACY, "ImageNet, of version 1.0; the paper")],
    params=Figure("1,235,496", "torchvision 0.24"),
    multiply_adds=Figure("0.349 G", "torchvision 0.24", "of 224x224 pixels"),
)
def squeezenet1_1(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """SqueezeNet 1.1: a smaller first convolution and earlier pools than 1.0, for fewer operations.

    Args:
        transform: fields of ``transform_param``; the original subtracts 104, 117, 123, and crops.
    """
    return _squeezenet("SqueezeNet_v1.1", {"num_output": 64, "kernel_size": 3}, {2: "pool1", 4: "pool3", 6: "pool5"}, 0,
                       classes, batch, test_batch, transform)


def _squeezenet(
    name: str, first: Mapping[str, int], pools: Mapping[int, str], last_pad: int, classes: int, batch: int,
    test_batch: int, transform: Mapping[str, Any] | None,
) -> NetSpec:
    """``pools``: which come before which fire module; ``last_pad``: of the 1x1 convolution that gives the scores."""
    n = NetSpec(name)
    images(n, (3, 227, 227), batch, test_batch, transform)

    def fire(i: int, bottom: Top, squeeze: int, expand: int) -> Top:
        def convolution(name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
            convolution = L.Convolution(bottom, num_output=num_output, weight_filler=XAVIER, **settings)
            return relu(n, f"fire{i}/{name}", convolution, f"fire{i}/relu_{name}")

        x = convolution("squeeze1x1", bottom, squeeze, kernel_size=1)
        n[f"fire{i}/concat"] = L.Concat(convolution("expand1x1", x, expand, kernel_size=1),
                                        convolution("expand3x3", x, expand, kernel_size=3, pad=1))
        return n[f"fire{i}/concat"]

    x = relu(n, "conv1", L.Convolution(n.data, stride=2, weight_filler=XAVIER, **first), "relu_conv1")
    for i, (squeeze, expand) in enumerate(_WIDTHS, 2):
        if i in pools:
            n[pools[i]] = x = max_pool(x, kernel_size=3)
        x = fire(i, x, squeeze, expand)
    n.drop9 = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    conv10 = L.Convolution(n.drop9, num_output=classes, kernel_size=1, pad=last_pad,
                           weight_filler={"type": "gaussian", "std": 0.01})
    n.pool10 = global_pool(relu(n, "conv10", conv10, "relu_conv10"))
    classify(n, n.pool10)
    return n
