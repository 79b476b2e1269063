"""Runs: what is displayed, tested and saved, and exact resume."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.netdef import JaffeError, NetParameter
from jaffe.netdef.weights import array_to_blob
from jaffe.train import Reporter
from jaffe.train.data import stream
from tests.conftest import ROOT

# Everything that could make a resumed run differ: Dropout, BatchNorm, random crops, shuffling, momentum.
NET = """
name: "n"
layer { name: "d" type: "MemoryData" top: "data" top: "label" transform_param { crop_size: 6 mirror: true scale: 0.1 }
        memory_data_param { batch_size: 5 channels: 1 height: 6 width: 6 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "drop" type: "Dropout" bottom: "bn" top: "bn" }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def items(count: int = 23) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"data": random.integers(0, 16, (count, 1, 8, 8)).astype(np.uint8), "label": random.integers(0, 3, count)}


def solver(folder=None, net=NET, **settings) -> jaffe.Solver:
    defaults = dict(
        base_lr=0.05, lr_policy="inv", gamma=0.1, power=0.75, momentum=0.9, weight_decay=0.01, max_iter=12,
        test_iter=[2], test_interval=4, display=3, random_seed=7,
    )
    if folder is not None:
        defaults["snapshot_prefix"] = str(folder / "run")
    data = settings.pop("data", items())
    return jaffe.Solver(net=net, data=data, **{**defaults, **settings})


def same(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


RESUMED = [{}, {"iter_size": 2}, {"clip_gradients": 0.1}, {"type": "Adam"}]


@pytest.mark.parametrize(("streamed", "settings"), [
    *((False, settings) for settings in RESUMED), (True, {}),
    *(pytest.param(True, settings, marks=pytest.mark.slow) for settings in RESUMED[1:])], ids=str)
def test_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch, settings, streamed):
    if streamed:
        monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)
    whole = solver(tmp_path / "whole", **settings)
    whole.run()
    first = solver(tmp_path / "part", **{**settings, "max_iter": 7})
    first.run()
    resumed = solver(tmp_path / "part", **settings, random_seed=99)  # the snapshot's seed counts
    resumed.run(tmp_path / "part" / "run_snapshots")
    same(resumed.state, whole.state)

    def rows(job):
        return [{k: v for k, v in row.items() if k not in ("elapsed", "images_per_second")} for row in job.metrics.rows]

    assert rows(resumed) == rows(whole)  # average_loss is 1: a row depends on its own iteration only


def test_steps_in_pieces_are_one_run():
    whole, pieces = solver(), solver()
    losses = whole.step(6)
    np.testing.assert_array_equal(np.concatenate([pieces.step(2), pieces.step(1), pieces.step(3)]), losses)
    assert losses.shape == (6,)
    assert pieces.iteration == 6
    same(pieces.state, whole.state)


def test_seed_decides():
    same(solver().variables, solver().variables)
    assert not np.array_equal(solver().step(2), solver(random_seed=8).step(2))


def test_rows_and_files(tmp_path):
    losses = solver(average_loss=2).step(12)
    job = solver(tmp_path, snapshot=5, average_loss=2)
    job.run()
    rows = [json.loads(line) for line in (tmp_path / "run_metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "test" not in row]
    assert [row["iteration"] for row in training] == [0, 3, 6, 9]
    expected = [losses[0], *(losses[i - 1 : i + 1].mean() for i in (3, 6, 9))]
    np.testing.assert_allclose([row["loss"] for row in training], expected, rtol=1e-6)
    np.testing.assert_allclose([row["lr"] for row in training], [0.05 * (1 + 0.1 * i) ** -0.75 for i in (0, 3, 6, 9)],
                               rtol=1e-6)
    assert [row["iteration"] for row in rows if "test" in row] == [0, 4, 8, 12]
    assert {path.name for path in (tmp_path / "run_snapshots").iterdir()} == {"iter_5", "iter_10", "iter_12"}
    assert [path.name for path in job.files] == ["run_metrics.jsonl", "run_curves.png", "run_snapshots"]
    assert (tmp_path / "run_curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_without_a_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = solver()
    job.run()
    assert not list(tmp_path.iterdir())
    with pytest.raises(JaffeError, match="expected snapshot_prefix; found none"):
        job.snapshot()


def test_test_results_are_means_over_batches():
    job = solver(test_iter=[3])
    job.step(4)
    (means,) = job.test()
    evaluation = job.tests[0]
    stream, outputs = evaluation.feed.batches(), []
    for i in range(3):
        key = jax.random.fold_in(evaluation.key, i)
        inputs = evaluation.feed.fetch(evaluation.feed.resident, next(stream), jax.random.split(key)[0])
        outputs.append(evaluation.net.apply({**job.variables}, inputs)[0])
    assert means["loss"] == pytest.approx(np.mean([out["loss"] for out in outputs]), rel=1e-5)
    assert means["accuracy"] == pytest.approx(np.mean([out["accuracy"] for out in outputs]), rel=1e-6)


def test_iter_size_is_a_larger_batch():
    """Two passes of 5 add up to one of 10 when nothing depends on the batch (no BatchNorm, Dropout, crops)."""
    plain = "\n".join(line for line in NET.replace('bottom: "bn" top: "ip"', 'bottom: "conv" top: "ip"')
                      .replace("crop_size: 6 mirror: true ", "").replace("height: 6 width: 6", "height: 8 width: 8")
                      .splitlines() if '"bn"' not in line)
    twice = solver(net=plain, iter_size=2, test_iter=[])
    large = solver(net=plain.replace("batch_size: 5", "batch_size: 10"), test_iter=[])
    np.testing.assert_allclose(twice.step(5), large.step(5), rtol=1e-4)
    for one, other in zip(jax.tree.leaves(twice.variables), jax.tree.leaves(large.variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_one_program_and_no_waiting():
    """One compilation, whatever the number of steps; state buffers are given away to the next step."""
    job = solver(test_iter=[])
    job.step(1)
    before = job.state.params["ip"]["weight"]
    job.step(5)
    assert before.is_deleted()
    assert job._step._cache_size() == 1


def test_compiling_is_told_once():
    told = []

    class Listening(Reporter):
        def compiled(self, compilation):
            told.append(compilation.seconds)

    job = solver(test_iter=[], reporter=Listening())
    job.step(2)
    job.step(1)
    (seconds,) = told
    assert seconds > 0


def test_divergence_stops():
    """The message says what was first; the weights stay those before, and training can go on from there."""
    job = solver(base_lr=1e20, lr_policy="fixed", test_iter=[])
    with pytest.raises(JaffeError, match=r"the update is not finite at iteration \d+: layer 'bn'") as caught:
        job.step(12)
    assert str(job.iteration) in str(caught.value)
    assert int(job.state.iteration) == job.iteration
    assert bool(job.state.finite)
    before = solver(base_lr=1e20, lr_policy="fixed", test_iter=[])
    before.step(job.iteration)
    same(job.variables, before.variables)


def test_wrong_snapshots(tmp_path):
    job = solver(tmp_path, max_iter=4)
    job.run()
    path = tmp_path / "run_snapshots"
    with pytest.raises(JaffeError, match="iter_9 is not a snapshot; there are iterations 4"):
        solver().restore(path / "iter_9")
    with pytest.raises(JaffeError, match="holds no snapshot"):
        solver().restore(tmp_path)
    other = solver(net=NET.replace("num_output: 3", "num_output: 2"))
    with pytest.raises(JaffeError, match="is of another net or solver") as caught:
        other.restore(path)
    assert "params/ip/bias: expected [2], found [3]" in str(caught.value)
    for file in (path / "iter_4" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(JaffeError, match="is damaged"):
        solver().restore(path / "iter_4")


def test_snapshot_of_the_same_iteration_is_replaced(tmp_path):
    job = solver(tmp_path)
    job.step(1)
    assert job.snapshot() == job.snapshot()
    job.restore(tmp_path / "run_snapshots")
    assert job.iteration == 1


def test_half_written_snapshots_do_not_count(tmp_path):
    job = solver(tmp_path)
    job.step(1)
    path = job.snapshot()
    shutil.copytree(path, path.with_name("iter_2.orbax-checkpoint-tmp"))
    (path.with_name("iter_3")).mkdir()
    job.restore(path.parent)
    assert job.iteration == 1


def test_train_test_prototxt_with_other_data(tmp_path):
    """Caffe's own LeNet files, unmodified, with their Data layers fed from elsewhere."""
    net = zoo.lenet().to_proto()
    for layer in net.layer:
        if layer.type == "MemoryData":
            layer.type = "Data"
            layer.data_param.source, layer.data_param.backend = "examples/mnist/nowhere_lmdb", 1
            layer.data_param.batch_size = layer.memory_data_param.batch_size
            layer.ClearField("memory_data_param")
    (tmp_path / "lenet_train_test.prototxt").write_text(str(net))
    (tmp_path / "lenet_solver.prototxt").write_text(
        'net: "lenet_train_test.prototxt" test_iter: 1 test_interval: 10 base_lr: 0.01 momentum: 0.9 '
        'lr_policy: "fixed" max_iter: 20 random_seed: 1 solver_mode: GPU')
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 200)
    images = (random.random((200, 1, 28, 28)) * 0.1 + labels.reshape(-1, 1, 1, 1) / 10).astype(np.float32)
    job = jaffe.Solver(tmp_path / "lenet_solver.prototxt", data={"image": images, "label": labels})
    losses = job.step(20)
    assert losses[-3:].mean() < losses[:3].mean()
    with pytest.raises(JaffeError, match=r"data_param.source 'examples/mnist/nowhere_lmdb' is not found; looked in"):
        jaffe.Solver(tmp_path / "lenet_solver.prototxt")


def test_an_earlier_run_is_put_aside(tmp_path):
    """Nothing of an earlier run is overwritten, or taken for this run's."""
    for seed in (1, 2, 3):
        solver(tmp_path, max_iter=4, random_seed=seed).run()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"run_{stem}{number}{suffix}" for number in ("", ".1", ".2")
                     for stem, suffix in (("snapshots", ""), ("metrics", ".jsonl"), ("curves", ".png"))}
    job = solver(tmp_path)
    job.restore(tmp_path / "run_snapshots")
    assert job.seed == 3


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.train.test_solver import solver
import jaffe
job = solver(Path(sys.argv[1]), test_iter=[])
job.step(2)
path = job.snapshot()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
try:
    job.snapshot()
except jaffe.JaffeError as error:
    assert "cannot be written" in str(error), error
else:
    sys.exit("the limit was not reached")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
job.restore(path)
print(job.iteration)
"""


def test_a_failed_save_keeps_the_earlier_snapshot(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, cwd=ROOT,
                          timeout=120, check=False)
    assert done.stdout.strip() == "2", done.stderr


def test_weights_loaded_in_mid_run_keep_the_count():
    job = solver(test_iter=[], momentum=0)
    job.step(5)
    job.load_weights({"ip": [np.zeros((3, 64), np.float32), np.zeros(3, np.float32)]})
    assert job.iteration == int(job.state.iteration) == 5
    before = job.variables["params"]["ip"]["bias"]
    reference = solver(test_iter=[], momentum=0, base_lr=0.05 * (1 + 0.1 * 5) ** -0.75, lr_policy="fixed")
    reference.state = dataclasses.replace(job.state, params=job.variables["params"], net_state=job.variables["state"],
                                          opt_state=reference.state.opt_state, iteration=jax.numpy.int32(5),
                                          finite=jax.numpy.bool_(True), key=jax.random.key(7))
    reference._iteration = 5
    job.step(1)
    reference.step(1)
    after = job.variables["params"]["ip"]["bias"]
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, reference.variables["params"]["ip"]["bias"], rtol=1e-5)


def test_interrupt_ends_after_an_iteration(tmp_path):
    """The first Ctrl-C leaves a solver that can go on as if nothing had been; run() saves and returns."""
    whole = solver(test_iter=[])
    losses = whole.step(12)

    class Pressing(Reporter):
        def advanced(self, iteration):
            if iteration == 5:
                signal.raise_signal(signal.SIGINT)

    job = solver(test_iter=[], reporter=Pressing())
    with pytest.raises(KeyboardInterrupt):
        job.step(12)
    assert job.iteration == 5
    job.reporter = Reporter()
    np.testing.assert_array_equal(job.step(7), losses[5:])
    same(job.state, whole.state)

    job = solver(tmp_path, reporter=Pressing())
    job.run()
    assert job.snapshots.iterations() == [5]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_files_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaffeError, match="nothing can be written under"):
        solver(snapshot_prefix=str(tmp_path / "file" / "run")).step(1)


def test_weights_beside_the_solver_file(tmp_path):
    net = NetParameter()
    layer = net.layer.add(name="ip", type="InnerProduct")
    layer.blobs.extend([array_to_blob(np.ones((3, 64))), array_to_blob(np.full(3, 5.0))])
    (tmp_path / "w.caffemodel").write_bytes(net.SerializeToString())
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "net.prototxt" weights: " w.caffemodel" base_lr: 0.1 lr_policy: "fixed" random_seed: 1\n')
    assert jaffe.Solver(path, data=items()).variables["params"]["ip"]["bias"].tolist() == [5, 5, 5]
    assert jaffe.Solver(path, data=items(), weights="").variables["params"]["ip"]["bias"].tolist() == [0, 0, 0]


def test_permissive_sharing_is_tested_too():
    net = """
    layer { name: "d" type: "MemoryData" top: "x" top: "y" memory_data_param
            { batch_size: 2 channels: 1 height: 1 width: 3 } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } inner_product_param
            { num_output: 2 bias_term: false weight_filler { type: "xavier" } } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE }
            inner_product_param { num_output: 3 bias_term: false } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "y" }
    """
    data = {"x": np.ones((4, 1, 1, 3), np.float32), "y": np.array([0, 1, 2, 0])}
    job = solver(net=net, data=data, test_iter=[2], test_compute_loss=True)
    (means,) = job.test()
    assert means["total loss"] == pytest.approx(means["loss"])


def test_going_back_within_a_run(tmp_path):
    job = solver(tmp_path, test_iter=[])
    job.step(3)
    job.snapshot()
    ahead = job.step(4)
    job.restore(tmp_path / "run_snapshots")
    np.testing.assert_array_equal(job.step(4), ahead)


def test_each_iteration_draws_anew():
    """With one record, no learning and plain gradients, only Dropout, crops and mirrors tell iterations apart."""
    one = {key: value[:1].repeat(5, 0) for key, value in items().items()}
    losses = solver(data=one, base_lr=0.0, test_iter=[]).step(6)
    assert len(set(losses.tolist())) == 6


def test_going_on_elsewhere_leaves_the_files_of_other_runs(tmp_path):
    for folder in ("one", "other"):
        solver(tmp_path / folder, max_iter=4).run()
    before = (tmp_path / "other" / "run_metrics.jsonl").read_text()
    job = solver(tmp_path / "other", max_iter=6)
    job.run(tmp_path / "one" / "run_snapshots")
    assert (tmp_path / "other" / "run_metrics.1.jsonl").read_text() == before
    assert job.snapshots.iterations() == [6]


def test_remat():
    """What is computed once more changes nothing; tests, which have no backward pass, keep all."""
    hidden, below = "", "bn"
    for i in range(4):
        hidden += f"""layer {{ name: "h{i}" type: "InnerProduct" bottom: "{below}" top: "h{i}" inner_product_param {{
            num_output: 12 weight_filler {{ type: "xavier" }} }} }}
            layer {{ name: "t{i}" type: "TanH" bottom: "h{i}" top: "t{i}" }}"""
        below = f"t{i}"
    before, after = NET.split('layer { name: "ip"')
    deep = before + hidden + 'layer { name: "ip"' + after.replace('bottom: "bn"', f'bottom: "{below}"')
    kept, again = solver(net=deep, remat="none"), solver(net=deep, remat="full")
    assert "Recomputed" in str(again.net.program(frozenset(again.net.loss_tops)))
    assert again.tests[0].net.remat.policy == "none"
    np.testing.assert_allclose(again.step(4), kept.step(4), rtol=1e-6)


def test_bfloat16():
    """Products in bfloat16, weights and tests in float32; the loss is that of float32 but for the rounding."""
    whole, half = solver(), solver(precision="bf16")
    assert half.net.precision == jax.numpy.bfloat16
    assert half.tests[0].net.precision == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(half.state.params)} == {np.dtype(np.float32)}
    # A few roundings of 2^-8 each, in losses of about 1.
    np.testing.assert_allclose(half.step(4), whole.step(4), atol=0.03)
