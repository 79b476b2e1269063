"""Progress on the console."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from jaffe.train.compilation import Compilation
from jaffe.train.report import Reporter, Run, results

NARROW = 100  # columns; below, the bar makes room for the numbers


class ConsoleReporter(Reporter):
    """A progress bar with time left, loss, test results, learning rate and images/s; plain lines without a terminal.

    Of the first test net the bar shows what is no loss, as accuracy; its losses when there is nothing else. Each test
    gets a line of its own, as do snapshots, warnings and what ``debug_info`` shows; without a terminal, each row of
    training too.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=sys.stdout, force_jupyter=False, markup=False)
        self._bar: Progress | None = None
        self._watched: dict[str, str] = {}  # outputs of the first test net, and how the bar calls them
        self._parts: dict[str, str] = {}

    def start(self, run: Run) -> None:
        outputs = run.test_weights[0] if run.test_weights else {}
        self._watched = ({name: name for name, weight in outputs.items() if not weight}
                         or {name: f"test {name}" for name in outputs})
        if not self.console.is_interactive:
            return
        self._parts = dict.fromkeys(("loss", "test", "lr", "speed"), "")  # the last ones are cut where it is narrow
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._bar = Progress(
            BarColumn(8 if self.console.width < NARROW else 20), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False, table_column=rest),
            console=self.console, refresh_per_second=4, expand=True,
        )
        self._task = self._bar.add_task("", total=run.solver.max_iter, completed=run.iteration)
        self._bar.start()

    def compiled(self, compilation: Compilation) -> None:
        self._print(f"compiled in {compilation}")

    def advanced(self, iteration: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=iteration)

    def trained(self, row: Mapping[str, Any]) -> None:
        rate, lr = row["images_per_second"], row["lr"]
        parts = {"loss": f"loss {_number(row['loss'])}"}
        if lr is not None:
            parts["lr"] = f"lr {_number(lr)}"
        if rate is not None:
            parts["speed"] = f"{rate:,.0f} images/s"
        if self._bar:
            self._show(**parts)
            return
        outputs = row["outputs"]
        if len(outputs) > 1:  # the only one of a net would be the loss once more
            parts["loss"] = "  ".join([parts["loss"], *(f"{name} {_number(one)}" for name, one in outputs.items())])
        self._print(f"iteration {row['iteration']:>6}  {'  '.join(parts.values())}")

    def tested(self, row: Mapping[str, Any]) -> None:
        found = results(row)
        if row["test"] == 0:
            watched = {shown: found[name] for name, shown in self._watched.items()
                       if isinstance(found.get(name), float)}
            self._show(test="  ".join(f"{shown} {_share(shown, value)}" for shown, value in watched.items()))
        which = f"test {row['test']} " if row["test"] else "test "
        text = "  ".join(f"{name} {_number(value)}" for name, value in found.items())
        self._print(f"iteration {row['iteration']:>6}  {which}{text}")

    def saved(self, path: Path) -> None:
        self._print(f"snapshot  {path}")

    def debugged(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._print(line)

    def warned(self, text: str) -> None:
        self._print(f"warning: {text}", style="yellow")

    def stop(self, reason: str = "") -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
        if reason:
            self._print(f"stopped early: {reason}", style="yellow")

    def _show(self, **parts: str) -> None:
        if self._bar:
            self._parts.update(parts)
            self._bar.update(self._task, description="  ".join(filter(None, self._parts.values())))

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def final_table(rows: Mapping[str, str]) -> Table:
    """What a run came to, as a two-column table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _share(name: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in name.lower() else f"{value:.4g}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)} values)"
    return "nan" if value is None else f"{value:.4g}"
