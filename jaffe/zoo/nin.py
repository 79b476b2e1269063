"""Network in Network. Source: Lin, Chen, Yan 2013 (arXiv 1312.4400); the authors' Caffe files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, gaussian, images, relu

_PAPER = "Lin, Chen, Yan 2013 (arXiv 1312.4400)"


@published(
    title="Network in Network", task="classification", paper=f"{_PAPER}; the authors' nin_imagenet",
    input="224x224, BGR, 0 to 255 less the mean image",
    accuracy=[Figure("59.36 % top-1", "ImageNet; the authors' nin_imagenet")],
)
def nin(
    *, classes: int = 1000, batch: int = 64, test_batch: int = 89, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Network in Network: behind each convolution two of 1x1 (``cccp``, cascaded cross-channel pooling); the last gives
    a map for each class, whose mean is the score.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image, crops and mirrors.
    """
    n = NetSpec("nin_imagenet")
    x, _ = images(n, (3, 224, 224), batch, test_batch, transform)
    activations = iter(("relu0", "relu1", "relu2", "relu3", *(f"relu{i}" for i in range(5, 13))))

    def convolution(name: str, bottom: Top, num_output: int, std: float = 0.05, **settings: Any) -> Top:
        top = L.Convolution(bottom, num_output=num_output, **settings, **gaussian(std))
        return relu(n, name, top, next(activations))

    def block(number: int, bottom: Top, width: int, std: float, pool: str, **settings: Any) -> Top:
        x = convolution(f"conv{number}", bottom, width, std, **settings)
        x = convolution(f"cccp{2 * number - 1}", x, width, kernel_size=1)
        x = convolution(f"cccp{2 * number}", x, width, kernel_size=1)
        n[pool] = max_pool(x, kernel_size=3)
        return n[pool]

    x = block(1, x, 96, 0.01, "pool0", kernel_size=11, stride=4)
    x = block(2, x, 256, 0.05, "pool2", kernel_size=5, pad=2)
    x = block(3, x, 384, 0.01, "pool3", kernel_size=3, pad=1)
    n.drop = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    x = convolution("conv4-1024", x, 1024, kernel_size=3, pad=1)
    x = convolution("cccp7-1024", x, 1024, kernel_size=1)
    x = convolution("cccp8-1024", x, classes, 0.01, kernel_size=1)
    n.pool4 = ave_pool(x, kernel_size=6, stride=1)
    classify(n, n.pool4)
    return n


@published(
    title="Network in Network (CIFAR)", task="classification", paper=f"{_PAPER}; the authors' cifar10_nin",
    input="32x32, RGB, preprocessed as the authors' files of CIFAR-10 are",
    accuracy=[Figure("89.6 %", "CIFAR-10; the authors' cifar10_nin")],
    params=Figure("966,986", "osmr's imgclsmob"),
)
def nin_cifar10(
    *, classes: int = 10, batch: int = 128, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Network in Network for CIFAR-10: three convolutions, two of 1x1 behind each, the last of which gives a map for
    each class, whose mean is the score.

    Args:
        transform: fields of ``transform_param``; the original has none, as its images were preprocessed.
    """
    n = NetSpec("cifar10_nin")  # the authors' file has the name of Caffe's cifar10_full
    x, _ = images(n, (3, 32, 32), batch, test_batch, transform)

    def block(i: int, x: Top, widths: tuple[int, int, int], lr: tuple[float, float] = (1, 2), **size: int) -> Top:
        """``lr``: how fast the weights and the biases of the last convolution learn."""
        wide, narrower, last = widths
        x = relu(n, f"conv{i}", L.Convolution(x, num_output=wide, **size, **gaussian(0.05)), f"relu{i}")
        for number, width, rates in ((2 * i - 1, narrower, (1, 2)), (2 * i, last, lr)):
            convolution = L.Convolution(x, num_output=width, kernel_size=1, **gaussian(0.05, lr=rates))
            x = relu(n, f"cccp{number}", convolution, f"relu_cccp{number}")
        return x

    n.pool1 = x = max_pool(block(1, x, (192, 160, 96), kernel_size=5, pad=2), kernel_size=3)
    n.drop3 = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.pool2 = x = ave_pool(block(2, x, (192, 192, 192), kernel_size=5, pad=2), kernel_size=3)
    n.drop6 = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.pool3 = ave_pool(block(3, x, (192, 192, classes), lr=(0.1, 0.1), kernel_size=3, pad=1), kernel_size=8, stride=1)
    classify(n, n.pool3)
    return n
