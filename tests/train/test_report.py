"""Reporters together, and the metrics file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jaffe.netdef import SolverParameter
from jaffe.netdef.errors import JaffeError
from jaffe.train.compilation import Compilation
from jaffe.train.report import Metrics, Reporter, Reporters, Run, read_metrics

RUN = Run("net", SolverParameter(max_iter=10), 0, {"loss": 1.0}, (), None)


class Notes(Reporter):
    """Writes down what it is told; fails where it is asked to."""

    def __init__(self, name: str, notes: list[tuple], fails: str = ""):
        for method in ("start", "compiled", "advanced", "trained", "tested", "saved", "debugged", "warned", "stop"):
            setattr(self, method, lambda *said, method=method: self.note(method, *said))
        self.name, self.notes, self.fails = name, notes, fails

    def note(self, method, *said):
        self.notes.append((self.name, method, *said))
        if method == self.fails:
            raise JaffeError(f"{self.name} failed in {method}")


def test_reporters_are_told_in_order():
    notes: list[tuple] = []
    both = Reporters(Notes("a", notes), Notes("b", notes))
    told = [("start", RUN), ("compiled", Compilation(1.5)), ("advanced", 3), ("trained", {"loss": 1.0}),
            ("tested", {"test": 0}), ("saved", Path("x")), ("debugged", ["line"]), ("warned", "text"), ("stop", "why")]
    for method, said in told:
        getattr(both, method)(said)
    assert notes == [(name, *one) for one in told for name in "ab"]


def test_an_error_of_a_reporter_is_let_through():
    notes: list[tuple] = []
    both = Reporters(Notes("a", notes, fails="trained"), Notes("b", notes))
    with pytest.raises(JaffeError, match="a failed in trained"):
        both.trained({})
    assert notes == [("a", "trained", {})]


def test_every_reporter_is_stopped():
    notes: list[tuple] = []
    with pytest.raises(JaffeError, match="a failed in stop"):
        Reporters(Notes("a", notes, fails="stop"), Notes("b", notes)).stop("why")
    assert notes == [("a", "stop", "why"), ("b", "stop", "why")]


def test_those_that_were_started_are_stopped_when_another_cannot_be():
    notes: list[tuple] = []
    three = Reporters(Notes("a", notes), Notes("b", notes, fails="start"), Notes("c", notes))
    with pytest.raises(JaffeError, match="b failed in start"):
        three.start(RUN)
    assert notes == [("a", "start", RUN), ("b", "start", RUN), ("a", "stop", "the run could not begin")]


def test_rows_are_written_as_json_at_once(tmp_path):
    metrics = Metrics(tmp_path / "new" / "metrics.jsonl")
    row = metrics.add({"iteration": 0, "loss": math.nan, "lr": None, "outputs": {"a": math.inf, "b": [1.5, -math.inf]}})
    assert math.isnan(row["loss"])
    assert row["outputs"]["a"] == math.inf
    text = metrics.path.read_text()
    assert text.endswith("\n")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == metrics.rows[0] == {
        "iteration": 0, "loss": None, "lr": None, "outputs": {"a": None, "b": [1.5, None]}, "elapsed": row["elapsed"],
    }
    metrics.add({"iteration": 0, "test": 0, "accuracy": 0.5})
    assert read_metrics(metrics.path) == metrics.rows
    assert [len(metrics.training()), len(metrics.tests())] == [1, 1]


def test_a_new_run_replaces_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("what was there\n")
    Metrics(path).add({"iteration": 0})
    assert [row["iteration"] for row in read_metrics(path)] == [0]


def test_a_run_that_goes_on_rewrites_the_file(tmp_path):
    first = Metrics(tmp_path / "metrics.jsonl")
    for i in range(5):
        first.add({"iteration": i, "loss": 0.5})
    first.path.write_text(first.path.read_text() + '{"iteration": 5, "lo')  # killed while it wrote
    before = first.path.read_text()

    second = Metrics(first.path)
    kept = [{**row, "elapsed": 100.0 + row["iteration"]} for row in first.rows[:3]]
    second.resume(kept)
    assert first.path.read_text() == before  # it may yet be put aside
    row = second.add({"iteration": 3, "loss": 0.25})
    assert 102 <= row["elapsed"] < 103
    assert read_metrics(first.path) == second.rows == [*kept, row]
    assert len(kept) == 3
    second.add({"iteration": 4, "loss": 0.125})
    assert [row["iteration"] for row in read_metrics(first.path)] == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_goes_back_to_its_own_snapshot(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for i in range(3):
        metrics.add({"iteration": i})
    metrics.resume(metrics.rows[:1])
    metrics.add({"iteration": 7})
    assert [row["iteration"] for row in read_metrics(metrics.path)] == [0, 7]


def test_rows_in_memory_only():
    metrics = Metrics(None)
    metrics.resume([])
    metrics.add({"iteration": 0})
    assert [row["iteration"] for row in metrics.rows] == [0]


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaffeError, match=r"file/metrics.jsonl cannot be written: (Not a directory|File exists)"):
        Metrics(tmp_path / "file" / "metrics.jsonl").add({"iteration": 0})
    (tmp_path / "folder").mkdir()
    with pytest.raises(JaffeError, match=r"folder: cannot be written: Is a directory"):
        Metrics(tmp_path / "folder").add({"iteration": 0})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.add({"iteration": 0})
    metrics.path.unlink()
    metrics.path.symlink_to("/dev/full")
    with pytest.raises(JaffeError, match=r"metrics.jsonl cannot be written: No space left on device"):
        metrics.add({"iteration": 1})


@pytest.mark.parametrize("line", [
    b"{", b"7", b"[]", b"null", b"{}", b'{"iteration": 1.5}', b'{"iteration": "1"}', b'{"iteration": true}', b"\xff",
    b'{"iteration": 1, "test": "a"}', b'{"iteration": 1, "outputs": 3}', b'{"iteration": 1, "loss": "2"}',
    b'{"iteration": 1, "outputs": {"a": {}}}', b'{"iteration": 1, "a": [[1]]}', b"[" * 100_000,
    b'{"iteration": 1' + b"0" * 400 + b"}",
])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 0}\n\n' + line + b'\n{"iteration": 2}\n')
    with pytest.raises(JaffeError, match=r"metrics.jsonl:3 is not a row of metrics: "):
        read_metrics(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(JaffeError, match=r"none\.jsonl cannot be read: No such file or directory"):
        read_metrics(tmp_path / "none.jsonl")
