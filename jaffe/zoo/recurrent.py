"""Recurrent nets. Their blobs have time as the first axis, sequences as the second: (T, N, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.builder import Top
from jaffe.netdef.cells import UNIFORM
from jaffe.zoo.cards import published
from jaffe.zoo.parts import TEST, classify, images, inputs


@published(
    title="Character LSTM", task="sequences",
    paper="Graves 2013 (arXiv 1308.0850), without peepholes; the layers as in Caffe's recurrent examples",
    input="symbols by number, time first: (steps, batch)",
)
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
    n.embed = L.Embed(n.data, input_dim=symbols, num_output=units, bias_term=False, weight_filler=UNIFORM)
    n.lstm = L.LSTM(n.embed, n.cont, num_output=units, weight_filler=UNIFORM)
    n.scores = L.InnerProduct(n.lstm, num_output=symbols, axis=2, weight_filler=UNIFORM)
    n.accuracy = L.Accuracy(n.scores, n.label, axis=2, include=TEST)
    n.loss = L.SoftmaxWithLoss(n.scores, n.label, axis=2)
    return n


@published(
    title="LSTM over rows", task="sequences",
    paper="Le, Jaitly, Hinton 2015 (arXiv 1504.00941), by rows in place of pixels",
    input="8x8, grey, scaled to [0, 1]",
)
def lstm_sequence_classifier(
    *, rows: int = 8, columns: int = 8, units: int = 64, classes: int = 10, batch: int = 64, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Reads grey images row by row, from the top, and names their class after the last; 19,338 parameters by default.

    Source: the task is that of Le, Jaitly and Hinton 2015 (arXiv 1504.00941), by rows in place of pixels.

    Args:
        rows, columns: of the images; the sequence has as many steps as rows.
        units: H of the LSTM.
    """
    n = NetSpec("LSTMSequenceClassifier")
    images(n, (1, rows, columns), batch, test_batch, transform)
    n.flat = L.Reshape(n.data, axis=1, num_axes=1, shape={})
    n.rows = L.Permute(n.flat, order=[1, 0, 2])
    n.lstm = L.LSTM(n.rows, beginnings(L.Reduction(n.rows, axis=2)), num_output=units, weight_filler=UNIFORM)
    n.earlier, n.last = L.Slice(n.lstm, ntop=2, axis=0, slice_point=[rows - 1])
    n.unused = L.Silence(n.earlier, ntop=0)
    n.read = L.Reshape(n.last, axis=0, num_axes=2, shape={"dim": [-1]})
    n.scores = L.InnerProduct(n.read, num_output=classes, weight_filler={"type": "xavier"})
    classify(n, n.scores)
    return n


@published(
    title="Sequence to sequence", task="sequences",
    paper="Sutskever, Vinyals, Le 2014 (arXiv 1409.3215); the task of Zaremba, Sutskever 2014 (arXiv 1410.4615)",
    input="characters by number",
)
def seq2seq_addition(
    *, symbols: int = 13, question: int = 7, answer: int = 4, units: int = 128, batch: int = 128, test_batch: int = 500
) -> NetSpec:
    """Reads a sum as characters and writes the answer: an encoder LSTM, and a decoder that goes on from its h and c;
    266,509 parameters by default.

    ``question`` (batch, question), ``before`` (batch, answer): the answer's characters, each moved one place on, behind
    a mark that begins it; ``answer`` (batch, answer). The question is read backwards. Source: Sutskever, Vinyals and Le
    2014 (arXiv 1409.3215); the task as in Zaremba and Sutskever 2014 (arXiv 1410.4615) and Keras' ``addition_rnn``.

    Args:
        symbols: how many characters there are.
        question, answer: their lengths.
        units: H of both LSTMs, and of the embedding that they share.
    """
    n = NetSpec("Seq2SeqAddition")
    inputs(n, batch, test_batch, {"question": (question,), "before": (answer,), "answer": (answer,)})

    def embedded(bottom: Top) -> Top:
        return L.Embed(L.Permute(bottom, order=[1, 0]), input_dim=symbols, num_output=units, bias_term=False,
                       weight_filler=UNIFORM, param=[{"name": "embed"}])

    settled = {"num_output": units, "weight_filler": UNIFORM, "expose_hidden": True, "hidden_gradient": True}
    n.asked, n.written = embedded(n.question), embedded(n.before)
    pieces = L.Slice(n.asked, ntop=question, axis=0)
    n.backwards = L.Concat(*reversed(pieces), axis=0)
    n.zeros = L.Power(pieces[0], scale=0)
    n.encoder, n.h, n.c = L.LSTM(n.backwards, _ones(n.question), n.zeros, n.zeros, ntop=3, **settled)
    n.decoder, n.last_h, n.last_c = L.LSTM(n.written, _ones(n.before), n.h, n.c, ntop=3, **settled)
    n.unused = L.Silence(n.encoder, n.last_h, n.last_c, ntop=0)
    n.scores = L.InnerProduct(n.decoder, num_output=symbols, axis=2, weight_filler=UNIFORM)
    n.expected = L.Permute(n.answer, order=[1, 0])
    n.accuracy = L.Accuracy(n.scores, n.expected, axis=2, include=TEST)
    n.loss = L.SoftmaxWithLoss(n.scores, n.expected, axis=2)
    return n


def beginnings(like: Top) -> Top:
    """cont, (T, N), of sequences that are whole in each batch: 0 at the first step, then 1. ``like``: any (T, N)."""
    first, others = L.Slice(L.Power(like, scale=0, shift=1), ntop=2, axis=0, slice_point=[1])
    return L.Concat(L.Power(first, scale=0), others, axis=0)


def _ones(items: Top) -> Top:
    """cont, (T, N), of sequences that go on from a state that is given. ``items``: (N, T)."""
    return L.Power(L.Permute(items, order=[1, 0]), scale=0, shift=1)
