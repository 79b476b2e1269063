"""jaffe test: whole data sets, stages and levels, weights of several files, and the report of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from jaffe.netdef import JaffeError
from jaffe.netdef.weights import write_weights

NET = """
name: "small"
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 3 height: 1 width: 1 } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" inner_product_param { num_output: 3 } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" inner_product_param { num_output: 3 } }
layer { name: "acc" type: "Accuracy" bottom: "two" bottom: "label" top: "acc" include { stage: "graded" stage: "all" } }
layer { name: "best" type: "Accuracy" bottom: "two" bottom: "label" top: "best" include { min_level: 2 }
        accuracy_param { top_k: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "label" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Ten records of which the net, by its two weights files together, gets the first seven right."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    labels = np.arange(10) % 3
    shown = np.where(np.arange(10) < 7, labels, (labels + 1) % 3)
    np.savez(tmp_path / "data.npz", data=np.eye(3, dtype=np.float32)[shown].reshape(10, 3, 1, 1), label=labels)
    turn = np.roll(np.eye(3, dtype=np.float32), 1, 0)
    write_weights(tmp_path / "a.npz", {"one": [turn, np.zeros(3, np.float32)]})
    write_weights(tmp_path / "b.safetensors", {"two": [turn.T, np.zeros(3, np.float32)]})
    return tmp_path


def run(*arguments: str, weights: str = "a.npz, b.safetensors"):
    command = ["test", "--model", "net.prototxt", "--data", "npz:data.npz", "--weights", weights, *arguments]
    result = CliRunner().invoke(app, command)
    if result.exception is not None:
        raise result.exception
    return result


def numbers(output: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split(" = ") for line in output.splitlines() if " = " in line)}


def test_the_whole_data_set_in_all_stages(folder):
    result = run("--iterations", "all", "--stage", "graded,all", "--level", "2")
    assert numbers(result.stdout) == {"acc": 0.7, "best": 0.7, "loss": pytest.approx(0.8514447, abs=1e-6)}
    assert result.stderr == ""


def test_some_batches(folder):
    result = run("--iterations", "3", "--stage", "graded, all")
    assert numbers(result.stdout)["acc"] == pytest.approx(9 / 12, abs=1e-6)  # the first two records a second time
    assert result.stderr == "3 batches of 4 took records more than once; --iterations all takes each once\n"
    assert set(numbers(result.stdout)) == {"acc", "loss"}


def test_report(folder):
    result = run("--iterations", "all", "--output", "r.json", "--output", "r.png", "--top-k", "1, 3")
    assert numbers(result.stdout) == {"loss": pytest.approx(0.8514447, abs=1e-6)}
    assert "two against label (layer 'loss'): 10 labels, 3 classes" in result.stdout
    assert "top-1     70.00%  7 right" in result.stdout
    assert result.stdout.endswith("written r.json\nwritten r.png\n")
    found = json.loads(Path("r.json").read_text())
    assert found["confusion"] == [[3, 1, 0], [0, 2, 1], [1, 0, 2]]
    assert found["top_k"]["3"]["hits"] == 10
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(JaffeError, match=r"r.png is there already; --force overwrites it"):
        run("--output", "new.csv", "--output", "r.png")
    assert not Path("new.csv").exists()
    result = run("--iterations", "1", "--output", "r.json", "--force", "--scores", "one", "--labels", "label",
                 "--ignore-label", "0")
    assert "one against label: 2 labels, 3 classes" in result.stdout
    assert json.loads(Path("r.json").read_text())["confusion"] == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iterations", "0"], "--iterations 0: expected numbers from 1 on, or all"),
        (["--iterations", "some"], "--iterations some: expected numbers from 1 on, or all"),
        (["--top-k", "1,x"], "--top-k x: expected numbers from 1 on"),
        (["--top-k", "9"], "top_k are from 1 to the number of classes, 3; received 9"),
        (["--output", "r.txt"], "r.txt: expected a name that ends in .json, .csv, .png, .svg or .pdf"),
        (["--output", "gone/r.csv"], "gone/r.csv: cannot be written: No such file or directory"),
        (["--scores", "three"], "the net has no blob 'three'"),
    ],
)
def test_wrong_options(folder, arguments, message):
    with pytest.raises(JaffeError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_a_file_without_layers_of_the_net(folder):
    write_weights(folder / "c.npz", {"three": [np.zeros(3, np.float32)]})
    with pytest.raises(JaffeError, match=r"no layer of c.npz is in net 'small'"):
        run(weights="a.npz,c.npz")
