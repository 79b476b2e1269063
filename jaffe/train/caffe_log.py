"""Log lines as Caffe's, for the scripts that people have; and reading such logs."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.text import format_text
from jaffe.train.report import FileReporter, Run, make_room

# The file and line that Caffe 1.0 names in the prefix of each message.
_PLACES = {
    "Initializing": "solver.cpp:45", "Solving": "solver.cpp:289", "Policy": "solver.cpp:290", "loss": "solver.cpp:239",
    "train": "solver.cpp:258", "lr": "sgd_solver.cpp:112", "testing": "solver.cpp:347", "test loss": "solver.cpp:401",
    "test": "solver.cpp:414", "snapshot": "solver.cpp:464", "early": "solver.cpp:311", "done": "solver.cpp:332",
    "debug": "net.cpp:593", "warning": "jaffe:1",
}


class CaffeLogReporter(FileReporter):
    """Writes what Caffe logs while it trains, in Caffe's words and with glog's prefix, line by line.

    Scripts as Caffe's ``parse_log.py``, ``parse_log.sh`` and ``extract_seconds.py`` read it. A run that goes on from a
    snapshot appends to the log that is there, as ``2>> train.log`` does: iterations that were run twice stand there
    twice. A run from the beginning puts an earlier log aside (``train.1.log``). A link, a pipe or a device, such as
    ``/dev/stderr``, is written to as it is.

    Numbers have six significant digits, as C++ prints them. What differs from Caffe: the loss line of iteration
    ``max_iter``, for which Caffe runs the net once more, is not there, and a snapshot is one line with its folder.

    Args:
        file: the log; its folder is made.

    Raises:
        JaffeError: by ``start``, when the log cannot be written; later, when the disk is full.
    """

    def __init__(self, file: str | os.PathLike[str]):
        self.path = Path(file)

    def start(self, run: Run) -> None:
        self._run = run
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            plain = self.path.is_file() and not self.path.is_symlink()
            if plain and not run.iteration:
                make_room([self.path], self.path.parent)
            elif plain:
                _drop_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise self._error(error) from None
        # parse_log.py fails on lines of one word after the first iteration, as in a log that goes on.
        text = text_format.MessageToString(run.solver, as_one_line=True) if run.iteration else format_text(run.solver)
        self._log("Initializing", f"Initializing solver from parameters: \n{text}".rstrip("\n"))
        self._log("Solving", f"Solving {run.net}")
        self._log("Policy", f"Learning Rate Policy: {run.solver.lr_policy}")
        self._last = (run.iteration, time.perf_counter())

    def trained(self, row: Mapping[str, Any]) -> None:
        if self._file is None:  # outside of a run
            return
        iteration, now = row["iteration"], time.perf_counter()
        before, then = self._last
        self._last = (iteration, now)
        seconds = max(now - then, 1e-9)
        rate, display = _number((iteration - before) / seconds), self._run.solver.display
        speed = f"{rate} iter/s, {_number(seconds)}s/{display} iters"
        self._log("loss", f"Iteration {iteration} ({speed}), loss = {_number(row['loss'])}")
        self._outputs("train", row["outputs"], self._run.train_weights)
        if row["lr"] is not None:
            self._log("lr", f"Iteration {iteration}, lr = {_number(row['lr'])}")

    def tested(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        which = row["test"]
        self._log("testing", f"Iteration {row['iteration']}, Testing net (#{which})")
        if "total loss" in row:
            self._log("test loss", f"Test loss: {_number(row['total loss'])}")
        self._outputs("test", row, self._run.test_weights[which])

    def saved(self, path: Path) -> None:
        self._log("snapshot", f"Snapshotting to {path}")

    def debugged(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._log("debug", line, "E" if "All net params" in line else "I")

    def warned(self, text: str) -> None:
        for line in text.splitlines():
            self._log("warning", line, "W")

    def stop(self, reason: str = "") -> None:
        if self._file is None:
            return
        self.warned(reason)
        self._log(*(("early", "Optimization stopped early.") if reason else ("done", "Optimization Done.")))
        self._close()

    def _outputs(self, phase: str, values: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        """A line for each number of each output."""
        number = 0
        for name, weight in weights.items():
            value = values.get(name, [])
            for one in value if isinstance(value, list) else [value]:
                loss = f" (* {_number(weight)} = {_number(weight * one)} loss)" if weight else ""
                self._log(phase, f"    {phase.title()} net output #{number}: {name} = {_number(one)}{loss}")
                number += 1

    def _log(self, place: str, text: str, severity: str = "I") -> None:
        if self._file is None:
            return
        when = datetime.now().strftime("%m%d %H:%M:%S.%f")
        self._put(f"{severity}{when} {os.getpid():>5} {_PLACES[place]}] {text}\n")

    def _error(self, error: OSError) -> JaffeError:
        return JaffeError(f"{self.path} cannot be written: {error.strerror}")


_GLOG = re.compile(r"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})\s+\d+ [^]]*\] (.*)")
_LOSS = re.compile(r"Iteration (\d+)(?: \(.*\))?, loss = (\S+)")
_RATE = re.compile(r"Iteration (\d+), lr = (\S+)")
_TESTING = re.compile(r"Iteration (\d+), Testing net \(#(\d+)\)")
_TEST_LOSS = re.compile(r"Test loss: (\S+)")
_OUTPUT = re.compile(r" *(Train|Test) net output #\d+: (\S+) = (\S+)")


def read_caffe_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log of Caffe, or of ``CaffeLogReporter``, as a metrics file has them.

    What a resumed run did again replaces what was there. Seconds count from the first line that has a time.

    Raises:
        JaffeError: it cannot be read, or has no line of training or testing.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise JaffeError(f"{path} cannot be read: {error.strerror}") from None
    rows: list[dict[str, Any]] = []
    training: dict[str, Any] = {"outputs": {}}  # the rows that outputs belong to
    test: dict[str, Any] = {}
    resumed = False
    for elapsed, message in _messages(text):
        if message.startswith("Solving "):
            resumed = True
        elif found := _LOSS.match(message) or _TESTING.match(message):
            row: dict[str, Any] = {"iteration": int(found[1])}
            if resumed:
                rows = [one for one in rows if one["iteration"] < row["iteration"]]
                resumed = False
            if found.re is _LOSS:
                training = row
                row |= {"loss": _value(found[2]), "lr": None, "outputs": {}}
            else:
                test = row
                row["test"] = int(found[2])
            if elapsed is not None:
                row["elapsed"] = elapsed
            rows.append(row)
        elif found := _RATE.match(message):
            training["lr"] = _value(found[2])
        elif found := _TEST_LOSS.match(message):
            test["total loss"] = _value(found[1])
        elif found := _OUTPUT.match(message):
            _collect(training["outputs"] if found[1] == "Train" else test, found[2], _value(found[3]))
    if not rows:
        raise JaffeError(f"{path} is neither a metrics file nor a log of Caffe: expected lines "
                         "'Iteration N, loss = L' or 'Iteration N, Testing net'; found none")
    return rows


def _messages(text: str) -> Iterator[tuple[float | None, str]]:
    """The message of each line, and the seconds since the first; ``None`` where a line has no prefix."""
    first: datetime | None = None
    last = datetime.min
    year = 2000  # glog leaves it out
    for line in text.splitlines():
        found = _GLOG.match(line)
        if not found:
            yield None, line
            continue
        *fields, message = found.groups()
        try:
            when = datetime(year, *map(int, fields))  # type: ignore[arg-type]
            if when.month < last.month:
                year += 1
                when = when.replace(year=year)
        except ValueError:
            yield None, message
            continue
        first, last = first or when, when
        yield (when - first).total_seconds(), message


def _collect(row: dict[str, Any], name: str, value: float | None) -> None:
    """Enter a value; a name that comes again is that of a vector."""
    if name not in row:
        row[name] = value
    elif isinstance(row[name], list):
        row[name].append(value)
    else:
        row[name] = [row[name], value]


def _value(text: str) -> float | None:
    """``None`` for what is no finite number, as in a metrics file."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    """As C++ prints it by default: six significant digits."""
    return f"{value:.6g}"


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a killed run left without an end: scripts take it for a whole one."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
