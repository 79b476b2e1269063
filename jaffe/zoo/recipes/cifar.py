"""Recipes on CIFAR-10, with the schedules that were published."""

from __future__ import annotations

from typing import Any

from jaffe.netdef import NetSpec
from jaffe.zoo import cifar, resnet
from jaffe.zoo.recipes.base import Recipe, entered

_MEAN = {"mean_value": [125.3, 123.0, 113.9]}


@entered
def _cifar10_quick() -> Recipe:
    return _recipe(
        "cifar10_quick", cifar.cifar10_quick(transform=_MEAN), "Caffe's quick CIFAR-10 net; about 75 % (published)",
        lr_policy="multistep", gamma=0.1, stepvalue=[4000], max_iter=5000, test_interval=500, weight_decay=0.004,
        snapshot=1000,
    )


@entered
def _cifar10_full() -> Recipe:
    return _recipe(
        "cifar10_full", cifar.cifar10_full(transform=_MEAN),
        "Caffe's full CIFAR-10 net; 82 % (published of cuda-convnet's)",
        lr_policy="multistep", gamma=0.1, stepvalue=[60000, 65000], max_iter=70000, weight_decay=0.004,
    )


@entered
def _cifar10_full_sigmoid() -> Recipe:
    return _recipe(
        "cifar10_full_sigmoid", cifar.cifar10_full_sigmoid(transform=_MEAN),
        "the full CIFAR-10 net with sigmoids, for comparison with the next one", lr_policy="fixed", max_iter=60000,
    )


@entered
def _cifar10_full_sigmoid_bn() -> Recipe:
    return _recipe(
        "cifar10_full_sigmoid_bn", cifar.cifar10_full_sigmoid_bn(transform=_MEAN),
        "the full CIFAR-10 net with sigmoids and batch normalisation", lr_policy="fixed", max_iter=60000,
    )


@entered
def _resnet20() -> Recipe:
    return _recipe(
        "resnet20", resnet.resnet20(transform={**_MEAN, "mirror": True}),
        "ResNet-20 on mirrored images; 91.25 % (published), with crops of padded images beside",
        base_lr=0.1, weight_decay=0.0001, lr_policy="multistep", gamma=0.1, stepvalue=[32000, 48000], max_iter=64000,
    )


def _recipe(name: str, net: NetSpec, about: str, **solver: Any) -> Recipe:
    common = dict(base_lr=0.001, momentum=0.9, test_iter=[100], test_interval=1000, display=100, average_loss=100,
                  snapshot=10000, random_seed=1)
    return Recipe(name, net, {**common, **solver}, "tfds:cifar10", about)
