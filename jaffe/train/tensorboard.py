"""What a run tells, as a file that TensorBoard shows."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaffe.netdef.errors import JaffeError
from jaffe.train.report import FileReporter, Run, results

LONGEST = 100  # numbers of an output that are drawn one by one


class TensorBoardReporter(FileReporter):
    """Writes scalars for TensorBoard, by iteration.

    ``train/loss`` (smoothed), ``train/lr``, ``train/images_per_second``, ``train/output/BLOB``, and ``test/I/BLOB`` for
    test net I. An output of several numbers is a scalar for each, ``BLOB/K``, up to 100 of them; a longer one is left
    out. Every run writes a file of its own, which tells TensorBoard to forget what the folder's earlier files have from
    the run's first iteration on: a resumed run goes on with the same curves.

    The messages are tensorboardX's; its ``SummaryWriter`` is not used, for its thread dies of a full disk, and the run
    would then wait for it for ever.

    Args:
        directory: made if need be.

    Raises:
        JaffeError: by ``start``, when the package tensorboardX is missing or the folder cannot be written to; later,
            when the disk is full.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)

    def start(self, run: Run) -> None:
        try:
            from tensorboardX.proto.event_pb2 import SessionLog
        except ImportError:
            raise JaffeError("curves for TensorBoard need the package tensorboardX: pip install tensorboardX") from None
        # TensorBoard reads a folder's files in the order of their names, and counts seconds in ten digits.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{os.getpid()}.{socket.gethostname()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = (self.directory / name).open("xb")
        except OSError as error:
            raise self._error(error) from None
        self._write(0, file_version="brain.Event:2")
        self._write(run.iteration, session_log=SessionLog(status=SessionLog.START))

    def trained(self, row: Mapping[str, Any]) -> None:
        scalars = {f"train/{name}": row[name] for name in ("loss", "lr", "images_per_second")}
        self._add(row["iteration"], scalars | {f"train/output/{name}": one for name, one in row["outputs"].items()})

    def tested(self, row: Mapping[str, Any]) -> None:
        self._add(row["iteration"], {f"test/{row['test']}/{name}": value for name, value in results(row).items()})

    def stop(self, reason: str = "") -> None:
        self._close()

    def _add(self, iteration: int, scalars: Mapping[str, Any]) -> None:
        if self._file is None:  # outside of a run
            return
        from tensorboardX.proto.summary_pb2 import Summary

        values = []
        for tag, value in scalars.items():
            if isinstance(value, list):
                parts = {f"{tag}/{i}": one for i, one in enumerate(value)} if len(value) <= LONGEST else {}
            else:
                parts = {tag: value}
            values += [Summary.Value(tag=name, simple_value=one) for name, one in parts.items() if one is not None]
        self._write(iteration, summary=Summary(value=values))

    def _write(self, iteration: int, **what: Any) -> None:
        """Write an event as a TFRecord: length and data, little-endian, each with its checksum."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        data = Event(wall_time=time.time(), step=iteration, **what).SerializeToString()
        length = struct.pack("<Q", len(data))
        self._put(length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data)))

    def _error(self, error: OSError) -> JaffeError:
        return JaffeError(f"{self.directory}: curves for TensorBoard cannot be written: {error.strerror}")
