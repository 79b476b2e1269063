"""Solver: a run of training, from a declaration to snapshots and figures."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.net import CompiledNet, compile_net
from jaffe.compile.weights import load_weights
from jaffe.netdef.errors import JaffeError, of_callbacks
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.netdef.source import Spec, find
from jaffe.netdef.text import format_text, read_solver
from jaffe.train.config import NetRole, Recipe, read_config
from jaffe.train.curves import draw_curves
from jaffe.train.data import Feed
from jaffe.train.data.sources import Data
from jaffe.train.evaluate import Evaluation
from jaffe.train.interrupt import Interrupt
from jaffe.train.optimizer import make_optimizer
from jaffe.train.report import Metrics, Reporter, make_room
from jaffe.train.schedules import learning_rate
from jaffe.train.snapshots import Snapshots, read_about, restore
from jaffe.train.step import TrainState, make_train_step

# Steps that may be under way at once: enough to keep the device busy, few enough to bound memory.
IN_FLIGHT = 4


class Solver:
    """Trains a net as a Caffe solver does.

    >>> solver = Solver("lenet_solver.prototxt")        # doctest: +SKIP
    >>> solver.run()                                    # doctest: +SKIP

    or without files:

    >>> solver = Solver(net=spec, data={"train": ..., "test": ...}, base_lr=0.01, momentum=0.9,
    ...                 lr_policy="fixed", max_iter=500, test_iter=3, test_interval=100)  # doctest: +SKIP

    Args:
        solver: solver prototxt (path or text), ``SolverParameter``, or a recipe of ``jaffe.zoo``; ``None`` when
            settings say it all.
        net: the net, for training and testing, in place of those that the solver names.
        data: what feeds the nets, in place of their data layers' own files: see ``open_dataset``. A dict with the
            keys ``"train"`` and ``"test"`` gives each phase its own.
        weights: ``.caffemodel`` files to start from, separated by commas, by layer name; ``""`` for none, whatever
            the solver file says.
        reporter: told of progress; default silent.
        dtype: of weights and blobs: float32, or float64 where JAX has it enabled.
        python_modules: names of the modules whose code Python layers may run.
        settings: fields of ``SolverParameter``: ``base_lr=0.01``, ``test_iter=[10]``, ... A setting replaces
            what the solver file says.

    Attributes:
        net: the training net, compiled.
        tests: the test nets with their data.
        metrics: rows of what was displayed and tested.

    Snapshots, ``PREFIX_metrics.jsonl`` and ``PREFIX_curves.png`` are written under ``snapshot_prefix`` (by
    default the solver file's path without suffix); without either, nothing is written.

    Raises:
        SpecError: solver or net are wrong.
        JaffeError: the data are missing or do not fit the net.
    """

    def __init__(
        self,
        solver: str | os.PathLike[str] | SolverParameter | Recipe | None = None,
        *,
        net: Spec | None = None,
        data: Data | Mapping[str, Data] | None = None,
        weights: str | None = None,
        reporter: Reporter | None = None,
        dtype: Any = jnp.float32,
        python_modules: Sequence[str] = (),
        **settings: Any,
    ):
        self.dtype = dtype
        self.python_modules = python_modules
        if isinstance(solver, Recipe):
            data = solver.data if data is None else data
            solver = solver.solver_proto()
        self.config = read_config(solver, net, settings)
        self.reporter = reporter or Reporter()
        proto = self.proto = self.config.proto
        self.seed = proto.random_seed if proto.random_seed >= 0 else secrets.randbits(31)
        key = jax.random.key(self.seed)
        by_split = data if isinstance(data, Mapping) and set(data) <= {"train", "test"} else None
        self.net, self.feed = self._compile(self.config.train, by_split.get("train") if by_split else data)
        self.tests = [
            Evaluation(
                *self._compile(role, by_split.get("test") if by_split else data), iterations, key,
                with_loss=proto.test_compute_loss,
            )
            for role, iterations in zip(self.config.tests, proto.test_iter, strict=True)
        ]
        if not self.net.loss_tops:
            raise JaffeError(f"net {self.net.name!r} has no loss in phase TRAIN: nothing to train on")
        self.learning_rate = learning_rate(proto)
        self.optimizer = make_optimizer(proto, self.net)
        self._iteration = 0
        self.state = self._fresh(self.net.init(key))
        for file in (",".join(proto.weights) if weights is None else weights).split(","):
            if file.strip():
                self.load_weights(find(file.strip(), self.config.directory))
        step = make_train_step(self.net, self.optimizer, self.feed.fetch, proto.iter_size)
        self._step = jax.jit(step, donate_argnums=0)
        self._batches: Iterator[Any] | None = None
        self._window: deque[float] = deque(maxlen=proto.average_loss)
        self.metrics = Metrics(self._path("metrics.jsonl"))
        self.snapshots = Snapshots(path) if (path := self._path("snapshots")) else None
        self._saved: int | None = None  # iteration of the last snapshot of this run
        self._began = False

    @property
    def iteration(self) -> int:
        """Updates made so far."""
        return self._iteration

    @property
    def variables(self) -> dict[str, Any]:
        """The training net's variables as they are now; copies, which later steps leave alone."""
        return jax.tree.map(jnp.copy, self.state.variables)

    def load_weights(self, source: str | os.PathLike[str] | Mapping[str, Sequence[np.ndarray]]) -> None:
        """Copy weights into the nets by layer name; see ``jaffe.load_weights``. Clears the momentum."""
        fresh = self._fresh(load_weights(self.net, self.variables, source))
        opt_state = optax.tree_utils.tree_set(fresh.opt_state, count=jnp.int32(self._iteration))
        opt_state = jax.tree.map(jnp.copy, opt_state)  # several counts: each an array of its own, to be donated
        self.state = replace(fresh, iteration=jnp.int32(self._iteration), opt_state=opt_state)
        for evaluation in self.tests:
            evaluation.own = load_weights(evaluation.net, evaluation.own, source)

    @property
    def files(self) -> list[Path]:
        """What has been written so far: metrics, curves, the folder of snapshots."""
        paths = (self._path(suffix) for suffix in ("metrics.jsonl", "curves.png", "snapshots"))
        return [path for path in paths if path is not None and path.exists()]

    def run(self, snapshot: str | os.PathLike[str] | None = None) -> None:
        """Train up to ``max_iter``, testing, displaying and saving when the solver says so.

        An interrupt (Ctrl-C) ends the run after the iteration under way, with a snapshot; a second one at once.
        What an earlier run left under the same prefix is renamed (``..._snapshots.1``), not overwritten.

        Args:
            snapshot: of an earlier run, to go on from: the result is that of the run that was never stopped.
        """
        if snapshot is not None:
            self.restore(snapshot)
        self.reporter.start(self._iteration, self.proto.max_iter)
        stopped = False
        try:
            try:
                self.step(max(self.proto.max_iter - self._iteration, 0))
            except KeyboardInterrupt:
                stopped = True
            if self.snapshots and self.proto.snapshot_after_train and self._saved != self._iteration:
                self.snapshot()
            if self.tests and self._iteration % self.proto.test_interval == 0 and not stopped:
                self.test()
        finally:
            self.reporter.stop()
        if (path := self._path("curves.png")) and self.metrics.rows:
            draw_curves(self.metrics.rows, path, self.net.name)

    @of_callbacks()
    def step(self, iterations: int) -> np.ndarray:
        """Make updates, with the tests, rows and snapshots that fall due.

        Returns:
            The loss of each iteration (mean over ``iter_size`` passes), float32.

        Raises:
            JaffeError: the loss became NaN or infinite, training cannot go on from there; or a Python layer failed.
            KeyboardInterrupt: after the iteration that was under way; the solver can go on.
        """
        proto = self.proto
        self._begin()
        if self._batches is None:
            self._batches = self.feed.batches(self._iteration * proto.iter_size, proto.iter_size)
        losses: list[float] = []
        pending: deque[tuple[int, jax.Array]] = deque()
        clock = _Clock(self.feed.images * proto.iter_size)

        def settle(most: int) -> None:
            """Take in losses until at most so many steps are under way. Only these can wait for the device."""
            while len(pending) > most:
                iteration, loss = pending.popleft()
                losses.append(self._settled(iteration, float(loss), clock))

        with Interrupt() as interrupt:
            for _ in range(iterations):
                i = self._iteration
                if self.tests and i % proto.test_interval == 0 and (i > 0 or proto.test_initialization):
                    settle(0)
                    with clock.paused():
                        self.test()
                self.state, metrics = self._step(self.state, self.feed.resident, next(self._batches))
                pending.append((i, metrics["loss"]))
                self._iteration += 1
                settle(IN_FLIGHT)
                self.reporter.advanced(self._iteration)
                if proto.snapshot and self._iteration % proto.snapshot == 0 and self.snapshots:
                    settle(0)
                    with clock.paused():
                        self.snapshot()
                if interrupt.requested:
                    settle(0)
                    raise KeyboardInterrupt
            settle(0)
        return np.array(losses, np.float32)

    def _begin(self) -> None:
        """Once a run: see that its files can be written, and put those of an earlier run aside."""
        if self._began or self.config.prefix is None:
            return
        self._began = True
        try:
            make_room(self.files, self.config.prefix.parent)
        except OSError as error:
            raise JaffeError(f"nothing can be written under {self.config.prefix}: {error.strerror}") from None

    def _settled(self, iteration: int, loss: float, clock: _Clock) -> float:
        if not np.isfinite(loss):
            saved = f"; iteration {self._saved} is saved" if self._saved else ""
            raise JaffeError(f"the loss is {loss} at iteration {iteration}; try a smaller base_lr or smaller initial "
                             f"weights, and see that no label is outside the classes{saved}")
        self._window.append(loss)
        clock.tick()
        if self.proto.display and iteration % self.proto.display == 0:
            self.reporter.trained(self.metrics.add({
                "iteration": iteration,
                "loss": float(np.mean(self._window)),
                "lr": float(self.learning_rate(iteration)),
                "images_per_second": clock.rate(),
            }))
        return loss

    @of_callbacks()
    def test(self) -> list[dict[str, float | list[float]]]:
        """Run every test net over its ``test_iter`` batches; the means of its outputs, one dict a net."""
        results = []
        for i, evaluation in enumerate(self.tests):
            means = evaluation.run(self.state.variables, self.net)
            self.reporter.tested(self.metrics.add({"iteration": self._iteration, "test": i, **means}))
            results.append(means)
        return results

    def snapshot(self) -> Path:
        """Save everything that the run needs to go on. Returns the snapshot's folder.

        Raises:
            JaffeError: there is nowhere to write: no ``snapshot_prefix``; or the disk refuses.
        """
        if self.snapshots is None:
            raise JaffeError("nowhere to write the snapshot: expected snapshot_prefix; found none")
        path = self.snapshots.save(self._iteration, self.state, {
            "iteration": self._iteration,
            "seed": self.seed,
            "net": self.net.name,
            "solver": format_text(self.proto),
            "window": list(self._window),
        })
        self._saved = self._iteration
        self.reporter.saved(path)
        return path

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from a snapshot: a folder ``iter_N``, or a folder of snapshots, whose latest is taken.

        Raises:
            JaffeError: it is missing, damaged, or of another net or type of solver.
        """
        path = Path(path)
        theirs = read_solver(read_about(path)["solver"]).type
        if theirs != self.proto.type:
            raise JaffeError(f"{path} is a snapshot of a run with solver {theirs}; this one is {self.proto.type}. Its "
                             "weights alone can be taken: jaffe convert, then weights (--weights)")
        self.state, about = restore(path, self.state)
        self._iteration = about["iteration"]
        self.seed = self.feed.seed = about["seed"]
        for evaluation in self.tests:
            evaluation.key = jax.random.key(self.seed)
        self._batches = None
        self._window = deque(about["window"], self.proto.average_loss)
        self._saved = None
        where = path.resolve()
        own = self.snapshots is not None and self.snapshots.directory.resolve() in (where, where.parent)
        if own and not self._began:  # the files of the run that goes on; those of any other run are put aside
            self.metrics.resume(self._iteration)
            self._began = True

    def _fresh(self, variables: dict[str, Any]) -> TrainState:
        """The state before the first update. Its arrays are its own: the step donates them."""
        params = variables["params"]
        key = jax.random.key(self.seed)
        return TrainState(jnp.int32(0), params, variables["state"], self.optimizer.init(params), key)

    def _compile(self, role: NetRole, data: Any) -> tuple[CompiledNet, Feed]:
        state = NetState(role.phase, role.level, role.stages)
        feed = Feed(resolve(role.source, state), data, base=role.source.directory, seed=self.seed)
        net = compile_net(
            role.source, phase=role.phase, level=role.level, stages=role.stages, inputs=feed.shapes, dtype=self.dtype,
            python_modules=self.python_modules,
        )
        return net, feed

    def _path(self, suffix: str) -> Path | None:
        prefix = self.config.prefix
        return None if prefix is None else prefix.with_name(f"{prefix.name}_{suffix}")


class _Clock:
    """Images a second since the last question, without compiling, testing and saving."""

    def __init__(self, images: int):
        self.images = images
        self.began: float | None = None
        self.steps = 0

    def tick(self) -> None:
        """A step is done. The first one, which compiles, only starts the clock."""
        if self.began is None:
            self.began = time.perf_counter()
        else:
            self.steps += 1

    def rate(self) -> float | None:
        """``None`` when no step was timed."""
        if not self.steps or self.began is None:
            return None
        now = time.perf_counter()
        rate = self.steps * self.images / max(now - self.began, 1e-9)
        self.began, self.steps = now, 0
        return round(rate, 1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        at = time.perf_counter()
        yield
        if self.began is not None:
            self.began += time.perf_counter() - at
