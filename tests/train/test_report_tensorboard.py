"""Files for TensorBoard, read back record by record."""

from __future__ import annotations

import math
import os
import struct
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from jaffe.netdef import SolverParameter
from jaffe.netdef.errors import JaffeError
from jaffe.train.report import Run
from jaffe.train.tensorboard import TensorBoardReporter


def events(path: Path) -> list[Event]:
    """A file of TFRecords: length and data, a checksum after each."""
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        header = content[at:at + 8]
        end = at + 12 + struct.unpack("<Q", header)[0]
        data = content[at + 12:end]
        assert struct.unpack("<I", content[at + 8:at + 12])[0] == masked_crc32c(header)
        assert struct.unpack("<I", content[end:end + 4])[0] == masked_crc32c(data)
        found.append(Event.FromString(data))
        at = end + 4
    return found


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: files in the order of their names, and a start forgets what it does again."""
    shown: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                for tag, points in shown.items():
                    shown[tag] = [point for point in points if point[0] < event.step]
            for value in event.summary.value:
                shown[value.tag].append((event.step, value.simple_value))
    return dict(shown)


def run(iteration: int = 0) -> Run:
    return Run("net", SolverParameter(max_iter=100), iteration, {"loss": 1.0}, ({"accuracy": 0.0},), None)


def a_row(iteration: int, **changed):
    return {"iteration": iteration, "loss": 0.5, "lr": 0.25, "images_per_second": 100.0, "outputs": {"loss": 0.75},
            "elapsed": 1.0, **changed}


def test_scalars_by_iteration(tmp_path):
    reporter = TensorBoardReporter(tmp_path / "new" / "tb")
    reporter.start(run())
    reporter.tested({"iteration": 0, "test": 0, "accuracy": 0.125, "total loss": 2.0, "elapsed": 0.5})
    reporter.trained(a_row(0, images_per_second=None))
    reporter.trained(a_row(20, lr=None, loss=math.nan, outputs={"a/b": 1.0, "scores": [0.5, None, 0.25],
                                                                "long": [0.0] * 101}))
    reporter.tested({"iteration": 40, "test": 1, "accuracy": 0.875, "elapsed": 0.5})
    reporter.stop()
    found = curves(tmp_path / "new" / "tb")
    assert math.isnan(found["train/loss"].pop()[1])
    assert found == {
        "test/0/accuracy": [(0, 0.125)], "test/0/total loss": [(0, 2.0)], "test/1/accuracy": [(40, 0.875)],
        "train/loss": [(0, 0.5)], "train/lr": [(0, 0.25)], "train/images_per_second": [(20, 100.0)],
        "train/output/loss": [(0, 0.75)], "train/output/a/b": [(20, 1.0)],
        "train/output/scores/0": [(20, 0.5)], "train/output/scores/2": [(20, 0.25)],
    }
    (path,) = (tmp_path / "new" / "tb").iterdir()
    assert "tfevents" in path.name
    assert events(path)[0].file_version == "brain.Event:2"


def test_a_run_that_goes_on_draws_each_step_once(tmp_path):
    for first, last in ((0, 80), (40, 120)):  # killed at 80, resumed from the snapshot at 40
        reporter = TensorBoardReporter(tmp_path)
        reporter.start(run(first))
        for i in range(first, last, 20):
            reporter.trained(a_row(i, loss=i + first / 64))
        reporter.stop()
    assert len(list(tmp_path.iterdir())) == 2  # within one second, too
    assert curves(tmp_path)["train/loss"] == [(0, 0), (20, 20), *((i, i + 0.625) for i in (40, 60, 80, 100))]


def test_outside_of_a_run_nothing_is_written(tmp_path):
    reporter = TensorBoardReporter(tmp_path / "tb")
    reporter.trained(a_row(0))
    reporter.stop()
    assert not (tmp_path / "tb").exists()


def test_rows_are_there_while_the_run_goes_on(tmp_path):
    reporter = TensorBoardReporter(tmp_path)
    reporter.start(run())
    reporter.trained(a_row(0))
    assert curves(tmp_path)["train/loss"] == [(0, 0.5)]
    reporter.stop()


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(JaffeError, match=r"^curves for TensorBoard need the package tensorboardX: pip install "
                                         r"tensorboardX$"):
        TensorBoardReporter(tmp_path).start(run())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaffeError, match=r"file/tb: curves for TensorBoard cannot be written: (Not a di|File exi)"):
        TensorBoardReporter(tmp_path / "file" / "tb").start(run())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told(tmp_path):
    reporter = TensorBoardReporter(tmp_path)
    reporter.start(run())
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), reporter._file.fileno())
    with pytest.raises(JaffeError, match="cannot be written: No space left on device"):
        reporter.trained(a_row(0))
    reporter.stop("the disk is full")  # says no more
