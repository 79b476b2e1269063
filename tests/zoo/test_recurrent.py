"""Recurrent nets of the zoo: what their recipes learn, from data that need no files."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.train.data.made import SYMBOLS, python_text, sums


@pytest.mark.parametrize(("name", "iterations", "share"), [
    ("char_lstm", 40, 0.8), ("lstm_sequence_classifier", 150, 0.5), ("seq2seq_addition", 150, 0.8),
    ("lrcn", 120, 0.8)])
def test_recipes_learn(name: str, iterations: int, share: float):
    """A short run: the loss falls below this share of where it began."""
    job = jaffe.Solver(zoo.recipe(name), max_iter=iterations, test_interval=iterations, test_iter=[1], snapshot=0)
    losses = job.step(iterations)
    assert losses[-10:].mean() < share * losses[:3].mean()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), [("lstm_sequence_classifier", 0.95), ("lrcn", 0.99)])
def test_recipes_reach_what_they_say(name: str, accuracy: float):
    assert means(trained(name))["accuracy"] > accuracy


@pytest.mark.slow
def test_text_of_python():
    """Characters that are right, and bits each; and text that is drawn from the net is mostly of words."""
    job = trained("char_lstm")
    reached = means(job)
    assert reached["accuracy"] > 0.575
    assert reached["loss"] / np.log(2) < 2.3
    step, carry = zoo.char_step(job.net, job.variables)
    drawn, _ = zoo.sample(step, carry, np.array([ord("\n")]), 2000, jax.random.key(0), temperature=0.5)
    known = set(bytes(python_text("train", 1)["data"].ravel()).decode().split())
    words = "".join(map(chr, np.asarray(drawn[0]))).split()
    assert np.mean([word in known for word in words]) > 0.7


@pytest.mark.slow
def test_sums():
    """Characters, and answers without an error; which are right also when each character is read back."""
    job = trained("seq2seq_addition")
    assert means(job)["accuracy"] > 0.995
    right = answers(job) == sums("test")["answer"]
    assert right.all(1).mean() > 0.98


def answers(job: jaffe.Solver) -> np.ndarray:
    """What the net writes when it reads its own characters in place of the right ones, the likeliest each time."""
    net, data = job.tests[0].net, sums("test")
    size = net.shape("question")[0]
    apply = jax.jit(lambda inputs: net.apply(job.variables, inputs, blobs=["scores"])[0]["scores"].argmax(-1).T)
    written = np.zeros_like(data["answer"])
    for batch in np.split(np.arange(len(written)), len(written) // size):
        before = np.full((size, written.shape[1]), SYMBOLS.index("="))
        for t in range(before.shape[1]):
            inputs = {"question": data["question"][batch], "before": before, "answer": data["answer"][batch]}
            written[batch, t] = apply(inputs)[:, t]
            before[:, t + 1 : t + 2] = written[batch, t, None]
    return written


def trained(name: str) -> jaffe.Solver:
    job = jaffe.Solver(zoo.recipe(name), snapshot=0)
    job.run()
    return job


def means(job: jaffe.Solver) -> dict[str, float]:
    (found,) = job.test()
    return found
