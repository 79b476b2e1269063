"""Training a net with an LSTM: what it carries from batch to batch, in training, in tests and in snapshots."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaffe
from jaffe.netdef import JaffeError
from jaffe.train.data import Dataset
from jaffe.train.data.dataset import ArraySource
from jaffe.train.snapshots import restore, restore_variables

# Two steps of 3 sequences in training, of 5 in tests. cont is 1 everywhere: nothing but the carry's zeros resets.
NET = """
name: "n"
layer { name: "d" type: "MemoryData" top: "data" top: "label" include { phase: TRAIN }
        memory_data_param { batch_size: 6 channels: 1 height: 1 width: 7 } }
layer { name: "d" type: "MemoryData" top: "data" top: "label" include { phase: TEST }
        memory_data_param { batch_size: 10 channels: 1 height: 1 width: 7 } }
layer { name: "x" type: "Reshape" bottom: "data" top: "x" reshape_param { shape { dim: 2 dim: -1 dim: 7 } } }
layer { name: "y" type: "Reshape" bottom: "label" top: "y" reshape_param { shape { dim: 2 dim: -1 } } }
layer { name: "cont" type: "Power" bottom: "y" top: "cont" power_param { scale: 0 shift: 1 } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
        recurrent_param { num_output: 11 weight_filler { type: "xavier" } } }
layer { name: "units" type: "Reshape" bottom: "h" top: "units" reshape_param { shape { dim: -1 dim: 11 } } }
layer { name: "bn" type: "BatchNorm" bottom: "units" top: "bn" }
layer { name: "scores" type: "InnerProduct" bottom: "bn" top: "scores"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""


def solver(folder=None, **settings) -> jaffe.Solver:
    random = np.random.default_rng(0)
    data = {"data": random.normal(size=(31, 1, 1, 7)).astype(np.float32), "label": random.integers(0, 3, 31)}
    defaults = dict(base_lr=0.1, lr_policy="fixed", momentum=0.9, weight_decay=0.01, max_iter=6, test_iter=[2],
                    test_interval=3, random_seed=7)
    if folder is not None:
        defaults["snapshot_prefix"] = str(folder / "run")
    return jaffe.Solver(net=NET, data=data, **{**defaults, **settings})


@pytest.mark.parametrize("settings", [{}, {"iter_size": 2}], ids=str)
def test_resumed_run_is_the_uninterrupted_one(tmp_path, settings):
    whole = solver(tmp_path / "whole", **settings)
    whole.run()
    solver(tmp_path / "part", **{**settings, "max_iter": 4}).run()
    resumed = solver(tmp_path / "part", **settings)
    resumed.run(tmp_path / "part" / "run_snapshots")
    for one, other in zip(jax.tree.leaves(resumed.variables), jax.tree.leaves(whole.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.variables["state"]["lstm"]["h"].shape == (1, 3, 11)
    assert np.abs(whole.variables["state"]["lstm"]["h"]).max() > 0.01


def test_training_goes_on_where_the_last_batch_stopped():
    job = solver(base_lr=0.0, weight_decay=0.0, test_interval=100, test_initialization=False)
    variables, batches = job.variables, job.feed.batches()
    losses = job.step(3)
    state = variables["state"]
    for loss in losses:
        inputs = job.feed.fetch(job.feed.resident, next(batches), jax.random.key(0))
        expected, (_, state) = job.net.loss({**variables, "state": state}, inputs)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(job.variables["state"]["lstm"]["c"], state["lstm"]["c"], rtol=1e-6, atol=1e-7)


def test_an_evaluation_starts_from_zero_and_goes_on_from_batch_to_batch():
    job = solver(test_interval=100, test_initialization=False)
    job.step(4)
    (evaluation,) = job.tests
    (first,), (second,) = job.test(), job.test()
    assert first == second
    assert first["loss"] != 0
    trained = job.variables
    state = {**trained["state"], **evaluation.net.fresh_carry()}
    assert state["lstm"]["h"].shape == (1, 5, 11)
    total, batches = 0.0, evaluation.feed.batches()
    for _ in range(2):
        inputs = evaluation.feed.fetch(evaluation.feed.resident, next(batches), jax.random.key(0))
        outputs, new = evaluation.net.apply({"params": trained["params"], "state": state}, inputs)
        state = {**state, "lstm": new["lstm"]}
        total += float(outputs["loss"]) / 2
    np.testing.assert_allclose(first["loss"], total, rtol=1e-6)
    assert not np.allclose(state["lstm"]["h"], 0)


def test_a_snapshot_in_a_test_net(tmp_path):
    job = solver(tmp_path)
    job.run()
    (evaluation,) = job.tests
    fresh = evaluation.net.init(jax.random.key(1))
    path = tmp_path / "run_snapshots" / "iter_6"
    variables = restore_variables(path, fresh, evaluation.net.fresh_carry())
    np.testing.assert_array_equal(variables["params"]["scores"]["weight"], job.variables["params"]["scores"]["weight"])
    np.testing.assert_array_equal(variables["state"]["bn"]["mean"], job.variables["state"]["bn"]["mean"])
    assert jax.tree.structure(variables) == jax.tree.structure(fresh)
    assert not variables["state"]["lstm"]["h"].any()
    assert evaluation.run(variables) == job.test()[0]
    with pytest.raises(JaffeError, match=r"net_state/lstm/c: expected \[1, 5, 11\], found \[1, 3, 11\]"):
        restore(path, {"params": fresh["params"], "net_state": fresh["state"]}, partial=True)


def test_training_learns_what_only_the_carry_can_tell():
    """The class of a step is what the step before showed: for the first step of a batch, only the carry has it."""
    shown = np.random.default_rng(3).integers(0, 2, (2 * 61, 3))
    arrays = {"data": np.eye(7, dtype=np.float32)[shown].reshape(-1, 1, 1, 7),
              "label": np.roll(shown, 1, axis=0).ravel()}
    job = jaffe.Solver(
        net=NET.replace('"BatchNorm"', '"Power"'), data=Dataset(ArraySource(arrays, "items"), False, "items"),
        base_lr=0.3, lr_policy="fixed", momentum=0.9, max_iter=120, test_iter=[1], test_interval=1000,
        test_initialization=False, random_seed=1,
    )
    assert job.step(120)[-20:].mean() < 0.05  # half of log 2, 0.35, for who knows the second steps only
