"""The files of a run: none is lost, overwritten or mixed up, whatever is done in which order."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import optax
import pytest

import jaffe
from jaffe.netdef import JaffeError
from jaffe.train import CaffeLogReporter, Reporter
from jaffe.train.report import read_metrics
from jaffe.train.signals import Stopped
from jaffe.train.snapshots import save_variables
from tests.train.test_solver import NET, items, same, solver


class Told(Reporter):
    def __init__(self):
        self.warnings = []

    def warned(self, text):
        self.warnings.append(text)


def test_a_snapshot_that_failed_is_not_taken_for_saved(tmp_path, monkeypatch):
    job = solver(tmp_path, test_iter=[])
    job.step(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(JaffeError, match="No space left"):
            job.snapshot()
    job.run()
    assert job.snapshots.iterations() == [2, 12]  # 2 was whole but for its name
    solver(test_iter=[]).restore(tmp_path / "run_snapshots")


def test_an_update_that_is_not_finite_harms_nothing(tmp_path):
    """AdaGrad with delta 0 divides 0 by 0 where a gradient is 0: finite loss, finite gradient, NaN weights."""
    net = NET.replace('bottom: "bn" top: "ip"', 'bottom: "dead" top: "ip"').replace(
        'layer { name: "ip"', 'layer { name: "dead" type: "Power" bottom: "bn" top: "dead" power_param { scale: 0 } } '
        'layer { name: "ip"', 1)
    job = solver(tmp_path, net, type="AdaGrad", momentum=0, delta=0.0, weight_decay=0.0, test_iter=[], snapshot=1)
    before = job.variables
    with pytest.raises(JaffeError, match="the update is not finite at iteration 0: loss and gradients are finite"):
        job.run()
    same(job.variables["params"], before["params"])
    assert job.snapshots.iterations() == []


def test_a_signal_while_waiting_for_the_last_step_counts():
    job = solver(test_iter=[])
    settled = job._settled

    def signalled(*arguments):
        signal.raise_signal(signal.SIGINT)
        return settled(*arguments)

    job._settled = signalled
    with pytest.raises(Stopped):
        job.step(1)
    assert job.iteration == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_in_the_last_test(tmp_path, number):
    job = solver(tmp_path)
    evaluation = job.tests[0]
    run = evaluation._step

    def signalled(*arguments):
        if job.iteration == 12:
            signal.raise_signal(number)
        return run(*arguments)

    evaluation._step = signalled
    job.run()
    assert job.ended == ("interrupted" if number == signal.SIGTERM else "")
    assert job.snapshots.iterations() == [12]


@pytest.mark.parametrize("act", ["test", "snapshot"])
def test_an_earlier_run_is_put_aside_before_anything_is_written(tmp_path, act):
    solver(tmp_path, max_iter=4).run()
    before = (tmp_path / "run_metrics.jsonl").read_text()
    getattr(solver(tmp_path), act)()
    assert (tmp_path / "run_metrics.1.jsonl").read_text() == before
    assert (tmp_path / "run_snapshots.1" / "iter_4").is_dir()
    assert not (tmp_path / "run_snapshots" / "iter_4").exists()


def test_a_folder_with_dots_is_numbered_at_its_end(tmp_path):
    for _ in range(2):
        solver(snapshot_prefix=str(tmp_path / "v1.0"), max_iter=1, test_iter=[]).run()
    assert {path.name for path in tmp_path.iterdir()} >= {"v1.0_snapshots", "v1.0_snapshots.1"}


def test_a_torn_row_is_mended(tmp_path, monkeypatch):
    job = solver(tmp_path, display=1, test_iter=[])
    job.step(2)
    path = tmp_path / "run_metrics.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        def torn(self, *_, **__):
            with open(self, "ab") as file:
                file.write(b'{"iteration": 2, "lo')
            raise OSError(28, "No space left on device")
        patch.setattr(Path, "open", torn)
        with pytest.raises(JaffeError, match="cannot be written: No space left on device"):
            job.metrics.add({"iteration": 2})
    job.metrics.add({"iteration": 3})
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2, 3]
    path.unlink()
    job.metrics.add({"iteration": 4})
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2, 3, 4]


def test_going_back_puts_the_abandoned_course_aside(tmp_path):
    """What is latest in the folder is always of the course that was followed last."""
    settings = dict(snapshot=2, test_interval=2, monitor="-loss")
    solver(tmp_path, **settings).run()
    other = solver(tmp_path, **{**settings, "max_iter": 6, "base_lr": 0.01})
    other.run(tmp_path / "run_snapshots" / "iter_4")
    assert other.snapshots.iterations()[-1] == 6
    aside = {path.name for path in (tmp_path / "run_snapshots.1").iterdir()}
    assert aside == {"iter_6", "iter_8", "iter_10", "iter_12"}
    assert (tmp_path / "run_snapshots" / "best").resolve().name == f"iter_{other.best.iteration}"
    again = solver(tmp_path, **settings)
    again.restore(tmp_path / "run_snapshots")
    same(again.state, other.state)


def test_looking_at_a_snapshot_moves_nothing(tmp_path):
    solver(tmp_path, snapshot=4).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    solver(tmp_path).restore(tmp_path / "run_snapshots" / "iter_4")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_layers_that_no_snapshot_holds_are_told(tmp_path):
    more = NET + """
    layer { name: "aux" type: "InnerProduct" bottom: "bn" top: "aux" inner_product_param { num_output: 2 }
            include { phase: TEST } }
    """
    solver(tmp_path, more, max_iter=1).run()
    job = solver(net=more, reporter=Told())
    job.restore(tmp_path / "run_snapshots")
    assert job.reporter.warnings == [
        "snapshots hold the training net's weights; test net 0 has layers of its own: aux"]
    report = job.load_weights({"aux": [np.zeros((2, 64)), np.zeros(2)], "ip": [np.zeros((3, 64)), np.zeros(3)],
                               "gone": [np.zeros(2)]})
    assert (report.copied, report.ignored) == (("ip",), ("gone",))


def test_weights_alone_are_no_run(tmp_path):
    job = solver()
    save_variables(tmp_path / "iter_0", job.variables)
    with pytest.raises(JaffeError) as caught:
        job.restore(tmp_path / "iter_0")
    assert str(caught.value) == (
        f"{tmp_path / 'iter_0'} holds weights only; this run's is SGD. The weights alone can be taken: jaffe convert "
        f"{tmp_path / 'iter_0'} weights.npz --net NET, then weights (--weights)")
    with pytest.raises(JaffeError, match="holds weights of its own; expected none beside it"):
        job.restore(tmp_path / "iter_0", "a.caffemodel")


@pytest.mark.parametrize("wrong", [optax.linear_schedule(1, 0, 9), "adam", 0.1, optax.adam, (1, 2)],
                         ids=["schedule", "name", "rate", "not called", "tuple"])
def test_what_is_no_optimizer(wrong):
    with pytest.raises(JaffeError, match=r"optimizer is one of optax, such as optax.adam\(1e-3\); received"):
        jaffe.Solver(net=NET, data=items(), optimizer=wrong)


def test_an_optimizer_that_needs_more():
    with pytest.raises(JaffeError, match="gets gradients, parameters and the loss as value; this one needs more"):
        jaffe.Solver(net=NET, data=items(), optimizer=optax.lbfgs())


def test_outputs_called_as_the_keys_of_rows(tmp_path):
    net = NET.replace('top: "accuracy"', 'top: "test"')
    job = solver(tmp_path, net, max_iter=4, monitor="test", reporter=CaffeLogReporter(tmp_path / "log"))
    job.run()
    assert job.best.value == max(row["output test"] for row in job.metrics.tests())
    assert f"output test = {job.metrics.tests()[0]['output test']:.6g}\n" in (tmp_path / "log").read_text()
    row = json.loads((tmp_path / "run_metrics.jsonl").read_text().splitlines()[0])
    assert row["test"] == 0
    assert 0 <= row["output test"] <= 1


def test_weights_in_every_form(tmp_path):
    layer = {"ip": [np.ones((3, 64), np.float32), np.full(3, 5, np.float32)]}
    from jaffe.netdef.weights import write_weights
    path = tmp_path / "w.npz"
    write_weights(path, layer)
    for weights in (str(path), path, [path], f"{path}, {path}"):
        job = jaffe.Solver(net=NET, data=items(), base_lr=0.1, lr_policy="fixed", weights=weights)
        assert job.variables["params"]["ip"]["bias"].tolist() == [5, 5, 5]


def test_a_test_is_made_once_an_iteration():
    job = solver(max_iter=4)
    job.run()
    job.proto.max_iter = 8
    job.run()
    assert [row["iteration"] for row in job.metrics.tests()] == [0, 4, 8]


def test_shapes_of_test_nets_are_held_against_the_training_net_at_once():
    net = NET.replace('layer { name: "ip"', 'layer { name: "ip" include { phase: TRAIN }', 1)
    start = net.index('layer { name: "ip"')
    end = net.index("layer {", start + 5)
    other = net[start:end].replace("phase: TRAIN", "phase: TEST").replace("num_output: 3", "num_output: 4")
    with pytest.raises(JaffeError, match="layer 'ip' has weights of shapes"):
        solver(net=net[:end] + other + net[end:])


def test_debug_info_of_each_pass_begins_where_the_one_before_ended():
    class Debug(Reporter):
        def __init__(self):
            self.factors = []

        def debugged(self, lines):
            self.factors += [line.rpartition(" ")[2] for line in lines if "Layer bn, param blob 2 data" in line]

    job = solver(iter_size=2, debug_info=True, test_iter=[], reporter=Debug())
    job.step(1)
    assert job.reporter.factors == ["1", "1.999"]
