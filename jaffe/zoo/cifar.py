"""Nets of Caffe's CIFAR-10 examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, images


@published(
    title="CIFAR-10 quick", task="classification", paper="Caffe's examples/cifar10",
    input="32x32, RGB, 0 to 255 less the mean image",
    accuracy=[Figure("75 %", "CIFAR-10; Caffe's examples/cifar10")],
    params=Figure("145,578", "Caffe's cifar10_quick_iter_5000.caffemodel.h5"),
)
def cifar10_quick(
    *, classes: int = 10, batch: int = 100, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Caffe's quick CIFAR-10 net: three convolutions and two inner products for 32x32 colour images.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image from pixels 0 to 255.
    """
    n = NetSpec("CIFAR10_quick")
    images(n, (3, 32, 32), batch, test_batch, transform)
    both = learned(decay=(1, 1))
    n.conv1 = _convolution(n.data, 32, 0.0001, param=both)
    n.pool1 = max_pool(n.conv1, kernel_size=3)
    n.relu1 = L.ReLU(n.pool1, in_place=True)
    n.conv2 = _convolution(n.relu1, 32, 0.01, param=both)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.pool2 = ave_pool(n.relu2, kernel_size=3)
    n.conv3 = _convolution(n.pool2, 64, 0.01, param=both)
    n.relu3 = L.ReLU(n.conv3, in_place=True)
    n.pool3 = ave_pool(n.relu3, kernel_size=3)
    n.ip1 = L.InnerProduct(n.pool3, num_output=64, param=both, weight_filler={"type": "gaussian", "std": 0.1})
    n.ip2 = L.InnerProduct(n.ip1, num_output=classes, param=both, weight_filler={"type": "gaussian", "std": 0.1})
    classify(n, n.ip2)
    return n


@published(
    title="CIFAR-10 full", task="classification",
    paper="Krizhevsky's cuda-convnet, layers-18pct; as in Caffe's examples/cifar10",
    input="32x32, RGB, 0 to 255 less the mean image",
    accuracy=[Figure("82 %", "CIFAR-10 without augmentation; cuda-convnet's layers-18pct")],
    params=Figure("89,578", "Caffe's cifar10_full_iter_70000.caffemodel.h5"),
)
def cifar10_full(
    *, classes: int = 10, batch: int = 100, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Caffe's full CIFAR-10 net: three convolutions for 32x32 colour images, with local response normalisation within
    channels.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image from pixels 0 to 255.
    """
    n = NetSpec("CIFAR10_full")
    images(n, (3, 32, 32), batch, test_batch, transform)
    both = learned(decay=(1, 1))
    norm = dict(local_size=3, alpha=5e-5, beta=0.75, norm_region="WITHIN_CHANNEL")
    n.conv1 = _convolution(n.data, 32, 0.0001, param=both)
    n.pool1 = max_pool(n.conv1, kernel_size=3)
    n.relu1 = L.ReLU(n.pool1, in_place=True)
    n.norm1 = L.LRN(n.relu1, **norm)
    n.conv2 = _convolution(n.norm1, 32, 0.01, param=both)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.pool2 = ave_pool(n.relu2, kernel_size=3)
    n.norm2 = L.LRN(n.pool2, **norm)
    n.conv3 = _convolution(n.norm2, 64, 0.01, param=both)
    n.relu3 = L.ReLU(n.conv3, in_place=True)
    n.pool3 = ave_pool(n.relu3, kernel_size=3)
    n.ip1 = L.InnerProduct(n.pool3, num_output=classes, param=learned(decay=(250, 0)),
                           weight_filler={"type": "gaussian", "std": 0.01})
    classify(n, n.ip1)
    return n


@published(
    title="CIFAR-10 full with sigmoids", task="classification",
    paper="Caffe's examples/cifar10, cifar10_full_sigmoid_train_test.prototxt",
    input="32x32, RGB, 0 to 255 less the mean image",
)
def cifar10_full_sigmoid(
    *, classes: int = 10, batch: int = 111, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """The full CIFAR-10 net with sigmoids in place of ReLUs and without normalisation: what batch normalisation is
    compared with in Caffe's example; 89,578 parameters for 10 classes.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image from pixels 0 to 255.
    """
    n = NetSpec("CIFAR10_full_sigmoid")
    images(n, (3, 32, 32), batch, test_batch, transform)
    n.conv1 = _convolution(n.data, 32, 0.0001, param=learned(decay=(1, 1)))
    n.pool1 = max_pool(n.conv1, kernel_size=3)
    n.Sigmoid1 = L.Sigmoid(n.pool1)
    n.conv2 = _convolution(n.Sigmoid1, 32, 0.01, param=learned(decay=(1, 1)))
    n.Sigmoid2 = L.Sigmoid(n.conv2)
    n.pool2 = ave_pool(n.Sigmoid2, kernel_size=3)
    n.conv3 = _convolution(n.pool2, 64, 0.01, param=learned(lr=(1, 1), decay=(1, 1)))
    n.Sigmoid3 = L.Sigmoid(n.conv3)
    n.pool3 = ave_pool(n.Sigmoid3, kernel_size=3)
    n.ip1 = L.InnerProduct(n.pool3, num_output=classes, param=learned(decay=(0, 0)),
                           weight_filler={"type": "gaussian", "std": 0.01})
    classify(n, n.ip1)
    return n


@published(
    title="CIFAR-10 full with sigmoids and batch normalisation", task="classification",
    paper="Caffe's examples/cifar10, cifar10_full_sigmoid_train_test_bn.prototxt; Ioffe, Szegedy 2015 "
          "(arXiv 1502.03167)",
    input="32x32, RGB, 0 to 255 less the mean image",
)
def cifar10_full_sigmoid_bn(
    *, classes: int = 10, batch: int = 100, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """The full CIFAR-10 net with batch normalisation before each sigmoid; 89,450 parameters for 10 classes.

    BatchNorm alone, without Scale, and convolutions without a bias, as published.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image from pixels 0 to 255.
    """
    n = NetSpec("CIFAR10_full_sigmoid_bn")
    images(n, (3, 32, 32), batch, test_batch, transform)
    bare = {"param": [{"lr_mult": 1}], "bias_term": False}
    n.conv1 = _convolution(n.data, 32, 0.0001, **bare)
    n.pool1 = max_pool(n.conv1, kernel_size=3)
    n.bn1 = L.BatchNorm(n.pool1)
    n.Sigmoid1 = L.Sigmoid(n.bn1)
    n.conv2 = _convolution(n.Sigmoid1, 32, 0.01, **bare)
    n.bn2 = L.BatchNorm(n.conv2)
    n.Sigmoid2 = L.Sigmoid(n.bn2)
    n.pool2 = ave_pool(n.Sigmoid2, kernel_size=3)
    n.conv3 = _convolution(n.pool2, 64, 0.01, **bare)
    n.bn3 = L.BatchNorm(n.conv3)
    n.Sigmoid3 = L.Sigmoid(n.bn3)
    n.pool3 = ave_pool(n.Sigmoid3, kernel_size=3)
    n.ip1 = L.InnerProduct(n.pool3, num_output=classes, param=learned(lr=(1, 1)),
                           weight_filler={"type": "gaussian", "std": 0.01})
    classify(n, n.ip1)
    return n


def _convolution(bottom: Top, num_output: int, std: float, **settings: Any) -> Top:
    return L.Convolution(bottom, num_output=num_output, kernel_size=5, pad=2,
                         weight_filler={"type": "gaussian", "std": std}, **settings)
