"""Recipes: a net, a solver and data that together give a stated result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaffe.netdef import NetSpec, SolverParameter
from jaffe.netdef.builder import assign
from jaffe.netdef.cells import UNIFORM
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.zoo import frames, nets, recurrent

# What the digits of tfds:digits, 8x8 pixels of 0 to 16, need to look like MNIST; and the same, moved about a little.
_DIGITS = {"resize": 28, "scale": 1 / 16}
_MOVED_DIGITS = {"resize": 32, "crop_size": 28, "scale": 1 / 16}


@dataclass(frozen=True)
class Recipe:
    """How to train a net.

    Attributes:
        name: as ``jaffe train --recipe`` takes it.
        net: the declaration.
        solver: fields of ``SolverParameter``.
        data: as ``--data`` takes it.
        about: one line: what to expect.
    """

    name: str
    net: NetSpec
    solver: dict[str, Any]
    data: str
    about: str

    def solver_proto(self) -> SolverParameter:
        """The solver with the net in it: all that ``jaffe.Solver`` needs beside the data."""
        proto = SolverParameter(net_param=self.net.to_proto())
        for key, value in self.solver.items():
            assign(proto, key, value)
        return proto


def _lenet() -> Recipe:
    return Recipe(
        "lenet", nets.lenet(transform=_MOVED_DIGITS),
        dict(
            base_lr=0.02, momentum=0.9, weight_decay=0.0005, lr_policy="multistep", gamma=0.1, stepvalue=[600],
            max_iter=800, test_iter=[3], test_interval=100, display=20, average_loss=20, snapshot=400, random_seed=1,
        ),
        "tfds:digits", "LeNet on the UCI digits; over 98 % in well under a minute on two cores",
    )


def _mlp() -> Recipe:
    return Recipe(
        "mlp", nets.mlp(shape=(1, 8, 8), transform={"scale": 1 / 16}),
        dict(
            base_lr=0.05, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=1000, test_iter=[3],
            test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "a perceptron with two hidden layers on the UCI digits",
    )


def _logreg() -> Recipe:
    return Recipe(
        "logreg", nets.logreg(transform={"scale": 1 / 16}),
        dict(
            base_lr=0.1, momentum=0.9, weight_decay=0.0005, lr_policy="fixed", max_iter=1000, test_iter=[3],
            test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "logistic regression on the pixels of the UCI digits",
    )


def _cifar10_quick() -> Recipe:
    return Recipe(
        "cifar10_quick", nets.cifar10_quick(transform={"mean_value": [125.3, 123.0, 113.9]}),
        dict(
            base_lr=0.001, momentum=0.9, weight_decay=0.004, lr_policy="multistep", gamma=0.1, stepvalue=[4000],
            max_iter=5000, test_iter=[100], test_interval=500, display=100, average_loss=100, snapshot=1000,
            random_seed=1,
        ),
        "tfds:cifar10", "Caffe's quick CIFAR-10 net; about 75 % (published)",
    )


def _autoencoder() -> Recipe:
    return Recipe(
        "autoencoder", nets.autoencoder(transform=_DIGITS),
        dict(
            base_lr=0.01, momentum=0.9, weight_decay=0.0005, lr_policy="step", gamma=0.1, stepsize=800, max_iter=1000,
            test_iter=[3], test_interval=200, display=50, average_loss=20, random_seed=1,
        ),
        "tfds:digits", "a deep autoencoder of the UCI digits with a code of 30 numbers",
    )


def _char_lstm() -> Recipe:
    return Recipe(
        "char_lstm", recurrent.char_lstm(),
        dict(
            type="Adam", base_lr=0.003, momentum=0.9, momentum2=0.999, delta=1e-8, clip_gradients=5,
            lr_policy="multistep", gamma=0.3, stepvalue=[1500, 2000], max_iter=2400, test_iter=[27], test_interval=300,
            display=50, average_loss=50, random_seed=1,
        ),
        "text:python", "a character LSTM on Python's documentation; 58 % of the next characters in three minutes",
    )


def _lstm_sequence_classifier() -> Recipe:
    return Recipe(
        "lstm_sequence_classifier", recurrent.lstm_sequence_classifier(transform={"scale": 1 / 16}),
        dict(
            type="Adam", base_lr=0.005, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="multistep", gamma=0.1,
            stepvalue=[800], max_iter=1000, test_iter=[3], test_interval=200, display=50, average_loss=20,
            random_seed=1,
        ),
        "tfds:digits", "an LSTM that reads the UCI digits row by row; 96 % in some seconds",
    )


def _seq2seq_addition() -> Recipe:
    return Recipe(
        "seq2seq_addition", recurrent.seq2seq_addition(),
        dict(
            type="Adam", base_lr=0.005, momentum=0.9, momentum2=0.999, delta=1e-8, clip_gradients=1, lr_policy="cosine",
            max_iter=15000, test_iter=[4], test_interval=1000, display=100, average_loss=100, random_seed=1,
        ),
        "made:sums", "two LSTMs that add numbers of up to three digits; 99 % of the answers in two minutes",
    )


def _lrcn() -> Recipe:
    return Recipe(
        "lrcn",
        frames.lrcn(classes=8, units=128, steps=8, shape=(1, 16, 16), features=frames.small_features,
                    filler=UNIFORM, batch=32, test_batch=500, transform={"scale": 1 / 16}),
        dict(
            type="Adam", base_lr=0.002, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="fixed", max_iter=600,
            test_iter=[2], test_interval=100, display=50, average_loss=20, random_seed=1,
        ),
        "made:moving", "which way a digit moves, by a small convolution and an LSTM over frames; 99 % in some seconds",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "lenet": _lenet,
    "mlp": _mlp,
    "logreg": _logreg,
    "cifar10_quick": _cifar10_quick,
    "autoencoder": _autoencoder,
    "char_lstm": _char_lstm,
    "lstm_sequence_classifier": _lstm_sequence_classifier,
    "seq2seq_addition": _seq2seq_addition,
    "lrcn": _lrcn,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises JaffeError, with the nearest name, when there is none."""
    if name not in RECIPES:
        raise JaffeError(f"no recipe {name!r}{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
