"""What a run tells: progress on the console, and a metrics file of JSON lines."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaffe.netdef.errors import JaffeError


class Reporter:
    """What the solver tells while it runs. This one says nothing; a subclass overrides what it wants to hear.

    Iterations are counted as Caffe counts them, from 0. Rows are those of the metrics file.
    """

    def start(self, iteration: int, max_iter: int) -> None:
        """A run begins at this iteration."""

    def advanced(self, iteration: int) -> None:
        """So many updates are under way or done."""

    def trained(self, row: Mapping[str, Any]) -> None:
        """A row of training was displayed."""

    def tested(self, row: Mapping[str, Any]) -> None:
        """A test net was run."""

    def saved(self, path: Path) -> None:
        """A snapshot was written."""

    def stop(self) -> None:
        """The run has ended, one way or another."""


class ConsoleReporter(Reporter):
    """A progress bar with loss, accuracy, images/s and time left; plain lines where output is not a terminal."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=sys.stdout, force_jupyter=False, markup=False)
        self.bar: Progress | None = None

    def start(self, iteration: int, max_iter: int) -> None:
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn(),
            console=self.console,
        )
        self.status: dict[str, str] = {}
        self.task = self.bar.add_task("", total=max_iter, completed=iteration)
        self.bar.start()

    def advanced(self, iteration: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=iteration)

    def trained(self, row: Mapping[str, Any]) -> None:
        rate = row["images_per_second"]
        speed = {} if rate is None else {"speed": f"{rate:,.0f} images/s"}
        self._show(loss=f"loss {row['loss']:.4g}", **speed)
        if not self.bar:
            self.console.print(f"iteration {row['iteration']:>6}  loss {row['loss']:.6g}  lr {row['lr']:.4g}  "
                               + speed.get("speed", ""), highlight=False)

    def tested(self, row: Mapping[str, Any]) -> None:
        results = {key: value for key, value in row.items() if key not in ("iteration", "test", "elapsed")}
        if "accuracy" in results:
            self._show(accuracy=f"accuracy {results['accuracy']:.2%}")
        text = "  ".join(f"{name} {_number(value)}" for name, value in results.items())
        which = f"test {row['test']} " if row["test"] else "test "
        self.console.print(f"iteration {row['iteration']:>6}  {which}{text}", highlight=False)

    def saved(self, path: Path) -> None:
        self.console.print(f"snapshot  {path}", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _show(self, **parts: str) -> None:
        if self.bar:
            self.status.update(parts)
            self.bar.update(self.task, description="  ".join(self.status.values()))


class Metrics:
    """The metrics file: one JSON object a line, kept in memory too for curves and tables.

    Args:
        path: ``None`` keeps them in memory only.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._mode: Literal["w", "a"] = "w"  # a new run replaces an earlier one's file
        self._began = time.perf_counter()

    def resume(self, iteration: int) -> None:
        """Take up an earlier run's file: keep the rows before this iteration, drop what came after.

        Raises:
            JaffeError: the file is not one of ours.
        """
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text().splitlines()
        kept = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if row["iteration"] < iteration:
                    kept.append(row)
            except (ValueError, KeyError, TypeError):
                if number == len(lines):
                    break  # a run that died while writing
                raise JaffeError(f"{self.path}:{number} is not a row of metrics; move the file away") from None
        self.rows = kept
        self._began -= kept[-1].get("elapsed", 0.0) if kept else 0.0
        self._mode = "a"
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a row, with the seconds since the run began; returns it as written. NaN becomes null."""
        row = {**row, "elapsed": round(time.perf_counter() - self._began, 3)}
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.rows.append(clean)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(self._mode) as file:
                file.write(json.dumps(clean) + "\n")
            self._mode = "a"
        return row

    def tests(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "test" in row]

    def training(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "test" not in row]


def make_room(paths: Sequence[Path], folder: Path) -> None:
    """Rename what an earlier run left, ``x.png`` to ``x.1.png`` (or the next free number, the same for all).

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    number = 1
    while any(_numbered(path, number).exists() for path in paths):
        number += 1
    for path in paths:
        path.rename(_numbered(path, number))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def final_table(rows: Mapping[str, str]) -> Table:
    """What a run came to, as a two-column table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"({len(value)} values)" if isinstance(value, list) else ""
