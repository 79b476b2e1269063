"""Runs that Caffe began go on here, and back: .solverstate with the weights beside it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaffe
from jaffe import JaffeError
from jaffe.compile import compile_net
from jaffe.netdef.jaffe_pb2 import BlobProto, SolverParameter, SolverState
from jaffe.netdef.solverstate import read_solver_state
from jaffe.netdef.text import read_solver
from jaffe.train.caffe_state import restore_caffe_state, write_caffe_state
from jaffe.train.data import Dataset
from jaffe.train.data.dataset import ArraySource
from jaffe.train.optimizer import SumOfSquares, make_optimizer
from jaffe.train.step import TrainState

GOLDENS = Path(__file__).parents[1] / "goldens" / "solvers"
# What Caffe keeps, in its order, and what optax calls it.
HISTORY: dict[str, tuple[type, list[str]]] = {
    "SGD": (optax.TraceState, ["trace"]),
    "Nesterov": (optax.TraceState, ["trace"]),
    "AdaGrad": (SumOfSquares, ["total"]),
    "RMSProp": (optax.ScaleByRmsState, ["nu"]),
    "AdaDelta": (optax.ScaleByAdaDeltaState, ["e_g", "e_x"]),
    "Adam": (optax.ScaleByAdamState, ["mu", "nu"]),
}


def test_lenet_goes_on_from_caffes_own_state(shared, tmp_path):
    """Measured: within 1.2e-7 of the recording for 50 iterations and 2e-6 for 500; in float64 within 6e-8 for 50.

    Without the history the second loss is 0.02 off, without the iteration 1e-4.
    """
    recorded = shared / "goldens" / "training"
    job = jaffe.Solver(recorded / "lenet_solver.prototxt", test_iter=[], snapshot=0,
                       snapshot_prefix=str(tmp_path / "run"))
    job.restore(recorded / "lenet_iter_500.solverstate")
    losses = job.step(50)
    np.testing.assert_allclose(losses, np.load(recorded / "trace.npz")["loss"][500:550], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["sgd_iter_size", "nesterov_wd_inv", "adagrad_wd_inv", "rmsprop_wd_inv",
                                  "adadelta_wd_inv", "adam_wd_inv"])
def test_every_type_goes_on(tmp_path, name):
    """Four of the eight recorded iterations, a .solverstate written by hand, and the other four from it."""
    z = np.load(GOLDENS / f"{name}.npz")
    items = {"data": z["data"].reshape(-1, *z["data"].shape[2:]), "label": z["label"].reshape(-1)}
    solver = read_solver(str(z["solver"]))
    solver.ClearField("net")
    job = jaffe.Solver(
        solver, net=str(z["net"]), test_iter=[], max_iter=8, iter_size=int(z["iter_size"]),
        data={"train": Dataset(ArraySource(items, name), shuffle=False, name=name)},
    )
    names = [key.split(":")[1:] for key in z.files if key.startswith("param0:")]  # in Caffe's order
    weights: dict[str, list[np.ndarray]] = {}
    for layer, index in names:
        weights.setdefault(layer, []).append(z[f"param0:{layer}:{index}"])
    job.load_weights(weights)
    job.step(4)
    kind, fields = HISTORY[solver.type]
    (own,) = own_state(job.state.opt_state, kind)
    arrays = [np.asarray(getattr(own, field)[layer][("weight", "bias")[int(index)]])
              for field in fields for layer, index in names]
    assert all(array.any() for array in arrays)
    jaffe.save_weights(job.net, job.variables, tmp_path / "run_iter_4.caffemodel")
    write(tmp_path / "run_iter_4.solverstate", 4, "/gone/run_iter_4.caffemodel", arrays)
    job.load_weights(weights)  # which clears the momentum
    job.restore(tmp_path / "run_iter_4.solverstate")
    assert job.iteration == 4
    for i in range(4, 8):
        job.step(1)
        for layer, index in names:
            expected = z[f"param:{layer}:{index}"][i]
            found = job.variables["params"][layer][("weight", "bias")[int(index)]]
            # As in test_solver_goldens.py.
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def own_state(opt_state: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """The parts of an optax state that are of a type."""
    return [one for one in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind)) if isinstance(one, kind)]


def write(path: Path, iteration: int, learned_net: str, arrays: list[np.ndarray]) -> None:
    blobs = [BlobProto(shape={"dim": array.shape}, data=array.ravel()) for array in arrays]
    path.write_bytes(SolverState(iter=iteration, learned_net=learned_net, history=blobs).SerializeToString())


# A frozen layer, BatchNorm's statistics, LSTM's carried state, a shared weight; names that optax's fields have too.
NET = """
name: "all"
layer { name: "data" type: "Input" top: "data" top: "cont" top: "label"
        input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } shape { dim: 4 dim: 2 dim: 3 } } }
layer { name: "nu" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 0 } param { lr_mult: 0 }
        inner_product_param { num_output: 3 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "bn" }
layer { name: "trace" type: "LSTM" bottom: "bn" bottom: "cont" top: "lstm"
        recurrent_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "count" type: "InnerProduct" bottom: "lstm" top: "one" param { name: "w" }
        inner_product_param { num_output: 3 axis: 2 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "last" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" }
        inner_product_param { num_output: 3 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "two" bottom: "label" top: "loss" }
"""
# Caffe's learnable_params, in its order; our names.
PARAMETERS: list[tuple[str, str, tuple[int, ...]]] = [
    ("nu", "weight", (3, 3)), ("nu", "bias", (3,)),
    ("bn", "mean", (2,)), ("bn", "variance", (2,)), ("bn", "factor", (1,)),
    ("trace", "input_weight", (12, 3)), ("trace", "bias", (12,)), ("trace", "hidden_weight", (12, 3)),
    ("count", "weight", (3, 3)), ("last", "bias", (3,)),
]
RANDOM = np.random.default_rng(2)


class Run:
    """The net and a solver of a type, without data; its state before the first update."""

    def __init__(self, kind: str, **settings: Any):
        self.solver = SolverParameter(type=kind, base_lr=0.1, lr_policy="fixed", **settings)
        self.net = compile_net(NET, phase="TRAIN")
        self.optimizer = make_optimizer(self.solver, self.net)
        variables = self.net.init(jax.random.key(0))
        state = {**variables["state"], "trace": jax.tree.map(jnp.ones_like, variables["state"]["trace"])}
        params, zero = variables["params"], jnp.int32(0)
        self.fresh = TrainState(zero, params, state, self.optimizer.init(params), jax.random.key(5), jnp.bool_(True))

    def restore(self, path: Path, **more: Any) -> TrainState:
        return restore_caffe_state(path, self.net, self.solver, self.fresh, **more)


def history(series: int, legacy: bool = False) -> list[np.ndarray]:
    shapes = [(1,) * (4 - len(shape)) + shape if legacy else shape for _, _, shape in PARAMETERS] * series
    return [RANDOM.uniform(size=shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a run, without states of solvers."""
    path = tmp_path_factory.mktemp("caffe")
    run = Run("SGD")
    jaffe.save_weights(run.net, run.net.init(jax.random.key(9)), path / "all_iter_3.caffemodel")
    return path


@pytest.mark.parametrize("kind", HISTORY)
@pytest.mark.parametrize("legacy", [False, True], ids=["", "2014"])
def test_history_goes_where_it_belongs(folder, kind, legacy):
    """Owners only, in the order of the net; also what does not learn, of which BatchNorm's goes nowhere."""
    run, (state, fields) = Run(kind), HISTORY[kind]
    arrays = history(len(fields), legacy)
    write(folder / f"{kind}.solverstate", 3, "all_iter_3.caffemodel", arrays)
    found = run.restore(folder / f"{kind}.solverstate")
    assert jax.tree.structure(found) == jax.tree.structure(run.fresh)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, run.fresh)
    (own,) = own_state(found.opt_state, state)
    left = iter(arrays)
    for field in fields:
        for layer, name, shape in PARAMETERS:
            array = next(left)
            if layer != "bn":
                np.testing.assert_array_equal(getattr(own, field)[layer][name], array.reshape(shape), layer)
    counts = [one.count for one in own_state(found.opt_state, (optax.ScaleByScheduleState, optax.ScaleByAdamState))]
    assert counts == [3] * (2 if kind == "Adam" else 1)
    expected = run.net.init(jax.random.key(9))
    assert found.iteration == 3
    jax.tree.map(np.testing.assert_array_equal, found.params, expected["params"])
    jax.tree.map(np.testing.assert_array_equal, found.net_state["bn"], expected["state"]["bn"])
    jax.tree.map(np.testing.assert_array_equal, found.net_state["trace"], run.fresh.net_state["trace"])
    assert found.key is run.fresh.key


def test_a_state_can_be_donated(folder):
    """No array stands twice in it."""
    run = Run("Adam")
    write(folder / "donated.solverstate", 3, "all_iter_3.caffemodel", history(2))
    found = run.restore(folder / "donated.solverstate")
    jax.jit(lambda state: jax.tree.map(lambda x: x, state), donate_argnums=0)(replace(found, key=jax.random.key(1)))


def test_averages_begin_with_the_weights(folder):
    run = Run("SGD")
    write(folder / "ema.solverstate", 3, "all_iter_3.caffemodel", history(1))
    run.fresh = replace(run.fresh, ema=run.fresh.params)
    found = run.restore(folder / "ema.solverstate")
    jax.tree.map(np.testing.assert_array_equal, found.ema, found.params)


@pytest.mark.parametrize("kind", HISTORY)
@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_there_and_back(tmp_path, kind, suffix):
    """Bit for bit, but for the history of BatchNorm's statistics, which is 0."""
    run = Run(kind)

    def drawn(x: jax.Array) -> jax.Array:
        return jnp.asarray(RANDOM.uniform(size=x.shape), jnp.float32) if x.ndim else jnp.full_like(x, 6)

    opt_state, params = jax.tree.map(drawn, (run.fresh.opt_state, run.fresh.params))
    before = replace(run.fresh, iteration=jnp.int32(6), params=params, opt_state=opt_state)
    path = tmp_path / f"run_iter_6.solverstate{suffix}"
    assert write_caffe_state(path, run.net, run.solver, before) == tmp_path / f"run_iter_6.caffemodel{suffix}"
    after = run.restore(path)
    jax.tree.map(np.testing.assert_array_equal, replace(after, key=0), replace(before, key=0))
    saved = read_solver_state(path)
    assert saved[:2] == (6, str(tmp_path / f"run_iter_6.caffemodel{suffix}"))
    assert [one.shape for one in saved.history] == [shape for *_, shape in PARAMETERS] * len(HISTORY[kind][1])
    assert not any(one.any() for one in saved.history[2:5])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),
        ({"lr_policy": "step", "stepsize": 2}, 2),  # of iterations 0 to 5: 0, 0, 1, 1, 2, 2
        ({"lr_policy": "multistep", "stepvalue": [2, 5, 6]}, 2),
        ({"lr_policy": "multistep", "stepvalue": [1, 1, 1, 9]}, 3),  # one an iteration: at 1, 2 and 3
    ],
)
def test_steps_taken(tmp_path, settings, expected):
    run = Run("SGD")
    run.solver.MergeFrom(SolverParameter(**settings))
    state = replace(run.fresh, iteration=jnp.int32(6))
    write_caffe_state(tmp_path / "x.solverstate", run.net, run.solver, state)
    assert read_solver_state(tmp_path / "x.solverstate").current_step == expected


def other_shape(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [*arrays[:8], np.zeros((5, 3), np.float32), *arrays[9:]]


def negative(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [*arrays[:5], -arrays[5], *arrays[6:]]


OWN = "a run can go on with its own net only"
NEED = {kind: f"solver {kind} needs {series} for each of 10 parameters, {series}0 in all"
        for kind, series in (("SGD", 1), ("Adam", 2))}


@pytest.mark.parametrize(
    ("kind", "arrays", "expected"),
    [
        ("SGD", [], "{path} has 0 blobs of history; the first without is weight of layer 'nu'; " + NEED["SGD"]),
        ("SGD", history(1)[:-1],
         "{path} has 9 blobs of history; the first without is bias of layer 'last'; " + NEED["SGD"]),
        ("SGD", history(2)[:11],
         "{path} has 11 blobs of history; the last of the net is bias of layer 'last'; " + NEED["SGD"]),
        ("SGD", history(2), "{path} has 20 blobs of history, as AdaDelta, Adam would have; " + NEED["SGD"]),
        ("Adam", history(1),
         "{path} has 10 blobs of history, as SGD, Nesterov, AdaGrad, RMSProp would have; " + NEED["Adam"]),
        ("SGD", other_shape(history(1)),
         "layer 'count' (<text>:10): weight: expected history of shape (3, 3); found (5, 3) in {path}, which has 10 "
         f"blobs ({NEED['SGD']}): {OWN}"),
        ("Adam", history(2)[1:],
         "layer 'nu' (<text>:5): weight: expected history of shape (3, 3); found (3,) in {path}, which has 19 blobs "
         f"({NEED['Adam']}): {OWN}"),
        ("AdaGrad", negative(history(1)),
         "layer 'trace' (<text>:8): input_weight: found negative history in {path}; expected squares, as solver "
         "AdaGrad keeps: the run was with another type"),
    ],
)
def test_other_runs(folder, kind, arrays, expected):
    path = folder / "other.solverstate"
    write(path, 3, "all_iter_3.caffemodel", arrays)
    with pytest.raises(JaffeError) as caught:
        Run(kind).restore(path)
    assert str(caught.value) == expected.format(path=path)


def test_other_types(folder):
    write(folder / "3.solverstate", 3, "all_iter_3.caffemodel", history(1))
    with pytest.raises(JaffeError, match=r"3\.solverstate holds the state of a solver of Caffe's; expected one of the "
                                         r"types SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam; found LARS$"):
        Run("LARS").restore(folder / "3.solverstate")
    run = Run("Adam")
    run.fresh = replace(run.fresh, opt_state=optax.rmsprop(0.1).init(run.fresh.params))
    with pytest.raises(JaffeError, match=r"3\.solverstate holds the state of a solver of Caffe's; found an optimiser "
                                         r"of another kind than Adam, without 'mu'$"):
        run.restore(folder / "3.solverstate")


def test_negative_momentum_is_right(folder):
    write(folder / "m.solverstate", 3, "all_iter_3.caffemodel", negative(history(2)))
    Run("Adam").restore(folder / "m.solverstate")


def test_where_weights_are_looked_for(folder, tmp_path, monkeypatch):
    run, path = Run("SGD"), tmp_path / "all_iter_3.solverstate"
    monkeypatch.chdir(tmp_path)

    def restored(learned_net: str, **more: Any) -> np.ndarray:
        write(path, 3, learned_net, history(1))
        return np.asarray(run.restore(path, **more).params["last"]["bias"])

    def missing(learned_net: str) -> str:
        with pytest.raises(JaffeError) as caught:
            restored(learned_net)
        return str(caught.value)

    assert missing("snapshots/all_iter_3.caffemodel") == (
        f"the weights 'snapshots/all_iter_3.caffemodel' that {path} names are not found; looked for "
        f"{tmp_path}/snapshots/all_iter_3.caffemodel and {tmp_path}/all_iter_3.caffemodel; name them (weights=, "
        "--weights)")
    assert missing("") == f"{path} names no weights; name them (weights=, --weights)"
    assert "are not found" in missing("zero\0byte")
    assert "are not found" in missing("a" * 3000)

    def save(file: Path, bias: float) -> None:
        variables = run.net.init(jax.random.key(9))
        variables["params"]["last"]["bias"] = jnp.full(3, bias)
        file.parent.mkdir(exist_ok=True)
        jaffe.save_weights(run.net, variables, file)

    save(tmp_path / "all_iter_3.caffemodel", 1)
    assert (restored("/elsewhere/all_iter_3.caffemodel") == 1).all()
    assert (restored("C:\\caffe\\all_iter_3.caffemodel") == 1).all()
    save(tmp_path / "snapshots" / "all_iter_3.caffemodel", 2)
    assert (restored("snapshots/all_iter_3.caffemodel") == 2).all()
    save(tmp_path / "named.caffemodel", 3)
    assert (restored("snapshots/all_iter_3.caffemodel", weights=tmp_path / "named.caffemodel") == 3).all()
    assert (restored("", weights="named.caffemodel") == 3).all()


def test_weights_of_another_net(folder, tmp_path):
    run = Run("SGD")
    renamed = compile_net(re.sub('name: "last"', 'name: "end"', NET), phase="TRAIN")
    jaffe.save_weights(renamed, renamed.init(jax.random.key(1)), tmp_path / "w.caffemodel")
    write(tmp_path / "x.solverstate", 3, "w.caffemodel", history(1))
    with pytest.raises(JaffeError) as caught:
        run.restore(tmp_path / "x.solverstate")
    assert str(caught.value) == (f"layer 'last' (<text>:12): expected weights of every layer in "
                                 f"{tmp_path}/w.caffemodel; found none of this one: {OWN}")


def test_writing_what_caffe_does_not_read(tmp_path):
    run = Run("SGD")
    with pytest.raises(JaffeError, match=r"x\.caffemodel: expected a name that ends in \.solverstate or "
                                         r"\.solverstate\.h5$"):
        write_caffe_state(tmp_path / "x.caffemodel", run.net, run.solver, run.fresh)
    run = Run("Lion")
    with pytest.raises(JaffeError, match=r"x\.solverstate: Caffe's files hold the state of its own solvers; expected "
                                         r"one of the types SGD, .*; found Lion$"):
        write_caffe_state(tmp_path / "x.solverstate", run.net, run.solver, run.fresh)
    assert not list(tmp_path.iterdir())
