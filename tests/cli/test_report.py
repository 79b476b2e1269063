"""jaffe report: where the page goes, and what wrong runs are told. What is on it: tests/report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from jaffe.netdef.errors import JaffeError


def report(*arguments: str) -> str:
    """What the command prints, or the message of its error."""
    done = CliRunner().invoke(app, ["report", *arguments])
    if isinstance(done.exception, JaffeError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output.strip()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with the metrics of a run in ``runs/net``, and no snapshot."""
    (tmp_path / "runs").mkdir()
    rows = [{"iteration": k, "loss": 1.0 / (1 + k), "lr": 0.1, "outputs": {}, "elapsed": k} for k in range(3)]
    (tmp_path / "runs" / "net_metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)


def test_the_page_lies_beside_the_run_or_where_it_is_wanted():
    assert report("runs") == "runs/net_report.html"
    assert Path("runs/net_report.html").read_text().startswith("<!doctype html>")
    assert report("runs/net", "-o", "page.html") == "page.html"
    assert report("runs/net_metrics.jsonl", "-o", "other.html") == "other.html"
    assert Path("page.html").read_text() == Path("other.html").read_text()


def test_nothing_is_overwritten_unasked():
    Path("page.html").write_text("a page of one's own")
    assert report("runs", "-o", "page.html") == "page.html is there already; --force overwrites it"
    assert Path("page.html").read_text() == "a page of one's own"
    assert report("runs", "-o", "page.html", "--force") == "page.html"


def test_what_is_wrong_is_told():
    assert report("gone") == "gone is no run: expected a folder, or a file gone_metrics.jsonl; found none"
    assert report("runs", "-o", "no/page.html") == "no/page.html: cannot be written: No such file or directory"
    assert report("runs", "--snapshot", "gone") == (
        "gone holds no snapshot: expected a folder iter_N, or one with such folders in it")
    assert not Path("runs/net_report.html").exists()
