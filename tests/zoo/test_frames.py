"""LRCN's nets: the published file, the average over time, words that do not count, and captions of made images."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import jaffe
from jaffe import compile_net, zoo
from jaffe.netdef import load
from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.zoo.frames import small_features
from jaffe.zoo.recurrent import UNIFORM

SMALL = dict(units=7, steps=5, shape=(1, 6, 4), features=small_features, batch=3, test_batch=2)


def test_caption_is_the_published_net(shared: Path):
    """Type, shapes of weights, first values and loss weight of every layer that has any, in phase TRAIN."""
    (path,) = shared.glob("prototxt/files/yahoo*/data/lrcn_cos.prototxt")
    text = path.read_text()
    theirs = load(text[text.index('layer {\n  name: "conv1"') :]).net  # behind the data layers, which are a fork's own
    inputs = LayerParameter(name="data", type="Input")
    for top, shape in (("data", (16, 3, 227, 227)), ("cont_sentence", (21, 16)), ("input_sentence", (21, 16)),
                       ("target_sentence", (21, 16))):
        inputs.top.append(top)
        inputs.input_param.shape.add(dim=shape)
    layers = [inputs, *theirs.layer]
    del theirs.layer[:]
    theirs.layer.extend(layers)
    stages = ["factored", "2-layer", "trainval"]
    published, ours = compile_net(theirs, phase="TRAIN", stages=stages), compile_net(zoo.caption(), phase="TRAIN")
    mine = {node.name: node for node in ours.graph.nodes}
    compared = [node for node in published.graph.nodes if node.type != "Input"]
    assert set(mine) - {node.name for node in compared} == {"data", "cont", "read", "target"}
    for node in compared:
        assert mine[node.name].type == node.type
        for one, other in zip(ours.stored[node.name], published.stored[node.name], strict=True):
            assert one.weight.shape == other.weight.shape, node.name
            fillers = [[getattr(each.weight.filler, field) for field in ("type", "value", "min", "max", "std")]
                       for each in (one, other)]
            assert fillers[0] == fillers[1], node.name
    assert list(ours.loss_tops.values()) == list(published.loss_tops.values()) == [20]


def test_lrcn_averages_over_time():
    net = compile_net(zoo.lrcn(classes=4, filler=UNIFORM, **SMALL), phase="TEST")
    random = np.random.default_rng(0)
    inputs = {"data": random.normal(size=(2, 5, 1, 6, 4)), "cont": np.ones((2, 5)), "label": np.array([1, 3])}
    variables = net.init(jax.random.key(0))
    found, _ = net.apply(variables, inputs, blobs=["clip", "probabilities", "loss"])
    assert found["probabilities"].shape == (5, 2, 4)
    np.testing.assert_allclose(found["clip"], found["probabilities"].mean(0), rtol=1e-5)
    expected = -np.log([found["probabilities"][:, 0, 1], found["probabilities"][:, 1, 3]]).mean()
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def test_lrcn_begins_a_clip_anew():
    """After a 0 in cont nothing is left of the frames before it, and of one clip nothing is in another."""
    net = compile_net(zoo.lrcn(classes=4, filler=UNIFORM, **SMALL), phase="TEST")
    variables = net.init(jax.random.key(0))
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 2, 5, 1, 6, 4))
    other[:, 2:] = one[:, 2:]
    other[1] = one[1]
    cont = np.ones((2, 5))
    cont[:, 2] = 0
    scores = [net.apply(variables, {"data": x, "cont": cont, "label": np.zeros(2)}, blobs=["scores"])[0]["scores"]
              for x in (one, other)]
    assert np.abs(scores[0][:2, 0] - scores[1][:2, 0]).min() > 0
    np.testing.assert_array_equal(scores[0][2:], scores[1][2:])
    np.testing.assert_array_equal(scores[0][:, 1], scores[1][:, 1])


def sentences(labels: np.ndarray) -> dict[str, np.ndarray]:
    """A caption of one to three words for each of three classes: 1; 2 1; 3 2 1. 0 begins and ends."""
    words = np.zeros((len(labels), 5), int)
    target = np.full((len(labels), 5), -1)
    for row, label in enumerate(labels):
        caption = [*range(label + 1, 0, -1), 0]
        words[row, 1 : len(caption)] = caption[:-1]
        target[row, : len(caption)] = caption
    cont = np.ones(words.shape)
    cont[:, 0] = 0
    return {"cont_sentence": cont, "input_sentence": words, "target_sentence": target}


@pytest.fixture(scope="module")
def captions() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=64)
    images = random.normal(size=(64, 1, 6, 4)) + labels.reshape(-1, 1, 1, 1) * 2
    return {"data": images.astype(np.float32), **sentences(labels)}


def test_captions_are_learnt(captions):
    job = jaffe.Solver(
        net=zoo.caption(words=4, **{**SMALL, "units": 16, "batch": 16, "test_batch": 64}), data=captions, type="Adam",
        base_lr=0.02, momentum=0.9, momentum2=0.999, lr_policy="fixed", max_iter=250, test_iter=[1], test_interval=1000,
        test_initialization=False, random_seed=1)
    job.step(250)
    (means,) = job.test()
    assert means["accuracy"] > 0.95
    stepper = job.tests[0].net.stepper(["input_sentence", "cont_sentence"], ["predict"])
    carry = stepper.start(job.variables, {"data": captions["data"]})
    words, written = np.zeros((64, 1)), []
    for t in range(5):
        inputs = {"input_sentence": words, "cont_sentence": np.full((64, 1), t > 0)}
        outputs, carry = stepper(job.variables, carry, inputs)
        words = outputs["predict"][0].argmax(-1)[:, None]
        written.append(words[:, 0])
    counted = captions["target_sentence"] >= 0
    right = (np.stack(written, 1) == captions["target_sentence"]) | ~counted
    assert right.all(1).mean() > 0.9


def test_words_behind_the_end_do_not_count(captions):
    net = compile_net(zoo.caption(words=4, **SMALL), phase="TRAIN")
    variables = net.init(jax.random.key(0))
    inputs = {name: array[:3] for name, array in captions.items()}
    changed = {**inputs, "input_sentence": np.where(inputs["target_sentence"] < 0, 3, inputs["input_sentence"])}
    assert (changed["input_sentence"] != inputs["input_sentence"]).any()
    losses = [net.loss(variables, one)[0] for one in (inputs, changed)]
    assert losses[0] == losses[1]
