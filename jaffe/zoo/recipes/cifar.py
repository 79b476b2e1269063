"""Recipes on CIFAR-10."""

from __future__ import annotations

from jaffe.zoo import cifar
from jaffe.zoo.recipes.base import Recipe, entered


@entered
def cifar10_quick() -> Recipe:
    return Recipe(
        "cifar10_quick", cifar.cifar10_quick(transform={"mean_value": [125.3, 123.0, 113.9]}),
        dict(
            base_lr=0.001, momentum=0.9, weight_decay=0.004, lr_policy="multistep", gamma=0.1, stepvalue=[4000],
            max_iter=5000, test_iter=[100], test_interval=500, display=100, average_loss=100, snapshot=1000,
            random_seed=1,
        ),
        "tfds:cifar10", "Caffe's quick CIFAR-10 net; about 75 % (published)",
    )
