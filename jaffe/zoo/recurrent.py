"""Recurrent nets. Their blobs have time as the first axis, sequences as the second: (T, N, ...)."""

from __future__ import annotations

from jaffe.netdef import L, NetSpec
from jaffe.zoo.parts import TEST


def char_lstm(*, symbols: int = 128, units: int = 256, steps: int = 100, batch: int = 32) -> NetSpec:
    """Predicts the next symbol of a text: embedding, LSTM, scores of each symbol; 590,976 parameters by default.

    ``data``, ``cont`` and ``label`` are (steps, batch): symbols, 0 where a sequence begins and else 1, and the symbols
    that follow. h and c go from one batch to the next. No accuracy is published for these sizes. Source: Graves 2013
    (arXiv 1308.0850), without peepholes; Karpathy's char-rnn 2015; the layers as in Caffe's recurrent examples.

    Args:
        symbols: how many there are; 128 is ASCII.
        units: H, of the embedding and of the LSTM.
        steps: T, through which gradients flow back.
    """
    n = NetSpec("CharLSTM")
    n.data, n.cont, n.label = L.Input(ntop=3, shape={"dim": [steps, batch]})
    uniform = {"type": "uniform", "min": -0.08, "max": 0.08}
    n.embed = L.Embed(n.data, input_dim=symbols, num_output=units, bias_term=False, weight_filler=uniform)
    n.lstm = L.LSTM(n.embed, n.cont, num_output=units, weight_filler=uniform)
    n.scores = L.InnerProduct(n.lstm, num_output=symbols, axis=2, weight_filler=uniform)
    n.accuracy = L.Accuracy(n.scores, n.label, axis=2, include=TEST)
    n.loss = L.SoftmaxWithLoss(n.scores, n.label, axis=2)
    return n
