"""Runs that go on from Caffe's snapshots, and back: ``.solverstate`` and the ``.caffemodel`` beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.layer import Weight
from jaffe.compile.net import CompiledNet
from jaffe.compile.weights import load_weights, save_weights, weights_report
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.netdef.solverstate import SUFFIXES, SolverState, read_solver_state, write_solver_state
from jaffe.netdef.weights import same_values
from jaffe.train.step import TrainState, is_field

# Where each series of Caffe's history stands in the optax state (``optimizer.UPDATES``), in Caffe's order. The numbers
# are the same: V of SGD holds the rate and is subtracted from the weights, in both.
SERIES = {
    "SGD": ("trace",),
    "Nesterov": ("trace",),
    "AdaGrad": ("total",),
    "RMSProp": ("nu",),
    "AdaDelta": ("e_g", "e_x"),
    "Adam": ("mu", "nu"),
}
_OF_SQUARES = ("total", "nu", "e_g", "e_x")
_WEIGHTS = dict(zip(SUFFIXES, (".caffemodel", ".caffemodel.h5"), strict=True))


def restore_caffe_state(
    path: str | os.PathLike[str],
    net: CompiledNet,
    solver: SolverParameter,
    fresh: TrainState,
    weights: str | os.PathLike[str] | None = None,
) -> TrainState:
    """The state of a run that Caffe began, from a ``.solverstate`` or ``.solverstate.h5`` and the weights with it.

    A file does not say by which type of solver it was written: SGD, Nesterov, AdaGrad and RMSProp have equally many
    blobs, and so have AdaDelta and Adam. Negative squares are refused; beyond that ``solver.type`` is believed.
    Caffe keeps neither random keys, nor the state that LSTM carries, nor the data's position: the first two stay as
    they are in ``fresh``; where the data goes on follows from the iteration.

    Args:
        net: that of phase TRAIN.
        solver: its ``type`` says what the history means.
        fresh: a state before the first update, made for this net and solver.
        weights: in place of those that the file names, which are looked for where it says and then beside it.

    Raises:
        SpecError: a file cannot be read; or the history of a layer has another shape.
        JaffeError: the weights are not found, or are not of all layers; there are more or fewer blobs of history.
    """
    path = Path(path)
    saved = read_solver_state(path)
    fields = _series_of(solver, fresh, f"{path} holds the state of a solver of Caffe's")
    _check(path, net, solver.type, saved.history)
    found = _learned_net(path, saved.learned_net) if weights is None else weights
    report = weights_report(net, found)
    variables = load_weights(net, fresh.variables, found)
    if report.left:
        raise net.graph.node(report.left[0]).error(f"expected weights of every layer in {found}; found none of this "
                                                   "one: a run can go on with its own net only")
    trees = _trees(net, fresh.params, fields, saved.history)
    counts = {"count": jnp.int32(saved.iteration)}
    # Several counts: each an array of its own, to be donated.
    opt_state = jax.tree.map(jnp.copy, optax.tree_utils.tree_set(fresh.opt_state, is_field, **trees, **counts))
    params = variables["params"]
    return replace(
        fresh, iteration=jnp.int32(saved.iteration), params=params, net_state=variables["state"], opt_state=opt_state,
        ema=None if fresh.ema is None else jax.tree.map(jnp.copy, params),
    )


def write_caffe_state(
    path: str | os.PathLike[str], net: CompiledNet, solver: SolverParameter, state: TrainState
) -> Path:
    """Write a run's state for Caffe to go on from: a ``.solverstate`` or ``.solverstate.h5``, with the weights beside.

    Returns:
        Where the weights are: the same name with ``.caffemodel`` or ``.caffemodel.h5``.

    Raises:
        SpecError: a file cannot be written.
        JaffeError: the name ends otherwise; or Caffe has no such type of solver.
    """
    path = Path(path)
    suffix = next((suffix for suffix in _WEIGHTS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise JaffeError(f"{path}: expected a name that ends in {' or '.join(_WEIGHTS)}")
    fields = _series_of(solver, state, f"{path}: Caffe's files hold the state of its own solvers")
    learned_net = path.with_name(path.name.removesuffix(suffix) + _WEIGHTS[suffix])
    iteration = int(state.iteration)
    history = []
    for field in fields:
        tree = optax.tree_utils.tree_get(state.opt_state, field, filtering=is_field)
        for node, weight in learnable(net):
            kept = tree[node.name][weight.name] if weight.trained else np.zeros(weight.shape, np.float32)
            history.append(np.asarray(kept))
    save_weights(net, state.variables, learned_net)
    write_solver_state(path, SolverState(iteration, str(learned_net), tuple(history), _steps_taken(solver, iteration)))
    return learned_net


def learnable(net: CompiledNet) -> list[tuple[Node, Weight]]:
    """Caffe's ``learnable_params``: each stored array once, in the order of the net, with ``lr_mult: 0`` or without;
    BatchNorm's statistics are among them. Source: Caffe 1.0, ``Net::AppendParam``."""
    return [(node, stored.weight) for node in net.graph.nodes for stored in net.inferred.owned(node.name)]


def _series_of(solver: SolverParameter, state: TrainState, what: str) -> tuple[str, ...]:
    fields = SERIES.get(solver.type, ())
    if not fields:
        raise JaffeError(f"{what}; expected one of the types {', '.join(SERIES)}; found {solver.type}")
    for field in fields:
        if not any(is_field(*one) for one in optax.tree_utils.tree_get_all_with_path(state.opt_state, field)):
            raise JaffeError(f"{what}; found an optimiser of another kind than {solver.type}, without {field!r}")
    return fields


def _check(path: Path, net: CompiledNet, kind: str, history: Sequence[np.ndarray]) -> None:
    """Refuse a history of another net, or of another type of solver where that can be seen."""
    owned, fields = learnable(net), SERIES[kind]
    wanted = [(field, *one) for field in fields for one in owned]
    need = f"solver {kind} needs {len(fields)} for each of {len(owned)} parameters, {len(wanted)} in all"
    others = [other for other, theirs in SERIES.items() if len(theirs) * len(owned) == len(history)]
    for (field, node, weight), array in zip(wanted, history, strict=False):
        if not same_values(array.shape, weight.shape):
            raise node.error(f"{weight.name}: expected history of shape {weight.shape}; found {array.shape} in {path}, "
                             f"which has {len(history)} blobs ({need}): a run can go on with its own net only")
        if field in _OF_SQUARES and (array < 0).any():
            raise node.error(f"{weight.name}: found negative history in {path}; expected squares, as solver {kind} "
                             "keeps: the run was with another type")
    if len(history) == len(wanted):
        return
    if others:
        hint = f", as {', '.join(others)} would have"
    elif len(history) < len(wanted):
        _, node, weight = wanted[len(history)]
        hint = f"; the first without is {weight.name} of layer {node.name!r}"
    else:
        hint = f"; the last of the net is {wanted[-1][2].name} of layer {wanted[-1][1].name!r}" if wanted else ""
    raise JaffeError(f"{path} has {len(history)} blobs of history{hint}; {need}")


def _trees(
    net: CompiledNet, params: Any, fields: Sequence[str], history: Sequence[np.ndarray]
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """The history by field, layer and weight. That of state means nothing: nothing learns it."""
    trees: dict[str, dict[str, dict[str, jax.Array]]] = {}
    arrays = iter(history)
    for field in fields:
        tree = trees.setdefault(field, {})
        for node, weight in learnable(net):
            array = next(arrays)
            if weight.trained:
                dtype = params[node.name][weight.name].dtype
                tree.setdefault(node.name, {})[weight.name] = jnp.asarray(array.reshape(weight.shape), dtype)
    return trees


def _learned_net(path: Path, recorded: str) -> Path:
    """The weights that a solver's state names: relative to the current folder, as in Caffe, or else beside it."""
    if not recorded:
        raise JaffeError(f"{path} names no weights; name them (weights=, --weights)")
    beside = path.parent / re.split(r"[/\\]", recorded)[-1]
    for place in (Path(recorded), beside):
        if os.path.isfile(place):
            return place
    raise JaffeError(f"the weights {recorded!r} that {path} names are not found; looked for "
                     f"{Path(recorded).absolute()} and {beside.absolute()}; name them (weights=, --weights)")


def _steps_taken(solver: SolverParameter, iteration: int) -> int:
    """Caffe's ``current_step`` after so many updates: how many steps of the rate are behind them."""
    if solver.lr_policy == "step":
        return max(iteration - 1, 0) // solver.stepsize
    steps, last = 0, -1
    for value in solver.stepvalue if solver.lr_policy == "multistep" else ():
        last = max(value, last + 1)  # at most one an iteration
        steps += last < iteration
    return steps
