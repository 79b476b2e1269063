"""Recipes with two images, several labels or several losses, on pictures made of the UCI digits."""

from __future__ import annotations

from jaffe.zoo import tasks
from jaffe.zoo.recipes.base import Recipe, entered

_PIXELS = {"scale": 1 / 256}


@entered
def _siamese() -> Recipe:
    return Recipe(
        "siamese", tasks.siamese(transform=_PIXELS),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[1200],
            max_iter=1500, test_iter=[20], test_interval=300, display=50, average_loss=20, random_seed=1,
        ),
        "made:pairs", "whether two digits are of one class, by where they are put in a plane; 96 % of pairs",
    )


@entered
def _multitask_digits() -> Recipe:
    return Recipe(
        "multitask_digits", tasks.multitask(transform=_PIXELS),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[800],
            max_iter=1000, test_iter=[10], test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "made:turned", "which digit, whether it is odd, and by how much it is turned; 98 %, 98 %, to 3 degrees",
        measure="digit_accuracy",
    )


@entered
def _multilabel() -> Recipe:
    return Recipe(
        "multilabel", tasks.multilabel(transform=_PIXELS),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[1600],
            max_iter=2000, test_iter=[10], test_interval=400, display=50, average_loss=20, random_seed=1,
        ),
        "made:several", "which of the ten digits are in a picture; 89 % of the pictures without an error",
        measure="all_right",
    )
