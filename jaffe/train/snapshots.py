"""Snapshots of a run. All contact with orbax is here."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.netdef.atomic import free_names
from jaffe.netdef.errors import JaffeError
from jaffe.train.carry import apart, merged
from jaffe.train.processes import barrier, first

_STEP = re.compile(r"iter_(\d+)")
_WHOLE = re.compile(r"iter_(\d+)(|\.new|\.old)")  # ".new" and ".old" are whole too; see Snapshots
_LEFTOVER = re.compile(r"iter_\d+\.(new|old|going)(\..*)?")


class Snapshots:
    """The snapshots of one run: folders ``iter_100``, ``iter_200``, ... in ``directory``; and ``best``, a link to one.

    They are written by a thread, while training goes on. orbax writes under a temporary name and renames what is
    complete to ``iter_100.new``; that is renamed to ``iter_100``, after an older one of the same iteration has become
    ``iter_100.old``. So a process that dies at any moment, or a disk that is full, leaves whole snapshots only, and
    never fewer than there were. Several processes write one together, each its parts, and wait for it.

    Args:
        directory: made when the first one is saved.
        keep: how many of the latest to keep, beside the best; 0: all.
    """

    def __init__(self, directory: Path, keep: int = 0):
        self.directory = directory
        self.keep = keep
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._writing: Future[Path] | None = None

    def save(self, iteration: int, state: Any, about: dict[str, Any], *, best: bool = False) -> Path:
        """Begin to write ``state`` (a pytree of arrays) and ``about`` (JSON), after what is still being written.

        The arrays are copied, on their device, before this returns: the next step may have them.

        Args:
            best: whether it is the best one so far: ``best`` then points to it.

        Raises:
            JaffeError: the one before could not be written.
        """
        self.written()
        path = self.directory / f"iter_{iteration}"
        about = {**about, "shapes": _shapes(state)}
        if jax.process_count() > 1:  # orbax has them wait for each other on the devices, between two steps
            self._writing = Future()
            self._writing.set_result(self._write(path, state, about, best))
        else:
            self._writing = self._writer.submit(self._write, path, jax.tree.map(jnp.copy, state), about, best)
        return path

    def mark_best(self, iteration: int) -> None:
        """Let ``best`` point to this iteration's snapshot, which is there."""
        self.written()
        if first():
            self._reporting(self.directory / f"iter_{iteration}", self._link)

    def written(self, *, wait: bool = True) -> Path | None:
        """The snapshot that was being written, once; ``None`` if there was none, or it is not ready.

        Args:
            wait: until it is on the disk.

        Raises:
            JaffeError: it could not be written. Older ones stay.
        """
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def iterations(self) -> list[int]:
        """Iterations that have a whole snapshot, in order."""
        return sorted(_whole(self.directory))

    def put_aside(self, after: int, best: int | None) -> None:
        """Move the snapshots after an iteration, of a course that is not followed, to ``DIRECTORY.1`` (or the next free
        number), and let ``best`` point to the best one before.

        Raises:
            OSError: they cannot be moved.
        """
        self.written()
        later = [path for iteration, path in _whole(self.directory).items() if iteration > after]
        if not later:
            return
        (aside,) = free_names([self.directory])
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)
        link = self.directory / "best"
        if link.is_symlink() and not link.exists():
            link.unlink()
            if best in self.iterations():
                self._link(self.directory / f"iter_{best}")

    def _write(self, path: Path, state: Any, about: dict[str, Any], best: bool) -> Path:
        def write(path: Path) -> None:
            new, old = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
            if first():
                self.directory.mkdir(parents=True, exist_ok=True)
                self._settle_leftovers()
            barrier("snapshot")
            with _orbax() as (ocp, checkpointer):
                checkpointer.save(new.absolute(), args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about),
                ))
            if first():
                if path.exists():
                    path.rename(old)
                new.rename(path)
                if best:
                    self._link(path)
                self._remove(old)
                self._forget(path)
            barrier("snapshot written")

        self._reporting(path, write)
        return path

    def _reporting(self, path: Path, act: Callable[[Path], None]) -> None:
        try:
            act(path)
        except Exception as error:  # whatever orbax, tensorstore and the file system raise: often a full disk
            problem = str(error).splitlines()[0] if str(error) else ""
            raise JaffeError(f"snapshot {path} cannot be written: {type(error).__name__}: {problem}") from error

    def _link(self, path: Path) -> None:
        new = self.directory / "best.new"
        new.unlink(missing_ok=True)  # of a process that died
        new.symlink_to(path.name)
        os.replace(new, self.directory / "best")

    def _settle_leftovers(self) -> None:
        """After a process that died: a whole snapshot gets its name, what is half written or replaced is removed."""
        for iteration, found in _whole(self.directory).items():
            if found.name != f"iter_{iteration}":
                found.rename(self.directory / f"iter_{iteration}")
        for path in self.directory.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _forget(self, latest: Path) -> None:
        """Remove what is neither among the latest nor the best. Later iterations are of a run that went further."""
        if not self.keep:
            return
        best = (self.directory / "best").resolve().name
        past = [one for one in self.iterations() if one <= int(latest.name.removeprefix("iter_"))]
        for iteration in past[: -self.keep]:
            if best != f"iter_{iteration}":
                self._remove(self.directory / f"iter_{iteration}")

    def _remove(self, path: Path) -> None:
        """Under another name first, so that no half of one is taken for a whole."""
        if path.exists():
            going = path.with_name(f"{path.name}.going")
            path.rename(going)
            shutil.rmtree(going, ignore_errors=True)


def _whole(directory: Path) -> dict[int, Path]:
    """The whole snapshots by iteration: ``iter_N``; where a process died while replacing it, the new or the old one."""
    if not directory.is_dir():
        return {}
    found: dict[int, Path] = {}
    for suffix in (".old", ".new", ""):  # later ones win
        for path in directory.iterdir():
            match = _WHOLE.fullmatch(path.name)
            if match and match.group(2) == suffix and (path / "state").is_dir():
                found[int(match.group(1))] = path
    return found


def restore(path: Path, like: Any, *, partial: bool = False) -> tuple[Any, dict[str, Any]]:
    """Read a snapshot.

    Args:
        path: a snapshot (``.../iter_500``), or a folder of them, whose latest is taken.
        like: a state of the same structure, for shapes, dtypes and devices.
        partial: whether ``like`` may leave out parts of what was saved.

    Returns:
        The state, and what was saved about it.

    Raises:
        JaffeError: there is no snapshot, it is damaged, or it belongs to another net.
    """
    path = _find(path)
    about = _read_about(path)
    try:
        with _orbax() as (ocp, checkpointer):
            _check_shapes(path, about.pop("shapes"), _shapes(like), partial)
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(
                item=like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=partial,
            ))
            return checkpointer.restore(path.absolute(), args=args).state, about
    except JaffeError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def read_about(path: Path) -> dict[str, Any]:
    """What was saved about a snapshot. Raises JaffeError as ``restore`` does."""
    return _read_about(_find(path))


def about_run(path: Path, kind: str) -> dict[str, Any]:
    """What was saved about a snapshot of a run with a solver of this kind. Raises JaffeError for another's."""
    about = read_about(path)
    if about.get("type") != kind:
        found = f"is a snapshot of a run with solver {about['type']}" if "type" in about else "holds weights only"
        raise JaffeError(f"{path} {found}; this run's is {kind}. The weights alone can be taken: jaffe convert "
                         f"{path} weights.npz --net NET, then weights (--weights)")
    return about


def _read_about(path: Path) -> dict[str, Any]:
    try:
        with _orbax() as (ocp, checkpointer):
            args = ocp.args.Composite(about=ocp.args.JsonRestore())
            return dict(checkpointer.restore(path.absolute(), args=args).about)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> JaffeError:
    """Whatever orbax, tensorstore and the file system raise on damaged files."""
    return JaffeError(f"snapshot {path} is damaged: {type(error).__name__}: {str(error).splitlines()[0]}")


def _find(path: Path) -> Path:
    """The snapshot that a path means: ``.../iter_500``, ``.../best``, or a folder of them, whose latest is taken."""
    if path.is_symlink():
        path = path.resolve()
    named = _STEP.fullmatch(path.name)
    whole = _whole(path.parent if named else path)
    if not named:
        if not whole:
            raise JaffeError(f"{path} holds no snapshot: expected a folder iter_N, or one with such folders in it")
        return whole[max(whole)]
    if int(named.group(1)) not in whole:
        raise JaffeError(f"{path} is not a snapshot"
                         + (f"; there are iterations {', '.join(map(str, sorted(whole)))}" if whole else ""))
    return whole[int(named.group(1))]


def restore_variables(path: Path, like: dict[str, Any], carry: Mapping[str, Mapping[str, Any]] = {}) -> dict[str, Any]:
    """The net's variables in a snapshot, without optimiser and counters; the averaged ones, where it has such.

    Args:
        path: as for ``restore``.
        like: variables of the net, for shapes.
        carry: ``net.fresh_carry()``: what stays as it is here, for the training net's belongs to its own batches.

    Raises:
        JaffeError: as ``restore`` does.
    """
    wanted = _kept(like, carry)
    if not wanted["net_state"]:  # all of it is carried: orbax would take the empty dict for another structure
        del wanted["net_state"]
    if read_about(path).get("ema"):
        wanted["ema"] = wanted.pop("params")
    found, _ = restore(path, wanted, partial=True)
    return {"params": found["ema"] if "ema" in found else found["params"],
            "state": merged(found.get("net_state", {}), carry)}


def save_variables(path: Path, variables: Mapping[str, Any], carry: Mapping[str, Mapping[str, Any]] = {}) -> None:
    """Write a net's variables as a snapshot that ``restore_variables`` reads; no run can go on from it.

    Args:
        path: the folder to write, called ``iter_N``; replaces an older one.
        carry: ``net.fresh_carry()``: what is left out.

    Raises:
        JaffeError: it has another name, or cannot be written.
    """
    found = _STEP.fullmatch(path.name)
    if not found:
        raise JaffeError(f"{path}: a snapshot is a folder called iter_N, such as iter_0")
    snapshots = Snapshots(path.parent)
    snapshots.save(int(found.group(1)), _kept(variables, carry), {})
    snapshots.written()


def _kept(variables: Mapping[str, Any], carry: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The variables of a net as a snapshot has them, without what is carried from batch to batch."""
    return {"params": variables["params"], "net_state": apart(variables["state"], carry)[0]}


@contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """orbax, and what reads and writes with it. It is imported here, for it takes 0.3 s and 24 MiB, and not all that
    trains is saved."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at WARNING and INFO
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        yield ocp, checkpointer


def _shapes(state: Any) -> dict[str, list[int]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(np.shape(leaf)) for path, leaf in leaves}


def _check_shapes(path: Path, found: dict[str, Any], expected: dict[str, Any], partial: bool) -> None:
    if partial:
        found = {name: shape for name, shape in found.items() if name in expected}
    if found == expected:
        return
    lines = [
        f"{name}: expected {json.dumps(expected.get(name))}, found {json.dumps(found.get(name))}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    more = f"\n  and {len(lines) - 6} more" if len(lines) > 6 else ""
    raise JaffeError(f"snapshot {path} is of another net or solver (null: not there):\n  "
                     + "\n  ".join(lines[:6]) + more)
