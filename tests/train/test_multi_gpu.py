"""The example for several devices, on four virtual CPU devices, against one device with the whole batch."""

from __future__ import annotations

import importlib
import re
import shutil
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaffe
from tests.conftest import ROOT
from tests.devices import on_devices, run

SCRIPT = ROOT / "examples" / "train_multi_gpu.py"


@pytest.fixture
def example(monkeypatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module(SCRIPT.stem)


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"data": random.random((80, 1, 8, 8)), "label": random.integers(0, 10, 80)}


def compiled(example: ModuleType, batch: int, *, sync_bn: bool = False, dropout: float = 0.0) -> jaffe.CompiledNet:
    return jaffe.compile_net(example.digits_net(dropout), phase="TRAIN", batch=batch, dtype=jnp.float64,
                             axis_name="devices" if sync_bn else None)


def begun(example: ModuleType, net: jaffe.CompiledNet, optimizer: optax.GradientTransformation) -> Any:
    variables = net.init(jax.random.key(0))
    state = example.TrainState.create(apply_fn=None, params=variables["params"], tx=optimizer,
                                      net_state=variables["state"])
    return state.replace(step=jnp.int32(0))


def assert_close(found: Any, expected: Any, rtol: float) -> None:
    """All arrays, by the largest number of each."""
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(np.asarray(b)).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path))


def values(state: Any) -> Any:
    return state.params, state.net_state, state.opt_state


@on_devices(4)
def test_a_step_is_the_mean_of_what_each_device_computes(example, data):
    """Losses, gradients and statistics, with Dropout of its own on each; computed one after the other for comparison.

    SGD with rate 1 moves by the gradient itself: a sum over the devices in place of the mean would be seen.
    """
    jax.config.update("jax_enable_x64", True)
    net = compiled(example, 8, dropout=0.5)
    state = begun(example, net, optax.sgd(1.0))
    batch = next(example.batches(data, 32, 0, 1, seed=3))
    key, each = jax.random.fold_in(jax.random.key(3), 0), []
    for i in range(4):
        inputs = {name: array[8 * i : 8 * i + 8] for name, array in batch.items()}
        (loss, (_, net_state)), gradients = jax.value_and_grad(
            lambda params, i=i, inputs=inputs: net.loss(
                {"params": params, "state": state.net_state}, inputs, jax.random.fold_in(key, i)),
            has_aux=True)(state.params)
        each.append((loss, gradients, net_state))
    assert len({float(loss) for loss, _, _ in each}) == 4
    loss, gradients, net_state = jax.tree.map(lambda *found: sum(found) / 4, *each)

    ((new, found),) = example.train(net, state, data, devices=jax.devices(), iterations=1, every=1, seed=3)
    assert found == pytest.approx(float(loss), rel=1e-12)
    assert_close(new.params, jax.tree.map(lambda p, g: p - g, state.params, gradients), 1e-12)
    assert_close(new.net_state, net_state, 1e-12)
    assert new.step == 1


@on_devices(4)
def test_replicas_stay_equal_and_the_state_is_donated(example, data):
    jax.config.update("jax_enable_x64", True)
    net = compiled(example, 4, dropout=0.5)
    state = example.jax_utils.replicate(begun(example, net, optax.sgd(0.1, momentum=0.9)), jax.devices())
    step = example.make_step(net, jax.devices(), seed=0)
    for batch in example.batches(data, 16, 0, 2, seed=0):
        before, copy = state, example.first(state)
        state, _ = step(state, {name: array.reshape(4, 4, *array.shape[1:]) for name, array in batch.items()})
        assert all(x.is_deleted() for x in jax.tree.leaves(values(before)))
        assert not any(x.is_deleted() for x in jax.tree.leaves(values(copy)))
    for x in jax.tree.leaves(values(state)):
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(shard.data, x.addressable_shards[0].data)


@on_devices(4)
def test_devices_compute_what_one_does_with_the_whole_batch(example, data):
    """With sync_bn, as the same batch, in float64, over more than one epoch. Without it they do not."""
    jax.config.update("jax_enable_x64", True)
    optimizer = optax.sgd(0.05, momentum=0.9)

    def trained(count: int, *, sync_bn: bool) -> tuple[list[float], Any]:
        net = compiled(example, 32 // count, sync_bn=sync_bn)
        states, losses = zip(*example.train(net, begun(example, net, optimizer), data, devices=jax.devices()[:count],
                                            iterations=6, every=1), strict=True)
        assert [int(state.step) for state in states] == [1, 2, 3, 4, 5, 6]
        return list(losses), values(states[-1])

    losses, state = trained(1, sync_bn=False)
    assert losses[-1] != losses[0]
    for count in (2, 4):
        found_losses, found = trained(count, sync_bn=True)
        np.testing.assert_allclose(found_losses, losses, rtol=1e-10)
        assert_close(found, state, 1e-10)
    apart, _ = trained(4, sync_bn=False)
    assert abs(apart[-1] / losses[-1] - 1) > 1e-4


def test_batches_depend_on_the_iteration_alone(example, data):
    whole = list(example.batches(data, 32, 0, 5, seed=1))
    late = list(example.batches(data, 32, 3, 5, seed=1))
    for a, b in zip(whole[3:], late, strict=True):
        np.testing.assert_array_equal(a["data"], b["data"])
    seen = np.concatenate([batch["data"][:, 0, 0, 0] for batch in whole])  # two epochs of 80
    for epoch in (seen[:80], seen[80:]):
        np.testing.assert_array_equal(np.sort(epoch), np.sort(data["data"][:, 0, 0, 0]))
    assert not np.array_equal(seen[:80], seen[80:])


def snapshot(folder: Any, iteration: int) -> Any:
    """A snapshot's arrays, wherever they were written from."""
    with ocp.CheckpointManager(folder) as snapshots:
        assert snapshots.latest_step() == iteration
        metadata = snapshots.item_metadata(iteration)
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metadata)
        return snapshots.restore(iteration, args=ocp.args.StandardRestore(like))


@on_devices(4)
def test_a_run_resumes_on_any_number_of_devices(example, tmp_path, capsys):
    same = ["--scaling", "strong", "--batch", "32", "--sync-bn", "--snapshot", "4"]
    for name, dropout, devices in (("random", "0.5", "4"), ("plain", "0", "1")):
        example.main([*same, "--dropout", dropout, "--iterations", "8", "--output", str(tmp_path / name)])
        shutil.copytree(tmp_path / name, tmp_path / f"{name}_stopped")
        shutil.rmtree(tmp_path / f"{name}_stopped" / "8")
        example.main([*same, "--dropout", dropout, "--iterations", "8", "--output", str(tmp_path / f"{name}_stopped"),
                      "--resume", "--devices", devices])
    output = capsys.readouterr().out
    assert output.count("4 x cpu, 8 images each, from iteration 0\n") == 2
    assert output.count("4 x cpu, 8 images each, from iteration 4\n") == 1
    assert output.count("1 x cpu, 32 images each, from iteration 4\n") == 1

    assert_close(snapshot(tmp_path / "random_stopped", 8), snapshot(tmp_path / "random", 8), 0)
    # float32 gradients averaged in another order, over four steps
    assert_close(snapshot(tmp_path / "plain_stopped", 8), snapshot(tmp_path / "plain", 8), 1e-5)

    with pytest.raises(SystemExit):
        example.main(["--output", str(tmp_path / "plain"), "--iterations", "9"])
    assert capsys.readouterr().err.endswith("plain has snapshots; expected --resume or another folder\n")
    with pytest.raises(SystemExit):
        example.main(["--output", str(tmp_path / "plain"), "--iterations", "8", "--resume"])
    assert capsys.readouterr().err.endswith("the last snapshot is of iteration 8; expected more --iterations\n")


def test_the_script(tmp_path):
    """With sync_bn and a long way between tests: CPU devices came to a deadlock when the host ran far ahead."""
    done = run("-W", "error", str(SCRIPT), "--sync-bn", "--iterations", "240", "--snapshot", "120",
               "--output", str(tmp_path / "run"), devices=4)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    header, *lines = done.stdout.splitlines()
    assert header == "4 x cpu, 16 images each, from iteration 0"
    found = [re.fullmatch(r"iteration (\d+): loss \d\.\d{4}, test accuracy (.*)%, .* s", line) for line in lines]
    assert [line.group(1) for line in found] == ["120", "240"]
    assert float(found[-1].group(2)) > 90


@pytest.mark.parametrize(("arguments", "message"), [
    (["--devices", "0"], "expected --devices from 1 to {there}, and positive numbers"),
    (["--devices", "99"], "expected --devices from 1 to {there}, and positive numbers"),
    (["--batch", "0"], "expected --devices from 1 to {there}, and positive numbers"),
    (["--dropout", "1"], "expected --dropout from 0 to below 1; found 1"),
    (["--resume"], "--resume expects the folder of a run as --output"),
    (["--resume", "--output", "nowhere"], "--resume expects the folder of a run as --output"),
    (["--resume", "--output", "{empty}"], "{empty} has no snapshot to resume from"),
    (["--scaling", "strong", "--batch", "6"], "4 devices cannot divide --batch 6 evenly"),
])
def test_wrong_flags(example, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 4)
    with pytest.raises(SystemExit):
        example.main([argument.format(empty=tmp_path) for argument in arguments])
    assert capsys.readouterr().err.endswith(f"error: {message.format(there=4, empty=tmp_path)}\n")
