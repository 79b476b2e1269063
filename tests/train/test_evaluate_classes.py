"""Confusion matrices, top-k, recall, precision and intersection over union at test."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe import Solver, zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.train import evaluate
from jaffe.train.class_report import ClassReport
from jaffe.train.confusion import Head, count, find_head
from jaffe.train.data import Feed
from jaffe.train.evaluate import Evaluation

KEY = jax.random.key(0)


def slowly(scores: np.ndarray, labels: np.ndarray, top_k, ignore_label=None) -> dict[str, np.ndarray]:
    """The counts, label by label: scores (N, K, ...), labels (N, ...)."""
    classes = scores.shape[1]
    confusion, hits = np.zeros((classes, classes), int), np.zeros(len(top_k), int)
    counted = outside = nan = 0
    for row, label in zip(np.moveaxis(scores, 1, -1).reshape(-1, classes), labels.ravel(), strict=True):
        if label == ignore_label:
            continue
        counted += 1
        nan += np.isnan(row).any()
        if label not in range(classes):
            outside += 1
            continue
        label = int(label)
        rivals = [i for i in range(classes) if i != label and row[i] >= row[label]]
        if np.isnan(row[label]):
            rivals = [*range(classes)]  # wrong for any k
        hits += [len(rivals) < k for k in top_k]
        others = [i for i in range(classes) if i != label]
        first = max(others, key=lambda i: (-np.inf if np.isnan(row[i]) else row[i], -i))
        confusion[label, first if rivals else label] += 1
    return {"confusion": confusion, "hits": hits, "counted": counted, "outside": outside, "nan": nan}


@pytest.mark.parametrize("shape", [(200,), (6, 7, 5)])
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("ignore_label", [None, 1, 255])
def test_counts(shape, classes, ignore_label):
    """Few different scores, so there are many ties; NaN and infinity among them, and labels that are no class."""
    random = np.random.default_rng(classes)
    scores = random.integers(0, 3, (shape[0], classes, *shape[1:])).astype(np.float32)
    scores[random.random(scores.shape) < 0.05] = np.nan
    scores[random.random(scores.shape) < 0.1] = -np.inf
    scores[0], scores[1] = np.nan, -np.inf
    labels = random.integers(0, classes, shape).astype(np.float32)
    labels[random.random(shape) < 0.1] = 255
    labels[random.random(shape) < 0.1] = -1
    labels[0] = labels[1] = 0
    top_k = (1, 2)
    found = count(scores, labels, Head("s", "l", 1, ignore_label), top_k)
    expected = slowly(scores, labels, top_k, ignore_label)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == np.int32
    assert expected["outside"] > 0
    assert expected["nan"] > 0
    assert np.trace(found["confusion"]) == found["hits"][0]
    assert found["confusion"].sum() + found["outside"] == found["counted"]


NET = """
name: "pixels"
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 3 height: 2 width: 5 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "one" type: "Accuracy" bottom: "conv" bottom: "label" top: "one" accuracy_param { ignore_label: 2 } }
layer { name: "two" type: "Accuracy" bottom: "conv" bottom: "label" top: "two"
        accuracy_param { ignore_label: 2 top_k: 2 } }
"""


def pixels(items: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [{"data": random.normal(size=(3, 2, 5)).astype(np.float32), "label": random.integers(0, 3, (1, 2, 5))}
            for _ in range(items)]


def evaluation(net: str, data, iterations: int | None = None, inputs=None) -> Evaluation:
    one = Feed(resolve(net, NetState("TEST")), data)
    return Evaluation(compile_net(net, phase="TEST", inputs=inputs or one.shapes), one, iterations, KEY)


# A label for each place: no net of MemoryData declares such labels.
IMAGES = NET.replace('type: "MemoryData"', 'type: "Input"').replace(
    "memory_data_param { batch_size: 4 channels: 3 height: 2 width: 5 }",
    "input_param { shape { dim: 4 dim: 3 dim: 2 dim: 5 } shape { dim: 4 dim: 1 dim: 2 dim: 5 } }")


@pytest.mark.parametrize("most", [2**31 - 1, 100])
def test_report_of_a_whole_data_set_of_images(most, monkeypatch):
    """``most``: counts that the device holds before the host adds them up, here after every second batch."""
    monkeypatch.setattr(evaluate, "MOST_COUNTED", most)
    data = pixels(23)
    one = evaluation(IMAGES, data)
    variables = one.net.init(KEY)
    report = one.class_report(variables, top_k=[1, 2])
    inputs = {name: np.stack([record[name] for record in data]) for name in ("data", "label")}
    outputs, _ = one.net.apply(variables, inputs, blobs=["conv"])
    expected = slowly(np.asarray(outputs["conv"]), inputs["label"], (1, 2), ignore_label=2)
    np.testing.assert_array_equal(report.confusion, expected["confusion"])
    assert report.confusion.dtype == np.int64
    assert (report.scores, report.labels, report.layer, report.spatial) == ("conv", "label", "two", True)
    assert report.counted == expected["counted"] == (inputs["label"] != 2).sum()
    # Caffe's own layers say the same.
    assert report.top_k[1] == pytest.approx(float(outputs["one"]), rel=1e-6)
    assert report.top_k[2] == pytest.approx(float(outputs["two"]), rel=1e-6)
    assert report.outputs == one.run(variables)
    again = one.class_report(variables, top_k=[1, 2])
    np.testing.assert_array_equal(again.confusion, report.confusion)


def test_from_the_tests_of_a_solver():
    solver = Solver(net=zoo.logreg(transform={"scale": 1 / 16}), data="tfds:digits", base_lr=0.1, momentum=0.9,
                    lr_policy="fixed", max_iter=30, test_iter=[3], test_interval=100, test_initialization=False,
                    test_compute_loss=True, random_seed=1)
    solver.run()
    report = solver.tests[0].class_report(solver.variables, solver.net)
    assert dict(report.outputs) == pytest.approx(solver.test()[0], rel=1e-6)
    assert report.outputs["accuracy"] == pytest.approx(report.top_k[1], rel=1e-6)
    assert report.counted == 300
    assert list(report.hits) == [1, 5]
    assert not report.spatial
    whole = Evaluation(solver.tests[0].net, solver.tests[0].feed, None, KEY).class_report(solver.variables, solver.net)
    np.testing.assert_array_equal(whole.confusion, report.confusion)  # 300 records: three batches of 100


HEADS = """
input: "x" input_shape { dim: 4 dim: 5 } input: "label" input_shape { dim: 4 }
input: "steps" input_shape { dim: 2 dim: 4 dim: 3 } input: "words" input_shape { dim: 2 dim: 4 }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" inner_product_param { num_output: 4 } }
"""
LAYERS = {
    "accuracy": 'layer { name: "acc" type: "Accuracy" bottom: "a" bottom: "label" top: "acc" }',
    "main": 'layer { name: "main" type: "Accuracy" bottom: "b" bottom: "label" top: "main" }',
    "softmax": 'layer { name: "sm" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" top: "sm" '
               'loss_param { ignore_label: 3 } }',
    "steps": 'layer { name: "st" type: "SoftmaxWithLoss" bottom: "steps" bottom: "words" top: "st" '
             'softmax_param { axis: -1 } }',
    "hinge": 'layer { name: "hi" type: "HingeLoss" bottom: "a" bottom: "label" top: "hi" }',
    "over": 'layer { name: "o" type: "Softmax" bottom: "b" top: "b" }',
}


@pytest.mark.parametrize(
    ("layers", "named", "expected"),
    [
        (["accuracy", "softmax"], {}, Head("a", "label", 1, None, "acc")),
        (["accuracy", "main"], {}, Head("b", "label", 1, None, "main")),  # after the auxiliary one
        (["accuracy", "main"], {"scores": "a"}, Head("a", "label", 1, None, "acc")),
        (["softmax"], {}, Head("b", "label", 1, 3, "sm")),
        (["softmax"], {"ignore_label": 0}, Head("b", "label", 1, 0, "sm")),
        (["hinge", "steps"], {}, Head("steps", "words", 2, None, "st")),
        (["hinge", "steps"], {"labels": "label"}, Head("a", "label", 1, None, "hi")),
        (["softmax", "over"], {"scores": "b", "labels": "label"}, Head("b", "label")),  # what was read is gone
        ([], {"scores": "a", "labels": "label"}, Head("a", "label")),
    ],
)
def test_where_scores_are(layers, named, expected):
    net = compile_net(HEADS + "".join(LAYERS[name] for name in layers), phase="TEST")
    assert find_head(net, **named) == expected


@pytest.mark.parametrize(
    ("layers", "named", "message"),
    [
        ([], {}, "net '' has no Accuracy layer and no loss with labels in phase TEST; name the blobs with scores and "
                 "labels (--scores, --labels)"),
        (["accuracy"], {"scores": "b"}, "no loss with labels that reads 'b' in phase TEST"),
        (["softmax", "over"], {}, "no Accuracy layer and no loss with labels in phase TEST"),
        (["accuracy"], {"scores": "aa"}, "the net has no blob 'aa'; did you mean 'a'?"),
        ([], {"scores": "a", "labels": "words"}, "expected scores (N, classes, ...) and a label for each place beside "
                                                 "the classes; found 'a' (4, 3) and 'words' (2, 4)"),
        ([], {"scores": "label", "labels": "label"}, "found 'label' (4,) and 'label' (4,)"),
    ],
)
def test_no_scores(layers, named, message):
    net = compile_net(HEADS + "".join(LAYERS[name] for name in layers), phase="TEST")
    with pytest.raises(JaffeError) as caught:
        find_head(net, **named)
    assert message in str(caught.value)


def test_numbers_of_classes():
    one = evaluation(IMAGES, pixels(4))
    for k in (0, 4):
        with pytest.raises(JaffeError, match=f"top_k are from 1 to the number of classes, 3; received 1, {k}"):
            one.class_report(one.net.init(KEY), top_k=[1, k])
    net = compile_net('input: "x" input_shape { dim: 2 dim: 20000 } input: "y" input_shape { dim: 2 }')
    with pytest.raises(JaffeError, match=r"scores 'x' have 20000 classes, axis 1 of \(2, 20000\); expected 2 to 16384"):
        find_head(net, "x", "y")


REPORT = ClassReport(
    scores="ip", labels="label", layer="accuracy",
    confusion=np.array([[8, 2, 0, 0], [0, 3, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0]]), hits={1: 11, 2: 15}, counted=17,
    outside=1, nan=3, spatial=True, outputs={"loss": float("nan"), "recall": [1.0, 0.5]},
)


def test_text():
    assert str(REPORT) == """\
ip against label (layer 'accuracy'): 17 labels, 4 classes
top-1     64.71%  11 right
top-2     88.24%  15 right
mean IoU 32.50%  mean recall 51.67%
1 labels are no class 0 to 3: wrong, and in no row (ignore_label leaves such out)
3 labels have a NaN among their scores

label | taken for
      | 0 1 2 3
------+--------
    0 | 8 2 . .
    1 | . 3 1 .
    2 | . . . .
    3 | . . 2 .

class    labels    recall  precision       IoU  most often taken for
    0        10    80.00%    100.00%    80.00%  1 (2)
    1         4    75.00%     60.00%    50.00%  2 (1)
    2         0         -      0.00%     0.00%
    3         2     0.00%          -     0.00%  2 (2)"""
    assert REPORT.confusions(2) == [(0, 1, 2), (3, 2, 2)]


def large(classes: int, most: int) -> ClassReport:
    random = np.random.default_rng(0)
    confusion = random.integers(0, 3, (classes, classes)) + np.diag(random.integers(10, most, classes))
    confusion[3, 5] = most // 2
    return ClassReport("fc8", "label", "", confusion, {1: 1}, int(confusion.sum()), 0, 0, False)


def test_text_of_many_classes():
    lines = str(large(1000, 10**5)).splitlines()
    assert len(lines) < 45
    assert max(map(len, lines)) < 80
    assert "most frequent mistakes" in lines
    assert lines[lines.index("most frequent mistakes") + 2].split()[:3] == ["3", "5", "50,000"]
    # Numbers that would make long lines are rounded.
    lines = str(large(25, 10**7)).splitlines()
    assert max(map(len, lines)) < 165
    assert "5.0M" in next(line for line in lines if line.startswith("    3 |"))


def test_files(tmp_path: Path):
    REPORT.save(tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["confusion"] == REPORT.confusion.tolist()
    assert found["top_k"]["2"] == {"accuracy": 15 / 17, "hits": 15}
    assert found["outputs"] == {"loss": None, "recall": [1.0, 0.5]}
    assert found["of_class"][2] == {"class": 2, "labels": 0, "recall": None, "precision": 0.0, "iou": 0.0}
    assert found["mean_iou"] == pytest.approx(0.325)
    REPORT.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "label,0,1,2,3\n0,8,2,0,0\n1,0,3,1,0\n2,0,0,0,0\n3,0,0,2,0\n"
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        REPORT.save(tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)
    with pytest.raises(JaffeError, match=r"a.txt: expected a name that ends in .json, .csv, .png, .svg or .pdf"):
        REPORT.save("a.txt")
    with pytest.raises(JaffeError, match="cannot be written"):
        REPORT.save(tmp_path / "gone" / "a.json")


def test_picture():
    axes = REPORT.draw().axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "2", "3", "1", "2"]
    np.testing.assert_allclose(axes.images[0].get_array()[1], [0, 0.75, 0.25, 0])
    assert np.ma.getmaskarray(axes.images[0].get_array())[2].all() or np.isnan(axes.images[0].get_array()[2]).all()
    assert not large(300, 100).draw().axes[0].texts
