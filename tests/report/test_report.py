"""The page of a run: what is on it, what is left out, and that names cannot do anything in it."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import jaffe
from jaffe.netdef import JaffeError, L
from jaffe.report import report, write
from jaffe.report.markup import Html, fill, table
from jaffe.report.pictures import histogram
from jaffe.report.run import find_metrics, read_run
from jaffe.report.sections import _duration, facts, net
from jaffe.train.report import read_metrics
from jaffe.train.snapshots import save_variables
from tests.report.runs import EVIL, Page, train


@pytest.fixture(scope="module")
def page(lenet_page) -> Page:
    return Page(lenet_page)


def test_sections(page):
    assert page.headings == ["LeNet", "Run", "Curves", "Net", "Classes", "Confusion", "Worst mistakes", "Filters",
                             "Weights", "Settings"] + ["Not shown"] * (shutil.which("dot") is None)


def test_facts_are_those_of_the_run(page, lenet):
    tests = [row for row in read_metrics(Path(f"{lenet}_metrics.jsonl")) if "test" in row]
    best = max(tests, key=lambda row: row["accuracy"])
    found = {row[0]: row[1:] for row in page.tables["Tests"][1:]}
    assert found["accuracy"] == [f"{best['accuracy']:.4g}", f"{tests[-1]['accuracy']:.4g}", "60"]
    assert f"iteration {best['iteration']} (the best)" in page.text
    for text in ("60 of 60", "431,080", "tfds:digits", f"jax {jaffe.compile.net.jax.__version__}"):
        assert text in page.text
    settings = {row[0]: row[1] for row in page.tables["Settings that were given"][1:]}
    assert settings["base_lr"] == "0.02"
    assert settings["stepvalue"] == "600"
    assert settings["snapshot_prefix"] == str(lenet)


def test_layers_and_weights(page):
    layers = page.tables["Layers in phase TRAIN"]
    assert ["conv2", "Convolution", "64×50×8×8", "25,050", "205.005", "409.805"] in layers
    assert layers[-1] == ["total", "", "", "431,080", "295.456", "552.096"]
    weights = page.tables["Weights and state of the layers that own them"][1:]
    assert [row[:3] for row in weights[:2]] == [["conv1", "weight", "20×1×5×5"], ["conv1", "bias", "20"]]
    assert all(float(row[5]) <= float(row[3]) <= float(row[6]) for row in weights)


def test_classes_add_up_to_the_test(page):
    matrix = page.tables["Rows are labels, columns what they were taken for; colours are shares of a row"][1:]
    counts = np.array([[int(text.replace("·", "0")) for text in row[1:]] for row in matrix])
    of_class = [int(row[1]) for row in page.tables["Classes"][1:]]
    assert counts.shape == (10, 10)
    assert counts.sum(1).tolist() == of_class
    accuracy = float(next(row[1] for row in page.tables["Tests"] if row[0] == "accuracy"))
    assert counts.sum() == 300
    assert np.trace(counts) / 300 == pytest.approx(accuracy, abs=1e-4)


def test_worst_items_are_the_digits_of_these_numbers(page, lenet_page):
    """Highest loss first; each picture is the digit that the test data have there."""
    from jaffe.train.data import open_dataset

    captions = [part.partition("</figcaption>")[0] for part in lenet_page.split("<figcaption><b>")[1:]]
    assert len(captions) == 24
    losses = [float(text.rpartition("loss ")[2]) for text in captions]
    assert losses == sorted(losses, reverse=True)
    assert "taken for" in captions[0]
    records = open_dataset("tfds:digits", "test").records
    pictures = [attributes["src"] for tag, attributes in page.elements
                if tag == "img" and attributes["alt"].startswith("Test item")]
    for text, source in zip(captions, pictures, strict=True):
        record = records[int(text.partition("item ")[2].partition(",")[0])]
        assert text.startswith((f"{record['label']},", f"{record['label']} taken"))
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), 0)
        assert pixels.shape == (28, 28)
        expected = cv2.resize(record["image"][0].astype(np.float32), (32, 32))[2:30, 2:30]  # as the recipe crops it
        assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.999


def test_nothing_is_fetched_and_the_file_is_small(page, lenet_page):
    assert len(lenet_page) < 300_000
    assert all(source.startswith("data:image/") for source in page.images())
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "style")]
        assert attributes.get("href", "#").startswith("#")
        assert tag != "img" or attributes["alt"]
        assert tag != "th" or attributes["scope"] in ("row", "col")
    policy = next(attributes["content"] for tag, attributes in page.elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_snapshot_asked_for(lenet):
    run = read_run(lenet, f"{lenet}_snapshots/iter_0")
    assert "snapshot shown</dt><dd>iteration 0</dd>" in facts(run)
    with pytest.raises(JaffeError, match=r"iter_7 is not a snapshot; there are iterations"):
        read_run(lenet, f"{lenet}_snapshots/iter_7")


def test_without_what_is_gone(lenet, tmp_path, monkeypatch):
    """No snapshot: metrics alone. No Graphviz: no drawing."""
    shutil.copy(f"{lenet}_metrics.jsonl", tmp_path / "alone_metrics.jsonl")
    page = Page(report(tmp_path / "alone"))
    assert page.headings == ["alone", "Run", "Curves", "Not shown"]
    assert "The run has no snapshot yet" in page.text
    monkeypatch.setenv("PATH", "")
    run = read_run(lenet)
    page = Page(net(run))
    assert len(page.tables["Layers in phase TRAIN"]) == 11
    assert not page.images()
    assert len(run.notes) == 1
    assert run.notes[0].startswith("The net is not drawn: ")
    assert "graphviz" in run.notes[0]


def test_regression(tmp_path):
    """No classes, and nothing said about them. It is the average of the weights that is shown."""
    n = jaffe.NetSpec("auto")
    n.data, n.label = L.MemoryData(ntop=2, memory_data_param=dict(batch_size=10, channels=1, height=8, width=8))
    n.flat = L.Flatten(n.data)
    n.code = L.InnerProduct(n.flat, num_output=8, weight_filler=dict(type="xavier"))
    n.out = L.InnerProduct(n.code, num_output=64, weight_filler=dict(type="xavier"))
    n.error = L.EuclideanLoss(n.out, n.flat)
    n.unused = L.Silence(n.label, ntop=0)
    solver = jaffe.Solver(net=n, data="tfds:digits", base_lr=1e-4, lr_policy="fixed", max_iter=3, test_iter=[2],
                          test_interval=1, ema_decay=0.9, snapshot_prefix=str(tmp_path / "auto"))
    solver.run()
    page = Page(report(tmp_path))
    assert [one for one in page.headings if one != "Not shown"] == ["auto", "Run", "Curves", "Net", "Weights",
                                                                    "Settings"]
    weight = np.asarray(solver.state.ema["code"]["weight"])
    assert page.tables["Weights and state of the layers that own them"][1][3] == f"{weight.mean(dtype=float):.4g}"


@pytest.mark.slow
def test_a_recurrent_net(tmp_path):
    train("lstm_sequence_classifier", tmp_path / "lstm", max_iter=2, test_interval=1)
    page = Page(report(tmp_path))
    assert [one for one in page.headings if one != "Not shown"] == [
        "LSTMSequenceClassifier", "Run", "Curves", "Net", "Classes", "Confusion", "Worst mistakes", "Weights",
        "Settings"]
    assert sum(int(row[1]) for row in page.tables["Classes"][1:]) == 300


def test_names_are_text(hostile):
    page = Page(hostile)
    assert page.headings[0] == EVIL
    assert EVIL in [row[0] for row in page.tables["Layers in phase TRAIN"]]
    assert f"{EVIL} loss" in [row[0] for row in page.tables["Tests"]]
    assert "<b>run" in page.text
    assert not [tag for tag, attributes in page.elements if tag == "script" or "onerror" in attributes]
    for source in page.images():
        if "svg" in source:
            assert b"<script" not in base64.b64decode(source.partition(",")[2])


def test_templates_escape():
    assert fill("<p>{a}{b}</p>", a="<&\"'", b=Html("<br>")) == "<p>&lt;&amp;&quot;&#x27;<br></p>"
    assert '<th scope=row>&lt;b&gt;</th><td class=n>1</td>' in table("t", ["<a>", "n"], [["<b>", 1]])


def test_data_named_anew_and_data_that_are_gone(tmp_path):
    """Data of the run that are gone are a note; those that the caller names, an error."""
    random = np.random.default_rng(0)
    data = dict(data=random.integers(0, 16, (300, 1, 8, 8), np.uint8), label=np.arange(300) % 10)
    np.savez(tmp_path / "d.npz", **data)
    np.savez(tmp_path / "same.npz", data=data["data"], label=np.full(300, 3))
    jaffe.Solver(net=jaffe.zoo.mlp(shape=(1, 8, 8)), data=f"npz:{tmp_path / 'd.npz'}", base_lr=0.001, max_iter=1,
                 lr_policy="fixed", test_iter=[1], test_interval=1, snapshot_prefix=str(tmp_path / "mlp")).run()
    page = Page(report(tmp_path / "mlp", data=f"npz:{tmp_path / 'same.npz'}"))
    assert [row[1] for row in page.tables["Classes"][1:]] == ["0", "0", "0", "100", *["0"] * 6]
    with pytest.raises(JaffeError, match="there is no gone"):
        report(tmp_path / "mlp", data="npz:gone")
    (tmp_path / "d.npz").unlink()
    page = Page(report(tmp_path / "mlp"))
    assert "Classes" not in page.headings
    assert "The test data cannot be read" in page.text
    assert "Weights" in page.headings


def test_the_run_of_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaffeError, match=r"^\. is no run: expected a file \*_metrics\.jsonl in it; found none"):
        find_metrics(".")
    (tmp_path / "a_metrics.jsonl").write_text("")
    assert find_metrics(".") == Path("a_metrics.jsonl")


def test_wrong_runs(tmp_path):
    def message(run) -> str:
        with pytest.raises(JaffeError) as error:
            report(run)
        return str(error.value)

    assert message(tmp_path) == f"{tmp_path} is no run: expected a file *_metrics.jsonl in it; found none"
    assert message(tmp_path / "x") == (f"{tmp_path}/x is no run: expected a folder, or a file {tmp_path}/x_metrics."
                                       "jsonl; found none")
    (tmp_path / "a_metrics.jsonl").write_text("")
    assert message(tmp_path).endswith("a_metrics.jsonl has no rows: nothing was displayed or tested yet")
    (tmp_path / "a_metrics.jsonl").write_text('{"iteration": 0}\n{"iter\n{"iteration": 1}\n')
    assert message(tmp_path / "a").endswith('a_metrics.jsonl:2 is not a row of metrics: {"iter')
    (tmp_path / "b_metrics.jsonl").write_text(json.dumps({"iteration": 0, "loss": 1.0}) + "\n")
    assert message(tmp_path) == f"{tmp_path} holds several runs: expected one of {tmp_path}/a, {tmp_path}/b"
    (tmp_path / "b_snapshots" / "iter_3" / "state").mkdir(parents=True)
    assert f"snapshot {tmp_path}/b_snapshots/iter_3 is damaged" in message(tmp_path / "b")
    save_variables(tmp_path / "iter_1", {"params": {"a": {"weight": np.ones(2)}}, "state": {}})
    with pytest.raises(JaffeError, match="iter_1 holds weights only: expected a snapshot of a run"):
        read_run(tmp_path / "b", tmp_path / "iter_1")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is no run" in message(tmp_path / "notes.txt")
    assert "cannot be read" in message("x" * 300)


def test_metrics_of_all_sorts(tmp_path):
    """Whatever a row may hold: what is not finite, several numbers, a run of hours, names of keys."""
    rows = [{"iteration": 0, "loss": None, "lr": None, "images_per_second": None, "outputs": {"v": [1, None]}},
            {"iteration": 5, "test": 1, "v": [0.5, 1.5, None], "output test": 2, "none": None, "elapsed": 7384.2}]
    (tmp_path / "a_metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(report(tmp_path))
    assert page.tables["Tests"][1:] == [["v (test 1)", "mean 1 of 3", "5"], ["output test (test 1)", "2", "5"],
                                        ["none (test 1)", "", "5"]]
    assert "2 h 3 min" in page.text


@pytest.mark.parametrize("values", [[1, 1 + 2.3e-16], [0, 1e-300], [-1.7e308, 1.7e308], [3, 3]])
def test_histograms_of_numbers_that_hardly_differ_or_differ_too_much(values):
    assert histogram(np.array(values)).count("M") == len(set(values))


def test_durations():
    assert [_duration(seconds) for seconds in (0.04, 59.94, 59.96, 119.7, 3599.9, 7384.2)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "2 min 0 s", "1 h 0 min", "2 h 3 min"]


def test_a_page_is_written_whole_or_not_at_all(lenet, tmp_path):
    shutil.copy(f"{lenet}_metrics.jsonl", tmp_path / "a_metrics.jsonl")
    (tmp_path / "old.html").write_text("old")
    with pytest.raises(JaffeError):
        write(tmp_path / "none", tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"
    with pytest.raises(JaffeError, match="cannot be written"):
        write(tmp_path / "a", tmp_path / "no" / "page.html")
    write(tmp_path / "a", tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text().startswith("<!doctype html>")
