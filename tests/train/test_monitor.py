"""The best test, and when there is no progress any more."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, SpecError
from jaffe.train.monitor import Monitor, Standing
from jaffe.train.snapshots import restore_variables
from tests.train.test_solver import NET, same, solver

OUTPUTS = ("accuracy", "loss", "total loss")


@pytest.fixture(scope="module")
def net():
    return compile_net(NET, phase="TEST")


def rows(*values, output="accuracy"):
    return [{"iteration": 10 * i, "test": 0, output: value} for i, value in enumerate(values)]


def test_higher_is_better_of_metrics_and_lower_of_losses(net):
    values = (0.2, 0.5, 0.4, 0.5, 0.3)
    assert Monitor("accuracy", 0, net, OUTPUTS).standing(rows(*values)) == Standing(10, 0.5, 3)
    for output in ("loss", "total loss"):
        assert Monitor(output, 0, net, OUTPUTS).standing(rows(*values, output=output)) == Standing(0, 0.2, 4)


def test_other_rows_do_not_count(net):
    mixed = [*rows(0.1, 0.2), {"iteration": 15, "loss": 9.0}, {"iteration": 20, "test": 1, "accuracy": 0.9}]
    assert Monitor("accuracy", 0, net, OUTPUTS).standing(mixed) == Standing(10, 0.2, 0)


def test_nan_is_never_better_and_vectors_count_by_their_mean(net):
    monitor = Monitor("accuracy", 2, net, OUTPUTS)
    assert monitor.standing(rows(None, 0.1, None)) == Standing(10, 0.1, 1)
    assert monitor.standing(rows([0.1, 0.3], [0.5, 0.0])) == Standing(10, 0.25, 0)
    nothing = monitor.standing(rows(None, None))
    assert nothing == Standing(None, None, 2)
    assert monitor.verdict(nothing) == "accuracy had no finite value in 2 tests"


def test_verdict(net):
    values = rows(0.5, 0.4, 0.4)
    assert Monitor("accuracy", 3, net, OUTPUTS).verdict(Standing(0, 0.5, 2)) == ""
    assert Monitor("accuracy", 0, net, OUTPUTS).verdict(Standing(0, 0.5, 99)) == ""
    monitor = Monitor("accuracy", 2, net, OUTPUTS)
    assert monitor.verdict(monitor.standing(values)) == (
        "accuracy was not better in 2 tests than 0.5 at iteration 0")


def test_unknown_output(net):
    with pytest.raises(JaffeError) as caught:
        Monitor("acuracy", 0, net, OUTPUTS)
    assert str(caught.value) == ("monitor 'acuracy' is no output of the test net; did you mean 'accuracy'?; it has "
                                 "accuracy, loss, total loss")


def test_a_run_ends_without_progress_and_keeps_its_best(tmp_path):
    """With a rate of 0 nothing changes but BatchNorm's statistics: the first best stays it, and patience runs out."""
    settings = dict(base_lr=0.0, monitor="loss", patience=2, test_interval=2, max_iter=40, snapshot=1, snapshot_keep=1)
    job = solver(tmp_path, **settings)
    job.run()
    tests = [row["loss"] for row in job.metrics.tests()]
    best = int(np.argmin(tests))
    assert len(tests) == best + 3
    assert job.iteration == 2 * (best + 2)
    assert job.ended == f"loss was not better in 2 tests than {min(tests):.4g} at iteration {2 * best}"
    assert job.snapshots.iterations() == sorted({2 * best, job.iteration})
    fresh = job.tests[0].net.init(job.tests[0].key)
    found = job.tests[0].run(restore_variables(tmp_path / "run_snapshots" / "best", fresh))
    assert found["loss"] == pytest.approx(min(tests), rel=1e-6)


def test_a_resumed_run_ends_where_the_whole_one_does(tmp_path):
    settings = dict(base_lr=0.0, monitor="loss", patience=3, test_interval=2, max_iter=40)
    whole = solver(tmp_path / "whole", **settings)
    whole.run()
    assert whole.ended
    solver(tmp_path / "part", **{**settings, "max_iter": 3}).run()
    part = solver(tmp_path / "part", **settings)
    part.run(tmp_path / "part" / "run_snapshots")
    assert (part.iteration, part.ended) == (whole.iteration, whole.ended)
    same(part.state, whole.state)


@pytest.mark.parametrize(("settings", "message"), [
    (dict(patience=3), "patience needs monitor, the output of the test net to watch; found none"),
    (dict(monitor="accuracy", test_iter=[]),
     "monitor needs a test net: expected test_iter and test_interval; found none"),
    (dict(ema_decay=1.0), "ema_decay is in [0, 1); found 1"),
    (dict(precision="half"), "precision is float32 or bfloat16; found 'half'"),
    (dict(remat="some"), "remat is auto, none or full; found 'some'"),
    (dict(trust_coefficient=0.0), "trust_coefficient is positive; found 0"),
    (dict(lr_policy="cosine", warmup_iter=12), "the warm-up ends before max_iter (12); found warmup_iter 12"),
    (dict(snapshot_keep=-1), "snapshot_keep is not negative; found -1"),
])
def test_wrong_settings(settings, message):
    with pytest.raises(SpecError) as caught:
        solver(**settings)
    assert str(caught.value) == message
