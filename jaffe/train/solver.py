"""Solver: a run of training, from a declaration to snapshots and figures."""

from __future__ import annotations

import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.weights import Source, WeightsReport, load_weights, weights_report
from jaffe.netdef.errors import JaffeError, of_callbacks
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.netdef.solverstate import is_solver_state
from jaffe.netdef.source import Spec, find
from jaffe.netdef.text import format_text
from jaffe.train.caffe_state import restore_caffe_state
from jaffe.train.clock import Clock
from jaffe.train.compilation import compiling
from jaffe.train.config import Recipe, named_files, read_config
from jaffe.train.curves import draw_curves
from jaffe.train.data.dataset import Data
from jaffe.train.declaration import declare
from jaffe.train.devices import IN_FLIGHT, Parallel, make_devices
from jaffe.train.examine import Examiner
from jaffe.train.monitor import Monitor, Standing
from jaffe.train.nets import build_nets, describe
from jaffe.train.optimizer import make_optimizer, wrap_optimizer
from jaffe.train.processes import broadcast, first
from jaffe.train.record import Record
from jaffe.train.report import Reporter, row_name, training_row
from jaffe.train.schedules import learning_rate
from jaffe.train.signals import Signals, Stopped
from jaffe.train.snapshots import about_run, restore
from jaffe.train.spread import spread_train_step
from jaffe.train.step import TrainState, begin, make_train_step


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
        weights: files to start from, by layer name: one, several separated by commas, or a list; ``""`` for none,
            whatever the solver file says. ``loaded`` tells what was copied.
        optimizer: an optax optimiser in place of the solver's own update, as ``optax.adamw(1e-3)``. It gets the mean
            gradient, and the loss as ``value``; lr_mult still freezes and scales.
        reporter: told of progress; default silent.
        dtype: of weights: float32, or float64 where JAX has it enabled.
        python_modules: names of the modules whose code Python layers may run.
        workers: processes that read and decode the data to train on, where they do not stay on the device; 0: threads
            of this process, as for tests.
        skip_damaged: whether the next record takes the place of one that cannot be read, with a warning; else it is an
            error.
        parallel: how the run is spread over several devices, of all processes: ``jaffe.Parallel(devices=4)``. By
            default it uses one. Tests use one in any case.
        settings: fields of ``SolverParameter``: ``base_lr=0.01``, ``test_iter=[10]``, ... A setting replaces
            what the solver file says.

    Attributes:
        net: the training net, compiled.
        tests: the test nets with their data.
        metrics: rows of what was displayed and tested.
        loaded: what ``load_weights`` copied, passed over and left, or ``None``.
        best: of the monitored output, the best value so far and when it was; or ``None``.
        ended: why the run ended before ``max_iter``, in words; or ``""``.

    Snapshots, ``PREFIX_metrics.jsonl`` and ``PREFIX_curves.png`` are written under ``snapshot_prefix`` (by
    default the solver file's path without suffix); without either, nothing is written. With ``monitor: "accuracy"``
    the snapshot of the best test is kept and linked as ``PREFIX_snapshots/best``; with ``patience`` the run ends after
    so many tests without a better one.

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
        weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        optimizer: optax.GradientTransformation | None = None,
        reporter: Reporter | None = None,
        dtype: Any = jnp.float32,
        python_modules: Sequence[str] = (),
        workers: int = 0,
        skip_damaged: bool = False,
        parallel: Parallel | None = None,
        **settings: Any,
    ):
        if isinstance(solver, Recipe):
            data = solver.data if data is None else data
            solver = solver.solver_proto()
        self.config = read_config(solver, net, settings, own_optimizer=optimizer is not None)
        self.reporter = reporter if reporter is not None and first() else Reporter()
        proto = self.proto = self.config.proto
        self.seed = proto.random_seed if proto.random_seed >= 0 else broadcast(secrets.randbits(31))
        self.devices = make_devices(parallel)
        self._mapped_net, self.feed, self.tests = build_nets(
            self.config, data, self.seed, dtype, python_modules, workers, skip_damaged, self.devices)
        self.net = self._mapped_net if self.devices is None else self._mapped_net.mapped()
        self._told: set[str] = set()  # what was said of damaged records
        if not self.net.loss_tops:
            raise JaffeError(f"net {self.net.name!r} has no loss in phase TRAIN: nothing to train on")
        divided = [node.name for node in self.net.graph.nodes if node.proto.divide]
        if divided and self.devices is not None and self._mapped_net.partition is None:
            self.reporter.warned(f"divide of {', '.join(divided)} is not used: expected model_parallel "
                                 "(--model-parallel) above 1")
        self._monitor = Monitor.of(proto, self.tests[0].net) if proto.monitor else None
        self.type = proto.type if optimizer is None else "optax"
        self.learning_rate = learning_rate(proto) if optimizer is None else lambda iteration: None
        self.optimizer = (make_optimizer(proto, self.net) if optimizer is None
                          else wrap_optimizer(optimizer, self.net, proto.iter_size))
        self._iteration = 0
        self.record = Record(self.config.prefix, proto.snapshot_keep, lambda path: self.reporter.saved(path))
        self.metrics, self.snapshots = self.record.metrics, self.record.snapshots
        init = self.net.init if self.devices is None else partial(self.devices.init, self._mapped_net)
        self.state = self._fresh(init(jax.random.key(self.seed)))
        self.loaded: WeightsReport | None = None
        named = named_files(proto.weights if weights is None else weights)
        if named:
            self.load_weights([find(file, self.config.directory) for file in named])
        how = (self._mapped_net, self.optimizer, self.feed.fetch, proto.iter_size, proto.ema_decay)
        self._step = (jax.jit(make_train_step(*how), donate_argnums=0) if self.devices is None
                      else spread_train_step(self.devices, *how, sequences=self.feed.sequences))
        self._compiled = False
        self._examiner = Examiner(self.net, self.feed, proto.iter_size, self.devices)
        self._batches: Iterator[Any] | None = None
        self._window: deque[float] = deque(maxlen=proto.average_loss)
        self._tested: int | None = None  # iteration of the last test of this state
        self._signals: Signals | None = None
        self.ended = ""
        self.best: Standing | None = None

    @property
    def iteration(self) -> int:
        """Updates made so far."""
        return self._iteration

    @property
    def variables(self) -> dict[str, Any]:
        """The training net's variables as they are now; copies, which later steps leave alone."""
        return jax.tree.map(jnp.copy, self._whole().variables)

    def load_weights(self, source: Source | Sequence[Source]) -> WeightsReport:
        """Copy weights into the nets by layer name; see ``jaffe.load_weights``. Clears the momentum.

        Returns:
            What was copied, what the files have that the net has not, what the net keeps of its own; also ``loaded``.
        """
        report = weights_report(self.net, source)
        self.state = self._fresh(load_weights(self.net, self.variables, source), self._iteration)
        for evaluation in self.tests:
            evaluation.own = load_weights(evaluation.net, evaluation.own, source)
        elsewhere = {layer for evaluation in self.tests for layer in evaluation.net.stored}
        self.loaded = replace(report, ignored=tuple(layer for layer in report.ignored if layer not in elsewhere))
        self.record.saved = self._tested = None
        return self.loaded

    @property
    def files(self) -> list[Path]:
        """What has been written so far: metrics, curves, the folder of snapshots."""
        return self.record.files

    def run(
        self, snapshot: str | os.PathLike[str] | None = None, weights: str | os.PathLike[str] | None = None
    ) -> None:
        """Train up to ``max_iter``, testing, displaying and saving when the solver says so.

        SIGINT (Ctrl-C) or SIGTERM ends the run after the iteration under way, with a snapshot; a second one at once.
        SIGHUP saves a snapshot, and the run goes on. What an earlier run left under the same prefix is renamed
        (``..._snapshots.1``), not overwritten.

        Args:
            snapshot: of an earlier run, to go on from: the result is that of the run that was never stopped.
            weights: see ``restore``.
        """
        if snapshot is not None:
            self.restore(snapshot, weights)
        self.ended = ""
        self.reporter.start(describe(self.config, self.net, self.tests, self._iteration))
        try:
            with self._watching() as signals:
                self._run(signals)
        except Stopped:
            self.ended = "interrupted"
        except BaseException as error:
            self.ended = "an error" if isinstance(error, Exception) else type(error).__name__
            raise
        finally:
            self.reporter.stop(self.ended)
        if (path := self.record.path("curves.png")) and self.metrics.rows and first():
            draw_curves(self.metrics.rows, path, self.net.name)

    def _run(self, signals: Signals) -> None:
        if self._iteration >= self.proto.max_iter:
            self.reporter.warned(f"nothing to train: iteration {self._iteration} is reached, and max_iter is "
                                 f"{self.proto.max_iter}")
        stopped = None
        try:
            self.step(max(self.proto.max_iter - self._iteration, 0))
        except Stopped as error:
            stopped = error
        if self.snapshots and self.proto.snapshot_after_train:
            self._save()
            self.record.flush()
        if stopped:
            raise stopped
        if self.tests and self._iteration % self.proto.test_interval == 0 and not self.ended:
            self._test_and_judge(self._poll(signals))
            self.record.flush()

    def _poll(self, signals: Signals) -> Callable[[], None] | None:
        """What ends a test in the middle; of several processes none does so alone."""
        return signals.check if jax.process_count() == 1 else None

    @contextmanager
    def _watching(self) -> Iterator[Signals]:
        """Signals are caught once, by the outermost of ``run`` and ``step``."""
        if self._signals is not None:
            yield self._signals
            return
        with Signals() as self._signals:
            try:
                yield self._signals
            finally:
                self._signals = None

    @of_callbacks()
    def step(self, iterations: int) -> np.ndarray:
        """Make updates, with the tests, rows and snapshots that fall due.

        Returns:
            The loss of each iteration (mean over ``iter_size`` passes), float32. They are fewer if there was no
            progress any more (``patience``); ``ended`` then says so.

        Raises:
            JaffeError: the loss or its gradient became NaN or infinite: the message says where; the weights are those
                before that iteration, the momentum is cleared. Or a snapshot could not be written; or a Python layer
                failed.
            Stopped: SIGINT or SIGTERM came, and the iteration that was under way is done; the solver can go on.
        """
        proto = self.proto
        self.record.begin()
        if self._batches is None:
            self._batches = self.feed.batches(self._iteration * proto.iter_size, proto.iter_size)
        losses: list[float] = []
        pending: deque[tuple[int, dict[str, Any]]] = deque()
        clock = Clock(self.feed.images * proto.iter_size)
        in_flight = IN_FLIGHT if self.devices is None else self.devices.in_flight

        with self._watching() as signals:
            agreed = signals if jax.process_count() == 1 else Signals()  # what all processes are asked for

            def settle(most: int) -> None:
                """Take in losses until at most so many steps are under way. Only these can wait for the device."""
                while len(pending) > most:
                    iteration, metrics = pending.popleft()
                    if self.devices is not None:
                        metrics = self.devices.heard(metrics, agreed)
                    losses.append(self._settled(iteration, metrics, clock))

            for _ in range(iterations):
                i = self._iteration
                if self.tests and i % proto.test_interval == 0 and (i > 0 or proto.test_initialization):
                    settle(0)
                    with clock.paused():
                        self.ended = self._test_and_judge(self._poll(signals))
                    if self.ended:
                        break
                batch = next(self._batches)
                self._tell_damaged()
                shown = proto.display and i % proto.display == 0
                if shown and proto.debug_info:
                    with clock.paused():
                        for lines in self._examiner.debug_info(self.state, batch):
                            self.reporter.debugged(lines)
                if self.devices is not None:
                    batch = (batch, self.devices.ask(signals))
                self.state, metrics = self._begin_update(batch)
                kept = metrics if shown else {name: x for name, x in metrics.items() if name != "outputs"}
                pending.append((i, kept))
                self._iteration += 1
                settle(in_flight)
                self.reporter.advanced(self._iteration)
                if agreed.save or (proto.snapshot and self._iteration % proto.snapshot == 0):
                    settle(0)
                    agreed.save = False
                    self._save_as_asked()
                self.record.flush(wait=False)
                if agreed.stop:
                    break
            settle(0)
            if agreed.save:  # heard with the last steps
                agreed.save = False
                self._save_as_asked()
            agreed.check()
        return np.array(losses, np.float32)

    def _save_as_asked(self) -> None:
        if self.snapshots:
            self._save()
        else:
            self.reporter.warned("no snapshot: expected snapshot_prefix; found none")

    def _tell_damaged(self) -> None:
        """Warn of records that were skipped, once each; of several processes, each of its own."""
        for feed in (self.feed, *(evaluation.feed for evaluation in self.tests)):
            for message in feed.damaged:
                if message not in self._told:
                    self._told.add(message)
                    self.reporter.warned(f"skipped: {message}")
                    if not first():
                        print(f"jaffe: process {jax.process_index()} skipped: {message}", file=sys.stderr)

    def _begin_update(self, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """Begin an update. The first call compiles; like the others it does not wait for the update itself."""
        if self._compiled:
            return self._step(self.state, self.feed.resident, batch)
        with compiling() as compilation:
            begun = self._step(self.state, self.feed.resident, batch)
        self._compiled = True
        self.reporter.compiled(compilation)
        return begun

    def _settled(self, iteration: int, metrics: dict[str, Any], clock: Clock) -> float:
        loss = float(metrics["loss"])
        if not metrics["finite"]:
            raise self._diverged(iteration, loss)
        self._window.append(loss)
        clock.tick()
        if "outputs" in metrics:
            rate = metrics["lr"] if "lr" in metrics else self.learning_rate(iteration)
            self.reporter.trained(self.metrics.add(
                training_row(iteration, float(np.mean(self._window)), rate, clock.rate(), metrics["outputs"])))
        return loss

    def _diverged(self, iteration: int, loss: float) -> JaffeError:
        """What to say of a loss or update that is not finite. The state is, since then, that before the iteration."""
        self._iteration = iteration
        self._batches = None
        state = self.state
        fresh = self._fresh(self._whole().variables, iteration)
        self.state = replace(fresh, key=state.key, ema=state.ema)
        size = self.proto.iter_size
        why = self._examiner.why(self.state, next(self.feed.batches(iteration * size, size)))
        self.record.flush()
        saved = f"\niteration {self.record.saved} is saved" if self.record.saved else ""
        what = "the update is not finite" if np.isfinite(loss) else f"the loss is {loss}"
        return JaffeError(f"{what} at iteration {iteration}: {why}{saved}")

    @of_callbacks()
    def test(self, poll: Callable[[], None] | None = None) -> list[dict[str, float | list[float]]]:
        """Run every test net over its ``test_iter`` batches; the means of its outputs, one dict a net.

        With ``ema_decay`` it is the averaged weights that are tested.

        Args:
            poll: called before each batch; what it raises ends the test.
        """
        self.record.begin()
        results, tested = [], self._whole().tested
        for i, evaluation in enumerate(self.tests):
            means = broadcast(evaluation.run(tested, self.net, poll))  # they decide alike in all processes
            named = {row_name(name): value for name, value in means.items()}
            self.reporter.tested(self.metrics.add({"iteration": self._iteration, "test": i, **named}))
            results.append(means)
        self._tested = self._iteration
        return results

    def _test_and_judge(self, poll: Callable[[], None] | None = None) -> str:
        """Test, unless this state was; save what is the best so far; and why the run is to end, if it is."""
        if self._tested != self._iteration:
            self.test(poll)
        if self._monitor is None:
            return ""
        standing = self.best = self._monitor.standing(self.metrics.rows)
        if standing.iteration == self._iteration and self.snapshots:
            self._save(best=True)
        return self._monitor.verdict(standing)

    def snapshot(self) -> Path:
        """Save everything that the run needs to go on. Returns the snapshot's folder, when it is written.

        Raises:
            JaffeError: there is nowhere to write: no ``snapshot_prefix``; or the disk refuses.
        """
        self.record.saved = None
        path = self._save()
        self.record.flush()
        return path

    def _save(self, *, best: bool = False) -> Path:
        """Begin to write a snapshot, unless this iteration has one."""
        state = self.state if self.devices is None else self.devices.joined(self.state, self._mapped_net)
        return self.record.save(self._iteration, state, {
            "iteration": self._iteration,
            "seed": self.seed,
            "net": self.net.name,
            "type": self.type,
            "solver": format_text(self.proto),
            "ema": self.state.ema is not None,
            "images": self.feed.images,
            "window": list(self._window),
            "declared": declare(self.config, [self.feed, *(test.feed for test in self.tests)]),
            # What falls due at this iteration itself happens again when the run goes on.
            "rows": [row for row in self.metrics.rows if row["iteration"] < self._iteration],
        }, best=best)

    def restore(self, path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> None:
        """Go on from a snapshot: a folder ``iter_N``, ``best``, or a folder of snapshots, whose latest is taken.

        Or from Caffe's ``.solverstate`` or ``.solverstate.h5``: see ``restore_caffe_state``.

        Args:
            weights: for Caffe's, in place of those that it names.

        Raises:
            JaffeError: it is missing, damaged, or of another net or type of solver.
        """
        path = Path(path)
        self.record.flush()
        if is_solver_state(path):
            if self.type == "optax":
                raise JaffeError(f"{path} holds the state of a solver of Caffe's; this one has an optimizer of its own")
            fresh = begin(self.variables, self.optimizer, jax.random.key(self.seed), averaged=self.proto.ema_decay > 0)
            state = restore_caffe_state(path, self.net, self.proto, fresh, weights)
            self.state = state if self.devices is None else self.devices.place(state, self._mapped_net)
            self._iteration = int(self.state.iteration)
            self._window.clear()
            self._batches = self.record.saved = self._tested = None
            return
        if weights is not None:
            raise JaffeError(f"{path} holds weights of its own; expected none beside it; found {weights}")
        about = about_run(path, self.type)
        now = self.state if self.devices is None else self.devices.joined(self.state, self._mapped_net)
        state, about = restore(path, replace(now, ema=now.params if about["ema"] else None))
        state = replace(state, ema=self._average_of(state))
        self.state = state if self.devices is None else self.devices.divided(state, self._mapped_net)
        if about.get("images", self.feed.images) != self.feed.images:
            self.reporter.warned(f"an iteration takes {self.feed.images} items; those of the snapshot took "
                                 f"{about['images']}: the data go on as after {about['iteration']} iterations "
                                 f"of {self.feed.images}")
        self._iteration = about["iteration"]
        self.seed = self.feed.seed = about["seed"]
        for evaluation in self.tests:
            evaluation.key = jax.random.key(self.seed)
            evaluation.feed.seed = self.seed
        self._window = deque(about["window"], self.proto.average_loss)
        self._batches = self._tested = None
        self.best = self._monitor.standing(about["rows"]) if self._monitor else None
        self.record.go_on(path, self._iteration, about["rows"], self.best.iteration if self.best else None)
        for i, evaluation in enumerate(self.tests):
            if own := evaluation.alone(self.net):
                self.reporter.warned(f"snapshots hold the training net's weights; test net {i} has layers of its own: "
                                     f"{', '.join(own)}")

    def _fresh(self, variables: dict[str, Any], iteration: int = 0) -> TrainState:
        """The state before an update, without momentum. Its arrays are its own: the step donates them."""
        key, averaged = jax.random.key(self.seed), self.proto.ema_decay > 0
        if self.devices is None:
            return begin(variables, self.optimizer, key, iteration, averaged=averaged)
        return self.devices.begin(variables, self._mapped_net, self.optimizer, key, iteration, averaged=averaged)

    def _whole(self) -> TrainState:
        """The state on one device; of several, without what the optimiser keeps."""
        if self.devices is None:
            return self.state
        return self.devices.whole(self.devices.joined(replace(self.state, opt_state=()), self._mapped_net))

    def _average_of(self, state: TrainState) -> Any:
        """The averaged parameters of a state; where it has none, and they are wanted, they begin as the parameters."""
        if not self.proto.ema_decay:
            return None
        return jax.tree.map(jnp.copy, state.params) if state.ema is None else state.ema
