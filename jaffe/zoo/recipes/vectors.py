"""Recipes on vectors: Caffe's example of HDF5 data, ``examples/02-brewing-logreg.ipynb``."""

from __future__ import annotations

from jaffe.zoo import nets
from jaffe.zoo.recipes.base import Recipe, entered


@entered
def _logreg_vectors() -> Recipe:
    return Recipe(
        "logreg_vectors", nets.logreg(shape=(4,), classes=2),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=1000, test_iter=[25],
            test_interval=250, display=100, average_loss=50, random_seed=1,
        ),
        "made:vectors", "logistic regression on points that no line divides; 76 %",
    )


@entered
def _mlp_vectors() -> Recipe:
    return Recipe(
        "mlp_vectors", nets.mlp(shape=(4,), hidden=(40,), classes=2, dropout=0),
        dict(
            base_lr=0.05, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=2000, test_iter=[25],
            test_interval=500, display=100, average_loss=50, random_seed=1,
        ),
        "made:vectors", "the same points with a hidden layer of 40 units; 82 %",
    )
