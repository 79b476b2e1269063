"""Recipes on sequences."""

from __future__ import annotations

from jaffe.netdef.cells import UNIFORM
from jaffe.zoo import frames, recurrent
from jaffe.zoo.recipes.base import Recipe, entered


@entered
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


@entered
def _lstm_sequence_classifier() -> Recipe:
    return Recipe(
        "lstm_sequence_classifier", recurrent.lstm_sequence_classifier(transform={"scale": 1 / 16}),
        dict(
            type="Adam", base_lr=0.005, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="multistep", gamma=0.1,
            stepvalue=[800], max_iter=1000, test_iter=[3], test_interval=200, display=50, average_loss=20,
            random_seed=1,
        ),
        "tfds:digits", "an LSTM that reads the UCI digits row by row; 96 % in half a minute",
    )


@entered
def _seq2seq_addition() -> Recipe:
    return Recipe(
        "seq2seq_addition", recurrent.seq2seq_addition(),
        dict(
            type="Adam", base_lr=0.005, momentum=0.9, momentum2=0.999, delta=1e-8, clip_gradients=1, lr_policy="cosine",
            max_iter=15000, test_iter=[4], test_interval=1000, display=100, average_loss=100, random_seed=1,
        ),
        "made:sums", "two LSTMs that add numbers of up to three digits; 99 % of the answers in two minutes",
    )


@entered
def _lrcn() -> Recipe:
    return Recipe(
        "lrcn",
        frames.lrcn(classes=8, units=128, steps=8, shape=(1, 16, 16), features=frames.small_features,
                    filler=UNIFORM, batch=32, test_batch=500, transform={"scale": 1 / 16}),
        dict(
            type="Adam", base_lr=0.002, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="fixed", max_iter=600,
            test_iter=[2], test_interval=100, display=50, average_loss=20, random_seed=1,
        ),
        "made:moving", "which way a digit moves, by a small convolution and an LSTM over frames; 99 % in half a minute",
    )
