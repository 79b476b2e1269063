"""A run as it lies on the disk: its metrics, a snapshot, the nets that this snapshot declares."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from jaffe.compile.layers.python import trust
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.netdef.resolve import resolve
from jaffe.netdef.text import read_solver
from jaffe.train.data import Feed
from jaffe.train.declaration import Declared, declared_nets
from jaffe.train.evaluate import Evaluation
from jaffe.train.report import read_metrics
from jaffe.train.snapshots import read_about, restore_variables

METRICS = "_metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """What is there of a run.

    Attributes:
        prefix: of its files.
        rows: of its metrics, at least one.
        snapshot: the folder that was chosen, or ``None``: there is none.
        about: what that says.
        solver: every setting.
        nets: the training net, then the test nets; none where the snapshot does not say them.
        net, variables: the training net, and its weights in the snapshot; ``None`` where they cannot be had.
        notes: what is missing and why.
    """

    prefix: Path
    rows: Sequence[Mapping[str, Any]]
    snapshot: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    solver: SolverParameter | None = None
    nets: Sequence[Declared] = ()
    net: CompiledNet | None = None
    variables: Any = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def training(self) -> list[Mapping[str, Any]]:
        """Rows of training."""
        return [row for row in self.rows if "test" not in row]

    @property
    def name(self) -> str:
        """Of the net, or else of the files."""
        return str(self.about.get("net") or self.prefix.name)


def find_metrics(run: str | os.PathLike[str]) -> Path:
    """The metrics file of a run: the file itself, that of a prefix, or the only one in a folder.

    Raises:
        JaffeError: there is none, or there are several.
    """
    path = Path(run)
    of_prefix = path.with_name(path.name + METRICS) if path.name else path  # "." and "/" have none
    try:
        if path.is_file() and not path.name.endswith(METRICS):
            raise JaffeError(f"{path} is no run: expected a folder, a prefix, or a file *{METRICS}")
        for file in (path, of_prefix):
            if file.is_file():
                return file
        inside = sorted(path.glob(f"*{METRICS}"))
    except (OSError, ValueError) as error:  # a name that is too long, or none
        raise error if isinstance(error, JaffeError) else JaffeError(f"{path} cannot be read: {error}") from None
    if len(inside) > 1:
        raise JaffeError(f"{path} holds several runs: expected one of "
                         + ", ".join(str(one).removesuffix(METRICS) for one in inside))
    if not inside:
        where = f"a file *{METRICS} in it" if path.is_dir() else f"a folder, or a file {of_prefix}"
        raise JaffeError(f"{path} is no run: expected {where}; found none")
    return inside[0]


def read_run(
    run: str | os.PathLike[str], snapshot: str | os.PathLike[str] | None = None, python_modules: Sequence[str] = ()
) -> Run:
    """Read a run; what is missing beside the metrics is noted.

    Args:
        snapshot: to take; by default the run's ``best``, else its latest.
        python_modules: whose code Python layers may run.

    Raises:
        JaffeError: there is no such run; a line of its metrics, or the snapshot, is damaged.
    """
    metrics = find_metrics(run)
    prefix = metrics.with_name(metrics.name.removesuffix(METRICS))
    rows = read_metrics(metrics)
    if not rows:
        raise JaffeError(f"{metrics} has no rows: nothing was displayed or tested yet")
    chosen = _snapshot(prefix) if snapshot is None else Path(snapshot)
    if chosen is None:
        return Run(prefix, rows, notes=["The run has no snapshot yet: net, weights and results are left out."])
    about = read_about(chosen)
    if {"iteration", "seed", "solver"} - {*about}:
        raise JaffeError(f"{chosen} holds weights only: expected a snapshot of a run")
    iteration = chosen.resolve().with_name(f"iter_{about['iteration']}")
    chosen = iteration if iteration.is_dir() else chosen
    solver, nets, notes = read_solver(about["solver"]), declared_nets(about), list[str]()
    net, variables = None, None
    if not nets:
        notes.append("The snapshot does not say its net (it is of an earlier jaffe): net, weights and results are left "
                     "out.")
    else:
        try:
            net = nets[0].compile(python_modules)
        except JaffeError as error:
            notes.append(f"The net cannot be compiled, so that weights and results are left out: {error}")
    if net is not None:
        variables = restore_variables(chosen, net.init(jax.random.key(0)), net.fresh_carry())
    return Run(prefix, rows, chosen, about, solver, nets, net, variables, notes)


def _snapshot(prefix: Path) -> Path | None:
    folder = prefix.with_name(f"{prefix.name}_snapshots")
    if (folder / "best").exists():
        return folder / "best"
    return folder if any(folder.glob("iter_*")) else None


def evaluation_of(run: Run, data: str | None, python_modules: Sequence[str] = ()) -> Evaluation | None:
    """The first test of a run, with its data; ``None``, with a note, where it has none or its data are not there.

    Args:
        data: in place of the data that the run had.

    Raises:
        JaffeError: ``data`` cannot be read, or does not fit the net.
    """
    if run.net is None or run.solver is None:
        return None
    if len(run.nets) < 2:
        run.notes.append("The run has no test net: there are no results by class.")
        return None
    test = run.nets[1]
    source = data if data is not None else test.data
    if source is None:
        run.notes.append("The run took its data from Python: results on them are left out; --data names such data.")
        return None
    try:
        graph = trust(resolve(test.source, test.state), python_modules)
        feed = Feed(graph, source or None, base=test.source.directory, seed=run.about["seed"])
        return Evaluation(test.compile(python_modules), feed, run.solver.test_iter[0],
                          jax.random.key(run.about["seed"]))
    except JaffeError as error:
        if data is not None:
            raise
        run.notes.append(f"The test data cannot be read, so that results on them are left out: {error}; "
                         "--data names them anew.")
        return None
