"""What a run tells, and to whom: reporters, and the metrics file of JSON lines."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaffe.netdef.atomic import free_names, write_file
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.compilation import Compilation

MOST_NUMBERS = 1000  # of one output in a row of metrics
ROW_KEYS = ("iteration", "test", "elapsed")  # of a row of a test net; its other keys are the outputs


def training_row(
    iteration: int, loss: float, rate: Any, images_per_second: float | None, outputs: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of metrics of a training iteration; without outputs of more than ``MOST_NUMBERS`` numbers."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return {
        "iteration": iteration,
        "loss": loss,
        "lr": None if rate is None else float(rate),
        "images_per_second": images_per_second,
        "outputs": {name: value.item() if value.size == 1 else value.ravel().tolist()
                    for name, value in arrays.items() if value.size <= MOST_NUMBERS},
    }


def row_name(output: str) -> str:
    """The key that an output of a test net has in rows: its own name, if that is not one of the row's keys."""
    return f"output {output}" if output in ROW_KEYS else output


def results(row: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a test net in a row."""
    return {name: value for name, value in row.items() if name not in ROW_KEYS}


@dataclass(frozen=True)
class Run:
    """What a reporter may know of a run when it starts.

    Attributes:
        net: name of the training net.
        solver: every setting.
        iteration: where it starts: 0, or that of the snapshot it goes on from.
        train_weights: the training net's outputs, in Caffe's order, each with its loss weight; 0: it is no loss.
        test_weights: the same for each test net, by their names in rows.
        prefix: what is written goes under ``PREFIX_...``; ``None``: nothing is written.
    """

    net: str
    solver: SolverParameter
    iteration: int
    train_weights: Mapping[str, float]
    test_weights: tuple[Mapping[str, float], ...]
    prefix: Path | None


class Reporter:
    """What the solver tells while it runs. This one says nothing; a subclass overrides what it wants to hear.

    Iterations are counted as Caffe counts them, from 0. Rows are those of the metrics file, but that a loss which is
    NaN is NaN here. An error that a reporter raises ends the run.
    """

    def start(self, run: Run) -> None:
        """A run begins."""

    def compiled(self, compilation: Compilation) -> None:
        """The training step was traced and compiled; once for a solver, at its first step."""

    def advanced(self, iteration: int) -> None:
        """So many updates are under way or done."""

    def trained(self, row: Mapping[str, Any]) -> None:
        """A row of training was displayed.

        Its keys: ``iteration``; ``loss``, smoothed over ``average_loss`` iterations; ``lr`` and
        ``images_per_second``, or ``None`` where they are not known; ``outputs``, a number or a list for each output of
        the net; ``elapsed``, in seconds since the run began.
        """

    def tested(self, row: Mapping[str, Any]) -> None:
        """A test net was run.

        Its keys: ``iteration``; ``test``, the net's number; the mean of each output, a number or a list;
        ``total loss`` where the solver asks for it; ``elapsed``.
        """

    def saved(self, path: Path) -> None:
        """A snapshot was written."""

    def debugged(self, lines: Sequence[str]) -> None:
        """What ``debug_info`` shows of an iteration, in Caffe's words."""

    def warned(self, text: str) -> None:
        """Something that the user should know. The run goes on."""

    def stop(self, reason: str = "") -> None:
        """The run has ended; ``reason``, in words, when it ended early."""


class FileReporter(Reporter):
    """A reporter that writes to one file while a run lasts. A file that fails is given up, and the run told once."""

    _file: IO[Any] | None = None

    def _put(self, data: str | bytes) -> None:
        """Write and flush. Raises the JaffeError of ``_error``."""
        assert self._file
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                self._file.close()
            self._file = None
            raise self._error(error) from None

    def _close(self) -> None:
        if self._file:
            self._file.close()  # everything was flushed
            self._file = None

    def _error(self, error: OSError) -> JaffeError:
        """What to say of a file that cannot be written."""
        raise NotImplementedError


class Reporters(Reporter):
    """Several reporters, told in order.

    An error of one is not kept back. Those that were started are stopped whatever the others do.
    """

    def __init__(self, *reporters: Reporter):
        self.reporters = reporters

    def start(self, run: Run) -> None:
        with ExitStack() as started:
            for reporter in self.reporters:
                reporter.start(run)
                started.callback(reporter.stop, "the run could not begin")
            started.pop_all()

    def compiled(self, compilation: Compilation) -> None:
        for reporter in self.reporters:
            reporter.compiled(compilation)

    def advanced(self, iteration: int) -> None:
        for reporter in self.reporters:
            reporter.advanced(iteration)

    def trained(self, row: Mapping[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.trained(row)

    def tested(self, row: Mapping[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.tested(row)

    def saved(self, path: Path) -> None:
        for reporter in self.reporters:
            reporter.saved(path)

    def debugged(self, lines: Sequence[str]) -> None:
        for reporter in self.reporters:
            reporter.debugged(lines)

    def warned(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.warned(text)

    def stop(self, reason: str = "") -> None:
        with ExitStack() as stack:
            for reporter in reversed(self.reporters):  # a stack unwinds from its end
                stack.callback(reporter.stop, reason)


class Metrics:
    """The metrics file: one JSON object a line, kept in memory too for curves, tables and snapshots.

    Args:
        path: ``None`` keeps them in memory only.

    Attributes:
        rows: as in the file.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._stale = True  # the file is that of an earlier run, or has rows that came to nothing
        self._began = time.perf_counter()

    def resume(self, rows: Sequence[dict[str, Any]]) -> None:
        """Go on with these rows, and from the last one's seconds. The next row to come writes the file anew, whole."""
        self.rows = list(rows)
        self._began = time.perf_counter() - (self.rows[-1]["elapsed"] if self.rows else 0.0)
        self._stale = True

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write a row, with the seconds since the run began.

        Returns:
            The row as reporters are told it. In ``rows`` and in the file, what is not finite is null.

        Raises:
            JaffeError: the file cannot be written.
        """
        told = {**row, "elapsed": round(time.perf_counter() - self._began, 3)}
        clean = _clean(told)
        self.rows.append(clean)
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._stale or not self.path.exists():
                    write_file(self.path, "".join(json.dumps(one) + "\n" for one in self.rows))
                else:
                    with self.path.open("a") as file:
                        file.write(json.dumps(clean) + "\n")
            except OSError as error:
                self._stale = True  # the row may be there in part
                raise JaffeError(f"{self.path} cannot be written: {error.strerror}") from None
            self._stale = False
        return told

    def tests(self) -> list[dict[str, Any]]:
        """Rows of test nets."""
        return [row for row in self.rows if "test" in row]

    def training(self) -> list[dict[str, Any]]:
        """Rows of training."""
        return [row for row in self.rows if "test" not in row]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file. A last line that a killed run left unfinished is left out.

    Raises:
        JaffeError: it cannot be read, or a line is not a row of metrics.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JaffeError(f"{path} cannot be read: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(_checked(json.loads(line)))
        except (ValueError, RecursionError, OverflowError):
            if number < len(lines):  # the last line has no end
                raise JaffeError(f"{path}:{number} is not a row of metrics: {_shown(line)}") from None
    return rows


def make_room(paths: Sequence[Path], folder: Path) -> None:
    """Rename what an earlier run left, ``x.png`` to ``x.1.png`` (or the next free number, the same for all).

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for path, name in zip(paths, free_names(paths), strict=True):
        path.rename(name)


def _clean(value: Any) -> Any:
    """What JSON can say: null for what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value


def _checked(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or type(row.get("iteration")) is not int or type(row.get("test", 0)) is not int:
        raise ValueError
    if not isinstance(row.get("outputs", {}), dict):
        raise ValueError
    for value in _numbers({**row, **row.get("outputs", {}), "outputs": None}):
        if not isinstance(value, int | float):
            raise ValueError
        float(value)  # an integer may be too large
    return row


def _numbers(row: Mapping[str, Any]) -> Iterator[Any]:
    for value in row.values():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield one


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 60 else text[:60] + "..."
