"""Snapshots of a run. All contact with orbax is here."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaffe.netdef.errors import JaffeError

_STEP = re.compile(r"iter_(\d+)$")


class Snapshots:
    """The snapshots of one run: folders ``iter_100``, ``iter_200``, ... in ``directory``.

    A snapshot is written beside its final name and renamed when complete, so that a run that dies leaves
    whole snapshots only.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def save(self, iteration: int, state: Any, about: dict[str, Any]) -> Path:
        """Write ``state`` (a pytree of arrays) and ``about`` (JSON) for this iteration; replaces an older one."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with _manager(self.directory.absolute()) as manager:
                if iteration in manager.all_steps():
                    manager.delete(iteration)
                manager.save(iteration, args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave({**about, "shapes": _shapes(state)}),
                ))
        except OSError as error:
            raise JaffeError(f"the snapshot in {self.directory} cannot be written: {error.strerror}") from error
        return self.directory / f"iter_{iteration}"

    def iterations(self) -> list[int]:
        """Iterations that have a whole snapshot, in order."""
        if not self.directory.is_dir():
            return []
        found = (_STEP.search(path.name) for path in self.directory.iterdir() if (path / "state").is_dir())
        return sorted(int(match.group(1)) for match in found if match)


def restore(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read a snapshot.

    Args:
        path: a snapshot (``.../iter_500``), or a folder of them, whose latest is taken.
        like: a state of the same structure, for shapes, dtypes and devices.

    Returns:
        The state, and what was saved about it.

    Raises:
        JaffeError: there is no snapshot, it is damaged, or it belongs to another net.
    """
    path = path.absolute()
    match = _STEP.search(path.name)
    if not match:
        iterations = Snapshots(path).iterations()
        if not iterations:
            raise JaffeError(f"{path} holds no snapshot: expected a folder iter_N, or one with such folders in it")
        path, iteration = path / f"iter_{iterations[-1]}", iterations[-1]
    elif not (path / "state").is_dir():
        near = Snapshots(path.parent).iterations()
        raise JaffeError(f"{path} is not a snapshot"
                         + (f"; there are iterations {', '.join(map(str, near))}" if near else ""))
    else:
        iteration = int(match.group(1))
    try:
        with _manager(path.parent) as manager:
            about = dict(manager.restore(iteration, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about)
            _check_shapes(path, about.pop("shapes"), _shapes(like))
            args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            return manager.restore(iteration, args=args).state, about
    except JaffeError:
        raise
    except Exception as error:  # whatever orbax, tensorstore and the file system raise on damaged files
        raise JaffeError(f"snapshot {path} is damaged: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def restore_variables(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The net's variables in a snapshot, without optimiser and counters.

    Args:
        path: as for ``restore``.
        like: variables of the net, for shapes.

    Raises:
        JaffeError: as ``restore`` does.
    """
    partial = {"params": like["params"], "net_state": like["state"]}
    state, _ = restore(path, partial)
    return {"params": state["params"], "state": state["net_state"]}


def _manager(directory: Path) -> ocp.CheckpointManager:
    # Saving is synchronous: the arrays are donated to the next step.
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at WARNING and INFO
    options = ocp.CheckpointManagerOptions(step_prefix="iter", enable_async_checkpointing=False, create=False)
    return ocp.CheckpointManager(directory, options=options)


def _shapes(state: Any) -> dict[str, list[int]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(np.shape(leaf)) for path, leaf in leaves}


def _check_shapes(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
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
