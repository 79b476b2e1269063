"""The option that lets a net's Python layers run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import jaffe
from tests.train.test_recurrent import NET

MINE = """
import jaffe

class Twice(jaffe.PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff

class Failing(Twice):
    def forward(self, bottom, top):
        raise OSError("the sensor is off")
"""
TWICE = ('layer { name: "x" type: "Python" bottom: "data" top: "twice" '
         'python_param { module: "mine" layer: "Twice" } }\n')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net with a Python layer before an LSTM, its solver and data; the layer's module is on the path."""
    random = np.random.default_rng(0)
    np.savez(tmp_path / "items.npz", data=random.normal(size=(31, 1, 1, 7)), label=random.integers(0, 3, 31))
    (tmp_path / "mine.py").write_text(MINE)
    before, after = NET.split('layer { name: "x"', 1)
    net = before + TWICE + 'layer { name: "steps"' + after.replace('bottom: "data"', 'bottom: "twice"', 1)
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 test_iter: 2 test_interval: 3 '
        'snapshot_prefix: "run" random_seed: 1\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_commands(folder: Path):
    allowed = ("--python-module", "mine")
    data = ("--data", "npz:items.npz")
    trained = jaffe("train", "--solver", "solver.prototxt", *data, *allowed, cwd=folder)
    assert " train --solver solver.prototxt --data npz:items.npz --python-module mine" in trained
    tested = jaffe("test", "--model", "net.prototxt", "--snapshot", "run_snapshots", "--iterations", "2", *data,
                   *allowed, cwd=folder)
    loss = float(tested.split("loss = ")[1])
    assert f"test loss   {loss:.4g}".split() == next(
        line.split() for line in trained.splitlines() if line.strip().startswith("test loss"))
    shapes = ("--input", "data=10,1,1,7", "--input", "label=10")
    summary = jaffe("summary", "--model", "net.prototxt", *shapes, *allowed, cwd=folder)
    assert "carries h, c to the next call" in summary
    timed = jaffe("time", "--model", "net.prototxt", "--iterations", "1", "--phase", "TEST", *shapes, *allowed,
                  cwd=folder)
    assert "lstm" in timed
    refused = jaffe("summary", "--model", "net.prototxt", *shapes, cwd=folder, status=1)
    assert "(--python-module mine); found it in no such list" in refused


def test_a_layer_that_fails_is_named_in_one_line(folder: Path):
    net = (folder / "net.prototxt").read_text().replace('layer: "Twice"', 'layer: "Failing"')
    (folder / "net.prototxt").write_text(net)
    line = 1 + net[:net.index('type: "Python"')].count("\n")
    shapes = ("--input", "data=10,1,1,7", "--input", "label=10")
    trained = jaffe("train", "--solver", "solver.prototxt", "--data", "npz:items.npz", "--python-module", "mine",
                    cwd=folder, status=1)
    timed = jaffe("time", "--model", "net.prototxt", "--iterations", "1", "--phase", "TEST", *shapes,
                  "--python-module", "mine", cwd=folder, status=1)
    for output in (trained, timed):
        assert output.startswith(f"jaffe: layer 'x' (net.prototxt:{line}): mine.Failing failed in forward on "
                                 "bottoms of shape (")
        assert output.endswith(", 1, 1, 7): OSError: the sensor is off\n")
        assert output.count("\n") == 1


def test_compare(folder: Path):
    shapes = ("--input", "data=10,1,1,7", "--input", "label=10")
    for against in ("float64", "net.prototxt"):
        compared = jaffe("compare", "net.prototxt", "--against", against, *shapes, "--python-module", "mine",
                         cwd=folder)
        assert f"against {against}" in compared
        assert "equal:" in compared
