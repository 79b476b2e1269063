"""Rows by name that print as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from jaffe.compile.summary import as_text

Row = TypeVar("Row")


class Table(dict[str, Row], Generic[Row]):
    """Rows by name; ``str`` is a table, and so is what a notebook shows."""

    def __init__(self, rows: Mapping[str, Row], columns: Sequence[str], cells: Callable[[str, Row], Iterable[str]]):
        super().__init__(rows)
        self._columns = columns
        self._cells = cells

    def __repr__(self) -> str:
        grid = Grid(box=SIMPLE_HEAD)
        for i, column in enumerate(self._columns):
            grid.add_column(column, justify="right" if i > 3 else "left")
        for name, row in self.items():
            grid.add_row(*map(Text, self._cells(name, row)))  # Text: names may hold what rich takes for markup
        return as_text(grid) + "\n"
