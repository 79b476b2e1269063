"""What a run leaves on the disk under its prefix: metrics, curves, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaffe.netdef.errors import JaffeError
from jaffe.train.processes import barrier, first
from jaffe.train.report import Metrics, make_room
from jaffe.train.snapshots import Snapshots


class Record:
    """The files of one run. Those of an earlier one under the same prefix are put aside when the run begins.

    Args:
        prefix: files are ``PREFIX_metrics.jsonl``, ``PREFIX_curves.png`` and ``PREFIX_snapshots``; ``None``: there are
            none.
        keep: see ``Snapshots``.
        tell: called with each snapshot that is written.

    Attributes:
        saved: iteration of the last snapshot that is written or being written; ``None``: none is of the state as it is.
    """

    def __init__(self, prefix: Path | None, keep: int, tell: Callable[[Path], None]):
        self.prefix = prefix
        self._tell = tell
        self.metrics = Metrics(self.path("metrics.jsonl") if first() else None)
        self.snapshots = Snapshots(path, keep) if (path := self.path("snapshots")) else None
        self.saved: int | None = None
        self._began = False
        self._goes_on: tuple[int, int | None] | None = None  # from which of its own snapshots, and which was the best

    def path(self, suffix: str) -> Path | None:
        """``PREFIX_suffix``."""
        return None if self.prefix is None else self.prefix.with_name(f"{self.prefix.name}_{suffix}")

    @property
    def files(self) -> list[Path]:
        """What is there: metrics, curves, the folder of snapshots."""
        paths = (self.path(suffix) for suffix in ("metrics.jsonl", "curves.png", "snapshots"))
        return [path for path in paths if path is not None and path.exists()]

    def begin(self) -> None:
        """Before anything is written: see that it can be, and put what is not of this run aside.

        Raises:
            JaffeError: nothing can be written there.
        """
        if self._began or self.prefix is None:
            return
        try:
            if first():
                self._make_room()
        except OSError as error:
            raise JaffeError(f"nothing can be written under {self.prefix}: {error.strerror}") from None
        barrier("begin")  # before the others look
        self._began = True

    def _make_room(self) -> None:
        assert self.prefix is not None
        if self._goes_on is not None and self.snapshots:
            self.snapshots.put_aside(*self._goes_on)
        else:
            make_room(self.files, self.prefix.parent)

    def go_on(self, snapshot: Path, iteration: int, rows: Sequence[dict[str, Any]], best: int | None) -> None:
        """The run goes on from a snapshot, its own or another's.

        What came after it in a run of the same prefix is put aside when the run begins: it is of another course.

        Args:
            rows: of the metrics until then.
            best: iteration of the best test until then.
        """
        where = snapshot.resolve()
        own = self.snapshots is not None and self.snapshots.directory.resolve() in (where, where.parent)
        if own:
            self._goes_on, self._began = (iteration, best), False
        self.saved = iteration if own else None
        self.metrics.resume(rows)

    def save(self, iteration: int, state: Any, about: dict[str, Any], *, best: bool = False) -> Path:
        """Begin to write a snapshot, unless this iteration has one.

        Raises:
            JaffeError: there is nowhere to write; or the one before could not be written.
        """
        if self.snapshots is None:
            raise JaffeError("nowhere to write the snapshot: expected snapshot_prefix; found none")
        self.begin()
        self.flush()
        if self.saved == iteration:
            if best:
                self.snapshots.mark_best(iteration)
            return self.snapshots.directory / f"iter_{iteration}"
        path = self.snapshots.save(iteration, state, about, best=best)
        self.saved = iteration
        return path

    def flush(self, *, wait: bool = True) -> None:
        """Tell of the snapshot that was being written. Raises JaffeError when it could not be."""
        if self.snapshots is None:
            return
        try:
            path = self.snapshots.written(wait=wait)
        except JaffeError:
            self.saved = None
            raise
        if path:
            self._tell(path)
