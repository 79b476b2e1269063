"""Data that need no files."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from jaffe.train.data.made import (
    MADE,
    SYMBOLS,
    WAYS,
    moving_digits,
    pairs,
    python_text,
    several_digits,
    sums,
    turned_digits,
    vectors,
)
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
        seen[split] = {frozenset(map(int, written(row).split("+"))) for row in data["question"]}
        assert len(seen[split]) == count  # a + b and b + a are one
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
    assert text.count(" the ") > len(text) / 500
    assert bytes(test["data"][:200, 0]) not in bytes(train["data"].T.tobytes())


def test_digits_move_as_their_class_says():
    clips = {split: moving_digits(split) for split in ("train", "test")}
    for split, count in (("train", 8_000), ("test", 1_000)):
        data, label = clips[split]["data"][:, :, 0], clips[split]["label"]
        assert data.shape == (count, 8, 16, 16)
        assert (data.min(), data.max()) == (0, 16)
        assert not clips[split]["cont"][:, 0].any()
        assert clips[split]["cont"][:, 1:].all()
        for i in range(0, count, 53):
            for before, after in itertools.pairwise(data[i]):
                np.testing.assert_array_equal(np.roll(before, WAYS[label[i]], (0, 1)), after)
        assert np.bincount(label, minlength=8).min() > count / 8 * 0.8
    # Digits of the test are not among those of training; pixels in order of size are the same wherever a digit is.
    train, test = ({np.sort(clip[0], None).tobytes() for clip in clips[split]["data"][:, :, 0]} for split in clips)
    assert len(train) > 1400
    assert len(test) > 200
    assert not train & test


def upright(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The digits that pictures are made of, (digits, size, size), and their classes."""
    records = list(open_dataset("tfds:digits", split).records)
    images = [cv2.resize(record["image"][0] * np.float32(255 / 16), (size, size)) for record in records]
    return np.rint(images).astype(np.uint8), np.array([record["label"] for record in records])


@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs(split):
    images, label = upright(split, 28)
    classes = {image.tobytes(): digit for image, digit in zip(images, label, strict=True)}
    made = pairs(split)
    found = np.array([[classes[image.tobytes()] for image in pair] for pair in made["pair_data"]])
    np.testing.assert_array_equal(made["sim"], found[:, 0] == found[:, 1])
    assert made["sim"].mean() == 0.5
    assert np.bincount(found.ravel(), minlength=10).min() > len(found) / 10


@pytest.mark.parametrize("split", ["train", "test"])
def test_several_digits(split):
    images, label = upright(split, 14)
    classes = {image.tobytes(): digit for image, digit in zip(images, label, strict=True)}
    made = several_digits(split)
    for picture, present in zip(made["data"][:500, 0], made["label"], strict=False):
        quarters = [picture[i : i + 14, j : j + 14] for i in (0, 14) for j in (0, 14)]
        there = {classes[quarter.tobytes()] for quarter in quarters if quarter.any()}
        assert set(np.flatnonzero(present)) == there
    assert made["label"].sum(1).min() == 0
    assert made["label"].sum(1).max() == 4


def test_turned_digits():
    """Turned back, they are near the upright ones of their class; turned the other way, many are not."""
    images, label = upright("test", 20)
    images = np.pad(images, ((0, 0), (4, 4), (4, 4))).reshape(len(images), -1).astype(float)
    made = turned_digits("test")
    right = []
    for degrees in (-45, 45):
        turned = [cv2.warpAffine(image[0], cv2.getRotationMatrix2D((13.5, 13.5), degrees * float(turn[0]), 1), (28, 28))
                  for image, turn in zip(made["data"][:200], made["angle"], strict=False)]
        nearest = [np.square(images - image.ravel()).sum(1).argmin() for image in turned]
        right.append((label[nearest] == made["digit"][:200]).mean())
    assert right[0] == 1
    assert right[1] < 0.9
    np.testing.assert_array_equal(made["odd"], made["digit"] % 2)
    assert np.abs(made["angle"]).max() <= 1


def test_vectors():
    """One number differs between the classes in its mean; a second helps only together with it."""
    made = vectors("train")
    means = [made["data"][made["label"] == label].mean(0) for label in (0, 1)]
    assert (np.abs(means[1] - means[0]) < 0.1).sum() == 3
    assert made["data"].shape == (7500, 4)
    assert len(vectors("test")["data"]) == 2500


@pytest.mark.parametrize("name", MADE)
def test_they_are_the_same_each_time(name):
    make, _ = MADE[name]
    for one, again in zip(make("test").values(), make("test").values(), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(("name", "shuffled"), [("text:python", False), ("made:sums", True), ("made:moving", True),
                                                ("made:pairs", True), ("made:vectors", True)])
def test_names(name, shuffled):
    data = open_dataset(name, "test")
    assert (data.name, data.shuffle) == (name, shuffled)
    assert len(data.records) >= 1000
