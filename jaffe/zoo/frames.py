"""Nets that read images and sequences: CaffeNet before LSTMs. Source: Donahue et al. 2015 (arXiv 1411.4389), LRCN."""

from __future__ import annotations

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned
from jaffe.zoo.imagenet import caffenet_features
from jaffe.zoo.parts import TEST
from jaffe.zoo.recurrent import UNIFORM


def lrcn(*, classes: int = 101, units: int = 256, steps: int = 16, batch: int = 2) -> NetSpec:
    """Names what happens in a video: CaffeNet up to fc6 of each frame, an LSTM over the frames, scores at each step;
    44,570,341 parameters by default.

    ``data`` is (steps * batch, 3, 227, 227), frames of the first step first; ``cont`` and ``label`` are (steps, batch).
    A video's class is the one of the highest mean of ``probabilities`` (steps, batch, classes). The published net for
    UCF-101 has other sizes in its convolutions.

    Args:
        units: H of the LSTM.
        steps: frames of a video that are read together.
    """
    n = NetSpec("LRCN")
    n.data = L.Input(shape={"dim": [steps * batch, 3, 227, 227]})
    n.cont, n.label = L.Input(ntop=2, shape={"dim": [steps, batch]})
    n.frames = L.Reshape(caffenet_features(n, n.data, layers=(6,)), shape={"dim": [steps, batch, 4096]})
    n.lstm = L.LSTM(n.frames, n.cont, num_output=units, weight_filler={"type": "uniform", "min": -0.01, "max": 0.01})
    n.scores = L.InnerProduct(n.lstm, num_output=classes, axis=2, param=learned(),
                              weight_filler={"type": "gaussian", "std": 0.01})
    n.probabilities = L.Softmax(n.scores, axis=2, include=TEST)
    n.accuracy = L.Accuracy(n.scores, n.label, axis=2, include=TEST)
    n.loss = L.SoftmaxWithLoss(n.scores, n.label, axis=2)
    return n


def caption(*, words: int = 8801, units: int = 1000, steps: int = 21, batch: int = 16) -> NetSpec:
    """Describes an image: an LSTM over the words so far, a second one that reads it and the image; LRCN's factored net
    of two layers, 98,584,025 parameters by default.

    ``data`` (batch, 3, 227, 227): a sentence's image; ``cont``, ``input_sentence``, ``target_sentence`` (steps, batch):
    0 where a sentence begins and else 1; the words, behind a mark that begins each sentence; the words, before a mark
    that ends it, then -1, which counts neither in the loss nor in the accuracy. Source: the LRCN recipe's
    ``lrcn.prototxt``, with its sizes and names.

    Args:
        words: of the vocabulary, the mark included.
        units: of the embedding, of both LSTMs and of the image's features.
    """
    n = NetSpec("LRCNCaption")
    n.data = L.Input(shape={"dim": [batch, 3, 227, 227]})
    n.cont, n.input_sentence, n.target_sentence = L.Input(ntop=3, shape={"dim": [steps, batch]})
    n.fc8 = L.InnerProduct(caffenet_features(n, n.data), num_output=units, param=learned(),
                           weight_filler={"type": "gaussian", "std": 0.01})
    n.embedding = L.Embed(n.input_sentence, input_dim=words, num_output=units, bias_term=False, weight_filler=UNIFORM)
    n.lstm1 = L.LSTM(n.embedding, n.cont, num_output=units, weight_filler=UNIFORM)
    n.lstm2 = L.LSTM(n.lstm1, n.cont, n.fc8, num_output=units, weight_filler=UNIFORM)
    n.predict = L.InnerProduct(n.lstm2, num_output=words, axis=2, param=learned(), weight_filler=UNIFORM)
    n.accuracy = L.Accuracy(n.predict, n.target_sentence, axis=2, ignore_label=-1, include=TEST)
    n.cross_entropy_loss = L.SoftmaxWithLoss(
        n.predict, n.target_sentence, loss_weight=20, loss_param={"ignore_label": -1}, softmax_param={"axis": 2})
    return n
