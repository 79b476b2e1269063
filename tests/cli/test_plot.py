"""jaffe plot: which files are the runs, how they are called, and what wrong ones are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from jaffe.cli.plot import find, labels, read
from jaffe.netdef.errors import JaffeError
from tests.train.test_report_caffe_log import CAFFE


def plot(*arguments: str | Path) -> str:
    """What the command prints, or the message of its error."""
    done = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    if isinstance(done.exception, JaffeError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with runs a/net, b/net and b/other, an earlier one put aside, and a log of Caffe."""
    for i, name in enumerate(("a/net", "b/net", "b/other")):
        path = tmp_path / f"{name}_metrics.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"iteration": k, "loss": 1.0 + i, "lr": 0.1, "elapsed": k} for k in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b" / "net_metrics.1.jsonl").write_text("put aside\n")
    (tmp_path / "old.log").write_text(CAFFE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ways_to_name_a_run(folder):
    net, other = Path("b/net_metrics.jsonl"), Path("b/other_metrics.jsonl")
    assert find(Path("b")) == [net, other]
    assert find(Path("b/net")) == find(net) == [net]
    assert find(Path("old.log")) == [Path("old.log")]
    (folder / "b" / "net").mkdir()
    assert find(Path("b/net")) == [net]  # a folder of that name hides no run


def test_a_picture_of_several_runs(folder):
    assert plot("a", "b", "b/net", "old.log") == "curves.png"  # b/net once
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    assert plot("a", "b", "-o", "x.svg", "--x", "seconds", "--y", "lr", "--y", "loss") == "x.svg"
    assert "<svg" in Path("x.svg").read_text()


def test_labels_tell_runs_apart():
    def of(*names: str) -> list[str]:
        return labels([Path(name) for name in names])

    assert of("/r/a/net_metrics.jsonl") == ["net"]
    assert of("/r/a/x_metrics.jsonl", "/r/a/y_metrics.jsonl", "/r/a/z.log") == ["x", "y", "z"]
    assert of("/r/a/net_metrics.jsonl", "/r/b/net_metrics.jsonl") == ["a", "b"]
    assert of("/r/a/1/net_metrics.jsonl", "/r/b/1/net_metrics.jsonl") == ["a", "b"]
    assert of("/r/a/net_metrics.jsonl", "/r/b/net_metrics.jsonl", "/r/b/x.log") == ["a/net", "b/net", "x"]
    assert of("/r/a/net_metrics.jsonl", "/r/a/net.log") == ["net_metrics.jsonl", "net.log"]


def test_rows_of_logs_and_metrics(folder):
    assert [row["iteration"] for row in read(Path("a/net_metrics.jsonl"))] == [0, 1, 2]
    assert [row["iteration"] for row in read(Path("old.log"))] == [0, 0, 0]


def test_nothing_is_overwritten_unasked(folder):
    Path("curves.png").write_text("a photograph")
    assert plot("a") == "curves.png is there already; --force overwrites it"
    assert Path("curves.png").read_text() == "a photograph"
    assert plot("a", "--force") == "curves.png"
    assert plot("a", "-o", "a/net_metrics.jsonl", "--force") == (
        "a/net_metrics.jsonl: expected a name that ends in .png, .svg or .pdf")


def test_what_is_wrong_is_told(folder):
    Path("empty").mkdir()
    Path("empty_metrics.jsonl").write_text("")
    Path("bad.jsonl").write_text('{"iteration": 0}\n{"iteration": 1\n{"iteration": 2}\n')
    assert plot("none/run") == ("none/run is no run: expected a metrics file, a log of Caffe, or "
                                "none/run_metrics.jsonl; found none")
    assert plot("empty/") == "empty_metrics.jsonl has no rows: nothing was displayed or tested yet"
    Path("empty_metrics.jsonl").unlink()
    assert plot("empty/") == "empty is no run: expected a file *_metrics.jsonl in it; found none"
    assert plot("a", "bad.jsonl") == 'bad.jsonl:2 is not a row of metrics: {"iteration": 1'
    assert plot("a", "--y", "accuracy") == "no run has 'accuracy' (there is: loss, lr)"
    assert plot("a", "-o", "no/x.png") == "no/x.png: cannot be written: No such file or directory"
    assert plot("x" * 300).endswith(" cannot be read: File name too long")
    Path("text").write_text("hello\n")
    assert plot("text").startswith("text is neither a metrics file nor a log of Caffe")
    assert not Path("curves.png").exists()
