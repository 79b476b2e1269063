"""Solvers: jaffe's runs, with weights and blobs that scripts see and write to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, SpecError

# Random crops and flips, BatchNorm's state, Dropout: what could differ between the run and what is shown of it.
NET = """
name: "n"
layer { name: "d" type: "MemoryData" top: "data" top: "label" transform_param { crop_size: 6 mirror: true scale: 0.1 }
        memory_data_param { batch_size: 5 channels: 1 height: 6 width: 6 } }
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }
layer { name: "drop" type: "Dropout" bottom: "bn" top: "drop" }
layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SETTINGS = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "inv" gamma: 0.1 power: 0.75 weight_decay: 0.01 max_iter: 9 random_seed: 7
"""
WITH_TESTS = SETTINGS + "test_iter: 2 test_interval: 4"


def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"data": random.integers(0, 16, (23, 1, 8, 8)).astype(np.uint8), "label": random.integers(0, 3, 23)}


def write(folder: Path, settings: str = SETTINGS, net: str = NET) -> Path:
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(settings)
    return folder / "solver.prototxt"


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path)


@pytest.fixture(scope="module")
def solver(tmp_path_factory) -> caffe.SGDSolver:
    """The run that most tests go on with."""
    return caffe.SGDSolver(str(write(tmp_path_factory.mktemp("run"), WITH_TESTS)), data=data())


@pytest.fixture
def losses(monkeypatch) -> list[float]:
    """The losses that jaffe.Solver itself tells of, as the steps go on."""
    found: list[float] = []
    step = jaffe.Solver.step
    monkeypatch.setattr(jaffe.Solver, "step", lambda self, n: found.extend(step(self, n)))
    return found


def test_after_steps_arrays_show_the_weights_and_the_last_pass(solver, losses):
    shown = solver.net.params["ip"][0].data
    for n, total in ((1, 1), (3, 4)):
        before = shown.copy()
        solver.step(n)
        assert (solver.iter, len(losses)) == (total, total)
        assert solver.net.blobs["loss"].data == pytest.approx(losses[-1], rel=1e-6)  # computed again
        np.testing.assert_array_equal(shown, solver._solver.variables["params"]["ip"]["weight"])
        if n == 1:  # after a step diffs are what was subtracted, as in Caffe
            np.testing.assert_array_equal(solver.net.params["ip"][0].diff, before - shown)
        assert not np.array_equal(shown, before)
    assert solver.net.blobs["ip"].diff.any()
    assert set(solver.net.params) == {"bn", "ip"}
    assert solver.lr == pytest.approx(0.05 * (1 + 0.1 * 4) ** -0.75)
    np.testing.assert_array_equal(solver.net.params["bn"][2].data, solver._solver.variables["state"]["bn"]["factor"])
    assert solver.net.params["bn"][2].data == pytest.approx(sum(0.999**i for i in range(4)), rel=1e-5)


def test_arrays_that_are_held_follow_the_steps(solver, losses):
    loss, diff = solver.net.blobs["loss"].data, solver.net.blobs["ip"].diff
    seen = []
    for _ in range(2):
        solver.step(1)
        seen.append((float(loss), diff.copy()))
        assert diff.any()
        assert loss == pytest.approx(losses[-1], rel=1e-6)
    assert seen[0][0] != seen[1][0]
    assert not np.array_equal(seen[0][1], seen[1][1])


def test_forward_takes_no_batch_from_training(solver):
    before = [blob.data.copy() for blob in solver.net.params["bn"]]
    labels = [solver.net.forward(blobs=["label"])["label"].copy() for _ in range(2)]
    assert not np.array_equal(*labels)
    factor = solver.net.params["bn"][2].data
    assert factor == pytest.approx((before[2] * 0.999 + 1) * 0.999 + 1, rel=1e-6)  # the state moves on, as in Caffe
    for blob, array in zip(solver.net.params["bn"], before, strict=True):
        blob.data[...] = array
    solver.step(1)
    np.testing.assert_array_equal(solver.net.blobs["label"].data, labels[0])
    assert factor == pytest.approx(before[2] * 0.999 + 1, rel=1e-6)


def test_what_is_written_to_weights_counts(solver):
    weight, bias = solver.net.params["ip"]
    weight.data[...] = 0
    bias.data[...] = 0
    solver.step(1)
    assert solver.net.blobs["loss"].data == pytest.approx(np.log(3), rel=1e-6)
    assert 0 < np.abs(weight.data).max() < 0.5
    solver.net.params["ip"][1].data[...] = [0, 1000, 0]
    for net in (solver.test_nets[0], solver.net):  # in the test net too
        assert np.all(net.forward(blobs=["ip"])["ip"].argmax(1) == 1)
    accuracy = solver.test_nets[0].forward()["accuracy"]
    assert accuracy == pytest.approx(np.mean(solver.test_nets[0].blobs["label"].data == 1))


def test_passes_of_one_iteration(tmp_path, losses):
    """With iter_size, blobs show the last pass; the mean of all is the loss of the iteration."""
    solver = caffe.SGDSolver(str(write(tmp_path, SETTINGS + "iter_size: 2")), data=data())
    solver.step(2)
    feed = solver._solver.feed
    order = np.concatenate([feed.fetch(feed.resident, batch, jax.random.key(0))["label"] for batch, _ in
                            zip(feed.batches(), range(4), strict=False)])
    np.testing.assert_array_equal(solver.net.blobs["label"].data, order[15:20])
    assert 0 < solver.net.blobs["loss"].data != losses[-1]
    assert solver._source.position == 4  # the next batch


def test_updates_of_the_script(tmp_path):
    """forward, backward, apply_update make what a step makes: momentum, decay, the norm of gradients cut."""
    net = (NET.replace("crop_size: 6 mirror: true", "").replace('"Dropout"', '"Split"')
           .replace("height: 6 width: 6", "height: 8 width: 8"))
    solver = caffe.SGDSolver(str(write(tmp_path, SETTINGS + "momentum: 0.9 clip_gradients: 0.5", net)), data=data())
    weight, bias = solver.net.params["ip"]
    by_hand = [weight.data.copy(), bias.data.copy()]
    velocity = [np.zeros_like(array) for array in by_hand]

    def expect() -> None:
        rate = solver.lr
        gradients = [blob.diff.copy() for blob in (weight, bias)]
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        assert norm > 0.5
        for i, (g, mult) in enumerate(zip(gradients, (1, 2), strict=True)):
            velocity[i] = 0.9 * velocity[i] + rate * mult * (g * 0.5 / norm + 0.01 * by_hand[i])
            by_hand[i] = by_hand[i] - velocity[i]

    for _ in range(3):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        expect()
        solver.apply_update()
    assert solver.iter == 3
    np.testing.assert_allclose(weight.data, by_hand[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias.data, by_hand[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias.diff, velocity[1], rtol=1e-3, atol=1e-6)  # what was subtracted
    solver.net.clear_param_diffs()
    solver.net.forward()  # the batch that training takes next
    solver.net.backward()
    expect()
    solver.step(1)  # goes on with the momentum
    np.testing.assert_allclose(weight.data, by_hand[0], rtol=1e-4, atol=1e-6)


def test_a_recorded_run_of_caffe(shared, tmp_path):
    """LeNet on MNIST: losses of steps, and of updates that the script makes, are those that Caffe 1.0 wrote down."""
    recorded = shared / "goldens" / "training"
    text = (recorded / "lenet_solver.prototxt").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("test_", "snapshot", "net:")))
    path = tmp_path / "solver.prototxt"
    path.write_text(f'{text}\ntrain_net: "{recorded / "lenet_train_test.prototxt"}"\n')
    solver = caffe.get_solver(str(path))
    solver.net.copy_from(recorded / "lenet_init.caffemodel")
    losses = []
    for i in range(8):
        if i % 2:
            solver.net.clear_param_diffs()
            solver.net.forward()
            solver.net.backward()
            solver.apply_update()
        else:
            solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
    np.testing.assert_allclose(losses, np.load(recorded / "trace.npz")["loss"][:8], rtol=0, atol=1e-4)


CLASSES = {"SGD": caffe.SGDSolver, "Nesterov": caffe.NesterovSolver, "AdaGrad": caffe.AdaGradSolver,
           "RMSProp": caffe.RMSPropSolver, "AdaDelta": caffe.AdaDeltaSolver, "Adam": caffe.AdamSolver}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes(path, kind):
    """The class decides, whatever the file says; get_solver goes by the file."""
    path.write_text(SETTINGS + 'type: "Adam"')
    solver = CLASSES[kind](str(path), data=data())
    assert (solver.type, solver._solver.proto.type) == (kind, kind)
    path.write_text(SETTINGS + f'type: "{kind}"')
    assert type(caffe.get_solver(str(path), data=data())) is CLASSES[kind]


def test_solve_snapshot_restore(tmp_path):
    path = write(tmp_path, SETTINGS + f'snapshot_prefix: "{tmp_path}/run" snapshot: 4 snapshot_after_train: true')
    solver = caffe.get_solver(str(path), data=data())
    solver.param.max_iter = 6
    solver.solve()
    assert solver.iter == 6
    assert (tmp_path / "run_snapshots" / "iter_4").is_dir()
    weights = solver.net.params["ip"][0].data.copy()
    solver.net.params["ip"][0].data[...] = 0
    solver.restore(tmp_path / "run_snapshots" / "iter_6")
    np.testing.assert_array_equal(solver.net.params["ip"][0].data, weights)
    solver.net.params["ip"][1].data[...] = 5  # counts in the snapshot
    solver.step(1)
    solver.snapshot()
    solver.net.params["ip"][1].data[...] = 0
    solver.param.max_iter = 8
    solver.solve(tmp_path / "run_snapshots" / "iter_7")
    assert solver.iter == 8
    assert solver.net.params["ip"][1].data.mean() == pytest.approx(5, abs=0.5)


def test_seed_of_the_script(path):
    path.write_text(SETTINGS.replace("random_seed: 7", ""))
    made = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        made.append(caffe.SGDSolver(str(path), data=data()).net.params["ip"][0].data.copy())
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_settings(solver):
    assert (solver.param.base_lr, solver.param.max_iter) == (pytest.approx(0.05), 9)
    with pytest.raises(JaffeError, match=r"base_lr of a solver cannot be changed once it is made; max_iter and display "
                                         r"can: expected it in the solver's file"):
        solver.param.base_lr = 0.1
    with pytest.raises(JaffeError, match="a step of jaffe is one compiled function, without places for callbacks"):
        solver.add_callback(print, print)
    other = caffe.Net(NET.replace("MemoryData", "Input").split("memory_data_param")[0].replace(
        "transform_param { crop_size: 6 mirror: true scale: 0.1 }",
        "input_param { shape { dim: 5 dim: 1 dim: 6 dim: 6 } shape { dim: 5 } } }") + NET.split("width: 6 } }")[1],
        caffe.TEST)
    solver.share_weights(other)
    other.params["ip"][0].data[...] = 3
    assert np.all(solver.net.params["ip"][0].data == 3)
    before = solver.iter
    solver.step(0)
    assert solver.iter == before


def test_wrong(path):
    with pytest.raises(SpecError, match=r"gone.prototxt: cannot be read"):
        caffe.get_solver("gone.prototxt")
    with pytest.raises(SpecError, match=r"layer 'd' .*MemoryData has no data of its own here"):
        caffe.SGDSolver(str(path))
    path.write_text(SETTINGS + 'type: "Adamm"')
    with pytest.raises(SpecError, match=r"solver type 'Adamm' is not known; did you mean 'Adam'"):
        caffe.get_solver(str(path))


def test_a_run_that_fails_leaves_the_weights_that_it_has(solver, monkeypatch):
    """As when the loss is NaN: the arrays show what the solver goes on with."""
    def fail(self, n):
        self.state = dataclasses.replace(self.state, params=jax.tree.map(jnp.zeros_like, self.state.params))
        raise JaffeError("the loss is nan")

    monkeypatch.setattr(jaffe.Solver, "step", fail)
    solver.net.params["ip"][0].data[...] = 1
    with pytest.raises(JaffeError, match="the loss is nan"):
        solver.step(2)
    assert not solver.net.params["ip"][0].data.any()
