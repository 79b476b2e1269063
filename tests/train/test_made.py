"""Data that need no files."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.train.data.made import SYMBOLS, python_text, sums
from jaffe.train.data.sources import open_dataset


def written(indices) -> str:
    return "".join(SYMBOLS[i] for i in indices)


def test_sums_are_right_and_apart():
    seen = {}
    for split, count in (("train", 50_000), ("test", 2_000)):
        data = sums(split)
        assert {name: array.shape for name, array in data.items()} == {
            "question": (count, 7), "before": (count, 4), "answer": (count, 4)}
        for i in range(0, count, 97):
            question, answer = written(data["question"][i]), written(data["answer"][i])
            a, b = map(int, question.split("+"))
            assert int(answer) == a + b
            assert written(data["before"][i]) == "=" + answer[:-1]
        seen[split] = {row.tobytes() for row in data["question"]}
        assert len(seen[split]) == count
    assert not seen["train"] & seen["test"]


def test_text_goes_on_from_row_to_row():
    train, test = python_text("train", streams=8), python_text("test", streams=8)
    for data in (train, test):
        np.testing.assert_array_equal(data["data"][1:], data["label"][:-1])
        assert not data["cont"][0].any()
        assert data["cont"][1:].all()
        assert data["data"].max() < 128
    # One stream ends where the next begins, and the test's text comes after all of them.
    assert train["label"][-1, 0] == train["data"][0, 1]
    assert len(train["data"]) > 8 * len(test["data"])
    text = bytes(train["data"][:, 0]).decode()
    assert "PYTHON" in text or "def " in text or "the " in text
    assert bytes(test["data"][:200, 0]) not in bytes(train["data"].T.tobytes())


@pytest.mark.parametrize(("name", "shuffled"), [("text:python", False), ("made:sums", True)])
def test_names(name, shuffled):
    data = open_dataset(name, "test")
    assert (data.name, data.shuffle) == (name, shuffled)
    assert len(data.records) > 1000
