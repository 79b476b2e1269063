"""Snapshots of a run. All contact with orbax is here."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaffe.netdef.errors import JaffeError

_STEP = re.compile(r"iter_(\d+)")


class Snapshots:
    """The snapshots of one run: folders ``iter_100``, ``iter_200``, ... in ``directory``.

    A snapshot is written beside its final name and renamed when complete; one that it replaces is removed after
    that. So a run that dies, or a disk that is full, leaves whole snapshots only.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def save(self, iteration: int, state: Any, about: dict[str, Any]) -> Path:
        """Write ``state`` (a pytree of arrays) and ``about`` (JSON) for this iteration; replaces an older one.

        Raises:
            JaffeError: it cannot be written; an older one stays.
        """
        path = self.directory / f"iter_{iteration}"
        new, old = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with _checkpointer() as checkpointer:
                checkpointer.save(new.absolute(), force=True, args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave({**about, "shapes": _shapes(state)}),
                ))
            if path.exists():
                path.rename(old)
            new.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        except Exception as error:  # whatever orbax, tensorstore and the file system raise: often a full disk
            problem = str(error).splitlines()[0] if str(error) else ""
            raise JaffeError(f"snapshot {path} cannot be written: {type(error).__name__}: {problem}") from error
        return path

    def iterations(self) -> list[int]:
        """Iterations that have a whole snapshot, in order."""
        if not self.directory.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.directory.iterdir() if (path / "state").is_dir())
        return sorted(int(match.group(1)) for match in found if match)


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
    about = read_about(path)
    try:
        with _checkpointer() as checkpointer:
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
    path = _find(path)
    try:
        with _checkpointer() as checkpointer:
            args = ocp.args.Composite(about=ocp.args.JsonRestore())
            return dict(checkpointer.restore(path.absolute(), args=args).about)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> JaffeError:
    """Whatever orbax, tensorstore and the file system raise on damaged files."""
    return JaffeError(f"snapshot {path} is damaged: {type(error).__name__}: {str(error).splitlines()[0]}")


def _find(path: Path) -> Path:
    """The snapshot that a path means."""
    if not _STEP.fullmatch(path.name):
        iterations = Snapshots(path).iterations()
        if not iterations:
            raise JaffeError(f"{path} holds no snapshot: expected a folder iter_N, or one with such folders in it")
        return path / f"iter_{iterations[-1]}"
    if not (path / "state").is_dir():
        near = Snapshots(path.parent).iterations()
        raise JaffeError(f"{path} is not a snapshot"
                         + (f"; there are iterations {', '.join(map(str, near))}" if near else ""))
    return path


def restore_variables(path: Path, like: dict[str, Any], carry: Mapping[str, Mapping[str, Any]] = {}) -> dict[str, Any]:
    """The net's variables in a snapshot, without optimiser and counters.

    Args:
        path: as for ``restore``.
        like: variables of the net, for shapes.
        carry: ``net.fresh_carry()``: what stays as it is here, for the training net's belongs to its own batches.

    Raises:
        JaffeError: as ``restore`` does.
    """
    found, _ = restore(path, _kept(like, carry), partial=True)
    state = {layer: {**found["net_state"].get(layer, {}), **carry.get(layer, {})} for layer in like["state"]}
    return {"params": found["params"], "state": state}


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
    Snapshots(path.parent).save(int(found.group(1)), _kept(variables, carry), {})


def _kept(variables: Mapping[str, Any], carry: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The variables of a net as a snapshot has them, without what is carried from batch to batch."""
    state = {
        layer: {name: value for name, value in group.items() if name not in carry.get(layer, ())}
        for layer, group in variables["state"].items()
    }
    state = {layer: group for layer, group in state.items() if group}  # orbax takes no empty ones
    return {"params": variables["params"], "net_state": state}


def _checkpointer() -> ocp.Checkpointer:
    """Saves synchronously: the arrays are donated to the next step."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at WARNING and INFO
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


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
