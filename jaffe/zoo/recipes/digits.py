"""Recipes on single digits."""

from __future__ import annotations

from jaffe.zoo import faces, maxout_nets, nets
from jaffe.zoo.recipes.base import Recipe, entered

# What the digits of tfds:digits, 8x8 pixels of 0 to 16, need to look like MNIST; and the same, moved about a little.
_DIGITS = {"resize": 28, "scale": 1 / 16}
_MOVED_DIGITS = {"resize": 32, "crop_size": 28, "scale": 1 / 16}


@entered
def _lenet() -> Recipe:
    return Recipe(
        "lenet", nets.lenet(transform=_MOVED_DIGITS),
        dict(
            base_lr=0.02, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[600],
            max_iter=800, test_iter=[3], test_interval=100, display=20, average_loss=20, snapshot=400, random_seed=1,
        ),
        "tfds:digits", "LeNet on the UCI digits; over 98 % in well under a minute on two cores",
    )


@entered
def _mlp() -> Recipe:
    return Recipe(
        "mlp", nets.mlp(shape=(1, 8, 8), transform={"scale": 1 / 16}),
        dict(
            base_lr=0.05, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=1000, test_iter=[3],
            test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "a perceptron with two hidden layers on the UCI digits",
    )


@entered
def _logreg() -> Recipe:
    return Recipe(
        "logreg", nets.logreg(transform={"scale": 1 / 16}),
        dict(
            base_lr=0.1, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=1000, test_iter=[3],
            test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "logistic regression on the pixels of the UCI digits",
    )


@entered
def _autoencoder() -> Recipe:
    return Recipe(
        "autoencoder", nets.autoencoder(transform=_DIGITS),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="step", gamma=0.1, stepsize=800, max_iter=1000,
            test_iter=[3], test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "a deep autoencoder of the UCI digits with a code of 30 numbers",
        measure="l2_error", higher=False,
    )


@entered
def _lenet_mnist() -> Recipe:
    return Recipe(
        "lenet_mnist", nets.lenet(transform={"scale": 1 / 256}),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="inv", gamma=0.0001, power=0.75, max_iter=10000,
            test_iter=[100], test_interval=500, display=100, average_loss=100, snapshot=5000, random_seed=1,
        ),
        "tfds:mnist", "LeNet on MNIST as in Caffe's example; 99.1 % (published)",
    )


@entered
def _maxout_digits() -> Recipe:
    return Recipe(
        "maxout_digits", maxout_nets.maxout(transform=_MOVED_DIGITS),
        dict(
            base_lr=0.02, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[1000],
            max_iter=1200, test_iter=[3], test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "two layers of maxout units on the UCI digits; 99 %",
    )


@entered
def _light_cnn_digits() -> Recipe:
    net = faces.light_cnn9(shape=(1, 28, 28), classes=10, width=1 / 8, batch=64, test_batch=100,
                           transform=_MOVED_DIGITS)
    return Recipe(
        "light_cnn_digits", net,
        dict(
            base_lr=0.02, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[400],
            max_iter=500, test_iter=[3], test_interval=100, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "Light CNN-9 with an eighth of its maps on the UCI digits; 98 %",
    )


@entered
def _local_digits() -> Recipe:
    return Recipe(
        "local_digits", nets.net3(transform={"resize": 16, "scale": 1 / 16}),
        dict(
            base_lr=0.1, momentum=0.9, lr_policy="multistep", gamma=0.1, stepvalue=[2000], max_iter=3000, test_iter=[3],
            test_interval=500, display=100, average_loss=50, random_seed=1,
        ),
        "tfds:digits", "LeCun's locally connected Net-3, 1,226 weights, on the UCI digits; 96 %",
    )
