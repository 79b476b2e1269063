"""Solvers as pycaffe's scripts know them, over ``jaffe.Solver``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaffe.compile.layer import make_layer
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.pycaffe.batches import BatchSource, FeedSource
from jaffe.pycaffe.net import Net
from jaffe.pycaffe.runtime import chosen_seed, on_device
from jaffe.train import Reporter, Solver
from jaffe.train.config import read_config
from jaffe.train.data import Feed
from jaffe.train.step import TrainState, passes


class SolverParam:
    """What ``solver.param`` shows of a solver's settings; ``max_iter`` and ``display`` can be set.

    ``base_lr`` and all others are read only: the update was compiled with them.
    """

    _SETTABLE = ("max_iter", "display")

    def __init__(self, proto: SolverParameter):
        object.__setattr__(self, "_proto", proto)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proto, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._SETTABLE:
            raise JaffeError(f"{name} of a solver cannot be changed once it is made; {' and '.join(self._SETTABLE)} "
                             "can: expected it in the solver's file")
        setattr(self._proto, name, value)


class SGDSolver:
    """Trains a net as the solver file says, by stochastic gradient descent, as ``caffe.SGDSolver`` of pycaffe.

    >>> solver = SGDSolver("lenet_auto_solver.prototxt")      # doctest: +SKIP
    >>> solver.step(1)                                        # doctest: +SKIP
    >>> solver.net.blobs["loss"].data                         # doctest: +SKIP

    It is a ``jaffe.Solver`` within. ``net`` and ``test_nets`` show the weights as they are after every step, and what
    is written to them counts in the next. After a step the blobs of ``net`` show the last batch, before the update, and
    the diffs of its parameters what the update subtracted, as in Caffe.

    Args:
        solver_file: path of a solver prototxt, or all else that ``jaffe.Solver`` reads. The class decides about the
            type of solver, whatever the file says; ``get_solver`` goes by the file.
        data: what feeds the nets, in place of what their data layers name; see ``jaffe.Solver``.
        reporter: told of progress; default silent.
        python_modules: names of the modules whose code Python layers may run.

    Attributes:
        net: the training net. Its ``forward`` reads batches from the one that training takes next on, and takes none
            away from it.
        test_nets: the test nets.
        param: the settings.

    Raises:
        SpecError: a file is missing, or solver or net are wrong.
        JaffeError: the data are missing or do not fit the net.
    """

    type: ClassVar[str | None] = "SGD"

    def __init__(
        self,
        solver_file: Any,
        *,
        data: Any = None,
        reporter: Reporter | None = None,
        python_modules: Sequence[str] = (),
    ):
        declared = read_config(solver_file, None, {}).proto
        settings: dict[str, Any] = {}
        if self.type not in (None, declared.type):
            settings["type"] = self.type
        if declared.random_seed < 0 and (seed := chosen_seed()) is not None:
            settings["random_seed"] = seed % 2**31
        with on_device():
            self._solver = Solver(solver_file, data=data, reporter=reporter, python_modules=python_modules, **settings)
        self.net, self._source = _facade(self._solver.net, self._solver.feed)
        self.test_nets: list[Net] = []
        for evaluation in self._solver.tests:
            net, _ = _facade(evaluation.net, evaluation.feed)
            if not set(net.params) <= set(self.net.params):
                net._machine.set_variables(evaluation.own)
            net.share_with(self.net)
            self.test_nets.append(net)
        self.param = SolverParam(self._solver.proto)
        self._update = jax.jit(self._updated)
        self._loss = jax.jit(self._solver.net.loss)
        self._pull()

    @property
    def iter(self) -> int:
        """Updates made so far."""
        return self._solver.iteration

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        rate = self._solver.learning_rate(self.iter)
        assert rate is not None  # as with an optimiser of the caller's own
        return float(rate)

    def step(self, n: int) -> None:
        """Make n updates, with the tests, rows and snapshots that fall due.

        Raises:
            JaffeError: the loss became NaN or infinite; see ``jaffe.Solver.step``.
        """
        if n < 1:
            return
        self._push()
        try:
            with on_device():
                if n > 1:
                    self._solver.step(n - 1)
                before = _kept(self._solver.state)
                if not self._solver.ended:
                    self._solver.step(1)
        finally:
            self._pull()
        if self.iter > before.iteration:
            self._show(before)

    def solve(self, resumefile: str | os.PathLike[str] | None = None) -> None:
        """Train up to ``max_iter``, from a snapshot if one is given."""
        self._push()
        try:
            with on_device():
                self._solver.run(resumefile)
        finally:
            self._pull()

    def restore(self, filename: str | os.PathLike[str]) -> None:
        """Go on from a snapshot; see ``jaffe.Solver.restore``."""
        with on_device():
            self._solver.restore(filename)
        self._pull()

    def snapshot(self) -> None:
        """Save everything that the run needs to go on, under ``snapshot_prefix``."""
        self._push()
        self._solver.snapshot()

    def share_weights(self, net: Net) -> None:
        """Let a net use the solver's weights, in one memory, from now on."""
        net.share_with(self.net)

    def apply_update(self) -> None:
        """Make one update with the gradients that the parameters of ``net`` hold, in place of ``step(1)``.

        They are what ``net.backward()`` has added up; ``net.clear_param_diffs()`` comes first. With ``iter_size`` they
        count as the sum of so many passes. Afterwards the diffs hold what was subtracted.
        """
        self._push()
        machine, solver = self.net._machine, self._solver
        if solver.state.ema is not None:
            raise JaffeError("apply_update does not average weights: expected a solver without ema_decay")
        gradients = {owner: {name: machine.param(owner, name).gradient.device() for name in group}
                     for owner, group in solver.state.params.items()}
        before = _kept(solver.state)
        with on_device():
            params, opt_state = self._update(gradients, solver.state.opt_state, before.params)
        solver.state = replace(solver.state, iteration=before.iteration + 1, params=params, opt_state=opt_state)
        solver._iteration += 1
        solver._batches = None  # training goes on with the batch after this iteration's
        self._pull()
        self._show_update(before)

    def add_callback(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any] | None = None) -> None:
        """Raises JaffeError: a step is one compiled function, into which no callback reaches."""
        raise JaffeError("a step of jaffe is one compiled function, without places for callbacks: expected a loop of "
                         "step(1), or of net.clear_param_diffs(), net.forward(), net.backward() and apply_update()")

    def _updated(self, gradients: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        updates, opt_state = self._solver.optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def _push(self) -> None:
        """Into the solver what the script has written to parameters, and what ``net.forward`` did to the state."""
        found = self._arrays()
        changed = {key: array for key, array in found.items() if array is not self._pulled[key]}
        if not changed:
            return
        state = self._solver.state
        groups = {"params": _copied(state.params), "state": _copied(state.net_state)}
        for (group, layer, name), array in changed.items():
            groups[group][layer][name] = jnp.copy(array)  # the solver's arrays are its own: a step gives them up
        self._solver.state = replace(state, params=groups["params"], net_state=groups["state"])

    def _pull(self) -> None:
        """The solver's weights into the nets."""
        variables, machine = self._solver.variables, self.net._machine
        machine.set_variables(variables)
        machine.carry = {layer: {name: variables["state"][layer][name] for name in group}
                         for layer, group in machine.carry.items()}
        self._pulled = self._arrays()
        if self._source is not None:
            self._source.position = self.iter * self._solver.proto.iter_size

    def _arrays(self) -> dict[tuple[str, str, str], jax.Array]:
        groups = self.net._machine.variables()
        state = {**self.net._machine.carry, **{layer: {**self.net._machine.carry.get(layer, {}), **group}
                                               for layer, group in groups["state"].items()}}
        return {(group, layer, name): array
                for group, layers in (("params", groups["params"]), ("state", state))
                for layer, arrays in layers.items() for name, array in arrays.items()}

    def _show(self, before: TrainState) -> None:
        """Let the blobs of ``net`` show the pass of the last update, computed again when they are looked at."""
        machine, size = self.net._machine, self._solver.proto.iter_size
        variables = before.variables

        def forward() -> None:
            nonlocal variables
            first = int(before.iteration) * size
            batches = [() if self._source is None else self._source.batch(first + i) for i in range(size)]
            batch = batches[0] if size == 1 else jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
            *earlier, last = ((({} if self._source is None else self._source.inputs(part, data_key)), net_key)
                              for part, data_key, net_key in passes(before, batch, size))
            for inputs, key in earlier:
                state = self._loss(variables, inputs, key)[1][1]
                variables = {**variables, "state": state}
            machine.replay(last[0], variables, last[1])

        machine.later(forward, lambda: machine.replay_backward(variables))
        self._show_update(before)

    def _show_update(self, before: TrainState) -> None:
        for owner, group in before.params.items():
            for name, array in group.items():
                param = self.net._machine.param(owner, name)
                param.gradient.set(array - param.values.device())


def _facade(net: CompiledNet, feed: Feed) -> tuple[Net, FeedSource | None]:
    """A compiled net and its feed as a net of pycaffe; and what it reads, if it has data layers."""
    first = next((node.name for node in net.graph.nodes if make_layer(node).source), None)
    source = None if first is None else FeedSource(feed)
    sources: dict[str, BatchSource] = {} if first is None or source is None else {first: source}
    return Net._of(net, sources), source


def _kept(state: TrainState) -> TrainState:
    """Copies of all but the optimiser's state, which the next step leaves alone."""
    return jax.tree.map(jnp.copy, replace(state, opt_state=None, ema=None))


def _copied(groups: Any) -> dict[str, dict[str, Any]]:
    return {layer: dict(arrays) for layer, arrays in groups.items()}


class NesterovSolver(SGDSolver):
    """As ``SGDSolver``, by Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """As ``SGDSolver``, by AdaGrad."""

    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """As ``SGDSolver``, by RMSProp."""

    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """As ``SGDSolver``, by AdaDelta."""

    type = "AdaDelta"


class AdamSolver(SGDSolver):
    """As ``SGDSolver``, by Adam."""

    type = "Adam"


class _DeclaredSolver(SGDSolver):
    """As ``SGDSolver``, of whatever type the file says."""

    type = None


_CLASSES: dict[str, type[SGDSolver]] = {
    str(one.type): one for one in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: Any, **settings: Any) -> SGDSolver:
    """The solver of the type that the file names; arguments as for ``SGDSolver``."""
    declared = read_config(solver_file, None, {}).proto.type
    return _CLASSES.get(declared, _DeclaredSolver)(solver_file, **settings)


