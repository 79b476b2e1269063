"""Nets that read images and sequences: CaffeNet before LSTMs. Source: Donahue et al. 2015 (arXiv 1411.4389), LRCN.

Their inputs are (batch, steps, ...), as records have them; time becomes the first axis inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.netdef.cells import UNIFORM
from jaffe.zoo.alexnet import caffenet_features
from jaffe.zoo.cards import published
from jaffe.zoo.parts import TEST, inputs

Features: TypeAlias = "Callable[[NetSpec, Top], Top]"


def caffenet_fc6(n: NetSpec, images: Top) -> Top:
    """CaffeNet up to fc6: (N, 3, 227, 227) -> (N, 4096)."""
    return caffenet_features(n, images, layers=(6,))


def small_features(n: NetSpec, images: Top) -> Top:
    """A convolution and a pool, for images of few pixels: (N, C, H, W) -> (N, 8, H / 2, W / 2)."""
    n.conv = L.Convolution(images, num_output=8, kernel_size=5, pad=2, weight_filler={"type": "xavier"})
    n.pool = max_pool(L.ReLU(n.conv, in_place=True))
    return n.pool


@published(
    title="LRCN, activities", task="sequences", paper="Donahue et al. 2015 (arXiv 1411.4389)",
    input="clips of 16 frames, 227x227, BGR, 0 to 255 less the mean",
)
def lrcn(
    *, classes: int = 101, units: int = 256, steps: int = 16, shape: tuple[int, int, int] = (3, 227, 227),
    features: Features = caffenet_fc6, filler: Mapping[str, Any] | None = None, batch: int = 24, test_batch: int = 3,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Names what happens in a video: features of each frame, an LSTM over the frames, scores at each step, and in phase
    TEST their probabilities averaged over time; 44,570,341 parameters by default.

    ``data`` (batch, steps, C, H, W): clips; ``cont`` (batch, steps): 0 where a clip begins and else 1; ``label``
    (batch), which each frame learns. ``clip`` (batch, classes) is the average. Source: LRCN's
    ``train_test_lstm_RGB.prototxt`` and ``classify_video.py``. The convolutions there have other sizes than CaffeNet's,
    drop6 a ratio of 0.9, and the scores learn ten times as fast, since the others begin from a trained net's weights.

    Args:
        units: H of the LSTM.
        steps: frames of a clip.
        shape: (C, H, W) of a frame.
        features: from the frames, (steps * batch, C, H, W) with those of the first step first, to (steps * batch, ...).
        filler: of the LSTM's weights; by default uniform within 0.01, as published.
        transform: fields of ``transform_param`` that are not for images alone: ``scale``.
    """
    n = NetSpec("LRCN")
    inputs(n, batch, test_batch, {"data": (steps, *shape), "cont": (steps,), "label": ()}, transform)
    n.frames = L.Reshape(L.Permute(n.data, order=[1, 0, 2, 3, 4]), shape={"dim": [-1, *shape]})
    n.sequences = L.Reshape(features(n, n.frames), axis=0, num_axes=1, shape={"dim": [steps, -1]})
    n.markers = L.Permute(n.cont, order=[1, 0])
    n.lstm = L.LSTM(n.sequences, n.markers, num_output=units,
                    weight_filler=filler or {"type": "uniform", "min": -0.01, "max": 0.01})
    n.drop = L.Dropout(n.lstm, dropout_ratio=0.5, in_place=True)
    n.scores = L.InnerProduct(n.drop, num_output=classes, axis=2, param=learned(),
                              weight_filler={"type": "gaussian", "std": 0.01})
    n.probabilities = L.Softmax(n.scores, axis=2, include=TEST)
    n.clip = L.Reduction(L.Permute(n.probabilities, order=[1, 2, 0], include=TEST), axis=2, operation="MEAN",
                         include=TEST)
    n.accuracy = L.Accuracy(n.clip, n.label, include=TEST)
    n.labels = L.Tile(L.Reshape(n.label, axis=0, num_axes=0, shape={"dim": [1]}), axis=0, tiles=steps)
    n.loss = L.SoftmaxWithLoss(n.scores, n.labels, axis=2)
    return n


@published(
    title="LRCN, captions", task="sequences", paper="Donahue et al. 2015 (arXiv 1411.4389)",
    input="227x227, BGR, 0 to 255 less the mean; words by number",
)
def caption(
    *, words: int = 8801, units: int = 1000, steps: int = 21, shape: tuple[int, int, int] = (3, 227, 227),
    features: Features = caffenet_features, batch: int = 16, test_batch: int = 16,
) -> NetSpec:
    """Describes an image: an LSTM over the words so far, a second one that reads it and the image; LRCN's factored net
    of two layers, 98,584,025 parameters by default.

    ``data`` (batch, C, H, W): a sentence's image; ``cont_sentence``, ``input_sentence``, ``target_sentence``
    (batch, steps): 0 where a sentence begins and else 1; the words, behind a mark that begins each sentence; the words,
    before a mark that ends it, then -1, which counts neither in the loss nor in the accuracy. Source: the LRCN recipe's
    ``lrcn.prototxt``, with its sizes and names; what comes before fc8 learns a tenth as fast there.

    Args:
        words: of the vocabulary, the mark included.
        units: of the embedding, of both LSTMs and of the image's features.
        steps: words of a sentence, the mark included.
        shape: (C, H, W) of an image.
        features: from images (N, C, H, W) to (N, ...).
    """
    n = NetSpec("LRCNCaption")
    sentences = ("cont_sentence", "input_sentence", "target_sentence")
    inputs(n, batch, test_batch, {"data": shape, **dict.fromkeys(sentences, (steps,))})
    n.cont, n.read, n.target = (L.Permute(n[name], order=[1, 0]) for name in sentences)
    n.fc8 = L.InnerProduct(features(n, n.data), num_output=units, param=learned(),
                           weight_filler={"type": "gaussian", "std": 0.01})
    n.embedding = L.Embed(n.read, input_dim=words, num_output=units, bias_term=False, weight_filler=UNIFORM)
    n.lstm1 = L.LSTM(n.embedding, n.cont, num_output=units, weight_filler=UNIFORM)
    n.lstm2 = L.LSTM(n.lstm1, n.cont, n.fc8, num_output=units, weight_filler=UNIFORM)
    n.predict = L.InnerProduct(n.lstm2, num_output=words, axis=2, param=learned(), weight_filler=UNIFORM)
    n.accuracy = L.Accuracy(n.predict, n.target, axis=2, ignore_label=-1, include=TEST)
    n.cross_entropy_loss = L.SoftmaxWithLoss(
        n.predict, n.target, loss_weight=20, loss_param={"ignore_label": -1}, softmax_param={"axis": 2})
    return n
