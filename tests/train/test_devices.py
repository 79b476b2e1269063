"""Training on several devices: after some steps the parameters are those of one device with the whole batch."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jaffe
from jaffe import L, zoo
from jaffe.train import Parallel
from tests.devices import on_devices

STEPS = 20
BY_JIT = pytest.param("jit", marks=pytest.mark.slow)  # the short form: test_pmap_is_jit


def batch_norm_net(batch: int, *, drop: bool = False, size: int = 8, **data) -> jaffe.NetSpec:
    n = jaffe.NetSpec("bn")
    filler = dict(weight_filler=dict(type="xavier"))
    n.data, n.label = L.MemoryData(
        ntop=2, memory_data_param=dict(batch_size=batch, channels=1, height=size, width=size), **data)
    n.conv = L.Convolution(n.data, num_output=6, kernel_size=3, bias_term=False, **filler)
    n.bn = L.BatchNorm(n.conv)
    n.scale = L.Scale(n.bn, bias_term=True)
    n.relu = L.ReLU(n.scale, in_place=True)
    if drop:
        n.drop = L.Dropout(n.scale, in_place=True)
    n.fc = L.InnerProduct(n.scale, num_output=10, **filler)
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    return n


def caffenet_like(batch: int) -> jaffe.NetSpec:
    n = jaffe.NetSpec("fc")
    filler = dict(weight_filler=dict(type="xavier"), bias_filler=dict(type="constant", value=0.1))
    n.data, n.label = L.MemoryData(ntop=2, memory_data_param=dict(batch_size=batch, channels=1, height=8, width=8))
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, **filler)
    n.pool = L.Pooling(L.ReLU(n.conv, in_place=True), kernel_size=2, stride=2)
    n.fc6 = L.InnerProduct(n.pool, num_output=128, **filler)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.fc7 = L.InnerProduct(n.fc6, num_output=64, **filler)
    n.relu7 = L.ReLU(n.fc7, in_place=True)
    n.fc8 = L.InnerProduct(n.fc7, num_output=16, **filler)
    n.loss = L.SoftmaxWithLoss(n.fc8, n.label)
    return n


def digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return {"data": images.reshape(-1, 1, 8, 8).astype(np.float32) / 16, "label": labels}


def lenet() -> dict:
    return dict(net=zoo.lenet(batch=32, transform=dict(resize=28)), data=digits(), base_lr=0.02, momentum=0.9,
                weight_decay=0.0005, lr_policy="fixed")


def with_batch_norm() -> dict:
    return dict(net=batch_norm_net(32), data=digits(), base_lr=0.05, momentum=0.9, lr_policy="fixed", sync_bn=True)


def lstm() -> dict:
    return dict(net=zoo.char_lstm(units=24, steps=10), data="text:python", type="Adam", base_lr=0.003, momentum=0.9,
                momentum2=0.999, delta=1e-8, clip_gradients=5, lr_policy="fixed")


def trained(settings: dict, parallel: Parallel | None, steps: int = STEPS, **more) -> jaffe.Solver:
    solver = jaffe.Solver(**{**settings, "random_seed": 3, "max_iter": 100, **more}, parallel=parallel)
    solver.losses = solver.step(steps)
    return solver


def assert_equal(found, expected, most: float) -> None:
    """Trees of arrays, each within a share of its largest value."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0, path
        np.testing.assert_allclose(a, b, rtol=0, atol=most * np.abs(b).max(), err_msg=str(path))


@pytest.mark.parametrize("by", ["pmap", BY_JIT])
@pytest.mark.parametrize("settings", [
    pytest.param(with_batch_norm, id="BatchNorm"), pytest.param(lstm, marks=pytest.mark.slow, id="LSTM")])
@on_devices(8)
def test_many_devices_are_one(settings, by):
    one = trained(settings(), None)
    for count in (2, 4, 8):
        many = trained(settings(), Parallel(devices=count, by=by, scaling="strong"))
        np.testing.assert_allclose(many.losses, one.losses, rtol=1e-6)
        assert_equal(many.variables, one.variables, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["pmap", "jit"])
@on_devices(8)
def test_lenet_on_many_devices(by):
    # In float64: in float32 rounding turns near ties of max pooling the other way, which moves gradients.
    jax.config.update("jax_enable_x64", True)
    one = trained(lenet(), None, dtype=np.float64)
    for count in (2, 4, 8):
        many = trained(lenet(), Parallel(devices=count, by=by, scaling="strong"), dtype=np.float64)
        assert_equal(many.variables, one.variables, 1e-13)


@on_devices(4)
def test_the_gradient_is_that_of_one_device():
    """Not four times as large, as under ``shard_map(check_vma=True)``: a step of rate 1 moves by the gradient."""
    settings = {**with_batch_norm(), "base_lr": 1.0, "momentum": 0.0}
    before = jaffe.Solver(**settings, random_seed=3, max_iter=1).variables["params"]
    moved = [jax.tree.map(lambda a, b: np.asarray(a - b), before, trained(settings, parallel, 1).variables["params"])
             for parallel in (None, Parallel(by="pmap", scaling="strong"), Parallel(by="jit", scaling="strong"))]
    for many in moved[1:]:
        assert_equal(many, moved[0], 5e-6)  # of differences of weights, which have lost a digit


@on_devices(4)
def test_pmap_is_jit():
    """With random crops, mirrors and Dropout too, and a batch for each device."""
    net = batch_norm_net(8, drop=True, size=6, transform_param=dict(crop_size=6, mirror=True))
    settings = {**with_batch_norm(), "net": net, "sync_bn": False, "iter_size": 2}
    pmap, jit = (trained(settings, Parallel(by=by), 6) for by in ("pmap", "jit"))
    np.testing.assert_allclose(pmap.losses, jit.losses, rtol=1e-6)
    assert_equal(pmap.variables, jit.variables, 1e-6)
    one = trained(settings, None, 6)
    assert abs(one.losses / pmap.losses - 1).max() > 0.01  # other batches, other random numbers


@on_devices(4)
def test_each_device_takes_a_batch():
    """Weak scaling: four devices with batches of 8 are one device with 32."""
    four = trained({**with_batch_norm(), "net": batch_norm_net(8)}, Parallel(devices=4))
    assert four.feed.images == 32
    assert_equal(four.variables, trained(with_batch_norm(), None).variables, 1e-5)


@on_devices(4)
def test_batch_norm_of_each_device():
    """Without sync_bn the loss is that of statistics of each device's own items; moving averages are averaged."""
    settings = {**with_batch_norm(), "sync_bn": False}
    two = trained(settings, Parallel(devices=2, scaling="strong"), 1)
    expected = []
    net = two.net.mapped()
    first = jaffe.Solver(**settings, random_seed=3, max_iter=100)
    whole = jax.jit(first.feed.fetch)(first.feed.resident, next(first.feed.batches()), jax.random.key(0))
    for i in range(2):
        part = {name: x[i::2] for name, x in whole.items()}
        loss, (_, state) = net.loss(first.variables, part)
        expected.append((loss, state["bn"]))
    np.testing.assert_allclose(two.losses[0], np.mean([loss for loss, _ in expected]), rtol=1e-6)
    for name, value in two.variables["state"]["bn"].items():
        np.testing.assert_allclose(value, np.mean([state[name] for _, state in expected], 0), rtol=1e-5, atol=1e-7)


MESHES = {
    "data x model": Parallel(devices=4, model_parallel=2, layers={"fc6": "output", "fc7": "input", "fc8": "output"}),
    "by the plan": Parallel(devices=4, model_parallel=4),
    "zero": Parallel(devices=4, zero=True),
    "zero, data x model": Parallel(devices=4, zero=True, model_parallel=2, layers={"fc6": "output", "fc7": "input"}),
}


@pytest.mark.parametrize("update", [
    "LAMB", pytest.param("SGD", marks=pytest.mark.slow), pytest.param("Adam", marks=pytest.mark.slow)])
@on_devices(4)
def test_meshes_are_one_device(update):
    """LAMB needs norms of whole weights, clipping that of all."""
    settings = dict(net=caffenet_like(8), data=digits(), base_lr=0.01, momentum=0.9, lr_policy="fixed", type=update,
                    clip_gradients=1.0, weight_decay=0.001, delta=1e-4)
    one = trained({**settings, "net": caffenet_like(32)}, None)
    for mesh in MESHES if update == "LAMB" else ["zero, data x model"]:
        many = trained(settings, MESHES[mesh])
        assert_equal(many.variables, one.variables, 1e-6)
        if "zero" in mesh:
            spread = {x.sharding.spec for x in jax.tree.leaves(many.state.opt_state) if x.size >= 2**12}
            assert all("data" in tuple(spec) for spec in spread), spread
        if "model" in mesh:
            assert many.state.params["fc6"]["weight"].sharding.spec == jax.sharding.PartitionSpec("model")


@on_devices(8)
def test_a_run_goes_on_with_other_devices(tmp_path):
    """The LSTM too, whose h and c are divided among the devices, and averaged weights."""
    settings = {**lstm(), "ema_decay": 0.9, "snapshot_prefix": str(tmp_path / "run")}
    whole = trained({**lstm(), "ema_decay": 0.9}, None, 12)
    counts = (Parallel(devices=4, scaling="strong"), Parallel(devices=8, scaling="strong", by="jit", zero=True), None,
              Parallel(devices=2, scaling="strong"))
    snapshot, losses = None, []
    for parallel in counts:
        part = jaffe.Solver(**settings, random_seed=3, max_iter=100, parallel=parallel)
        if snapshot:
            part.restore(snapshot)
        losses += part.step(3).tolist()
        snapshot = part.snapshot()
    np.testing.assert_allclose(losses, whole.losses, rtol=1e-5)
    assert_equal(part.variables, whole.variables, 1e-5)
    assert_equal(part.devices.whole(part.state.ema), whole.state.ema, 1e-5)


@on_devices(4)
def test_the_same_devices_go_on_bit_for_bit(tmp_path):
    settings = {**with_batch_norm(), "snapshot_prefix": str(tmp_path / "run"), "net": batch_norm_net(8, drop=True)}
    for parallel in (Parallel(), Parallel(by="jit", zero=True)):
        whole = trained({**settings, "snapshot_prefix": str(tmp_path / "whole")}, parallel, 8)
        first = trained(settings, parallel, 5)
        second = jaffe.Solver(**settings, random_seed=4, max_iter=100, parallel=parallel)
        second.restore(first.snapshot())
        np.testing.assert_array_equal(second.step(3), whole.losses[5:])
        jax.tree.map(np.testing.assert_array_equal, second.variables, whole.variables)


@on_devices(4)
def test_tests_and_rows(tmp_path):
    """A run with tests, rows, snapshots and the best one, on several devices."""
    net = zoo.mlp(shape=(1, 8, 8), batch=16, transform=dict(scale=1 / 16))
    settings = dict(base_lr=0.05, momentum=0.9, lr_policy="fixed", test_iter=[3], test_interval=20, max_iter=60,
                    display=10, snapshot=30, monitor="accuracy", random_seed=1)
    rows = []
    mesh = Parallel(scaling="strong", model_parallel=2, layers={"ip1": "output"})
    for parallel in (None, Parallel(scaling="strong"), mesh):
        prefix = str(tmp_path / f"run{len(rows)}")
        solver = jaffe.Solver(net=net, data="tfds:digits", snapshot_prefix=prefix, parallel=parallel, **settings)
        solver.run()
        assert solver.snapshots.iterations()[-1] == 60
        rows.append(solver.metrics.rows)
    for many in rows[1:]:
        for one, other in zip(rows[0], many, strict=True):
            assert one.keys() == other.keys()
            assert one["iteration"] == other["iteration"]
        np.testing.assert_allclose(many[0]["loss"], rows[0][0]["loss"], rtol=1e-6)  # before any step, on the same data
        assert many[-1]["accuracy"] > 0.9  # Dropout draws other numbers


@on_devices(4)
def test_what_is_not_finite():
    settings = {**lenet(), "base_lr": 1e30}
    for by in ("pmap", "jit"):
        solver = jaffe.Solver(**settings, random_seed=3, max_iter=100, parallel=Parallel(by=by, scaling="strong"))
        with pytest.raises(jaffe.JaffeError, match="the loss is nan at iteration 1: layer 'conv"):
            solver.step(10)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(solver.variables))


@on_devices(4)
def test_one_device_with_a_label_that_is_none():
    data = digits()
    data["label"] = data["label"].astype(np.float32)
    data["label"][7] = 99  # a label outside the classes
    solver = jaffe.Solver(**{**lenet(), "data": data}, random_seed=3, max_iter=100, parallel=Parallel(scaling="strong"))
    with pytest.raises(jaffe.JaffeError, match=r"(?s)the loss is nan.*layer 'loss'"):
        solver.step(80)


@on_devices(4)
def test_debug_info_is_of_the_first_device():
    lines = []

    class Telling(jaffe.train.Reporter):
        def debugged(self, found):
            lines.extend(found)

    trained({**lenet(), "debug_info": True, "display": 1}, Parallel(), 1, reporter=Telling())
    assert any("[Forward]" in line for line in lines)
    assert any("[Update]" in line or "[Backward]" in line for line in lines)


@on_devices(4)
def test_several_passes_an_iteration():
    """Four devices with two passes of 8 are one device with a pass of 64."""
    settings = {**with_batch_norm(), "sync_bn": False}
    net = caffenet_like
    many = trained({**settings, "net": net(8), "iter_size": 2}, Parallel(), 10)
    assert_equal(many.variables, trained({**settings, "net": net(64)}, None, 10).variables, 1e-5)


@on_devices(4)
def test_the_original_datas_python_layers_are_run(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text(
        "import jaffe\nclass Twice(jaffe.PythonLayer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data\n"
        "    def backward(self, top, down, bottom): bottom[0].diff[...] = 2 * top[0].diff\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    n = jaffe.NetSpec("python")
    n.data, n.label = L.MemoryData(ntop=2, memory_data_param=dict(batch_size=8, channels=1, height=8, width=8))
    n.twice = L.Python(n.data, python_param=dict(module="twice", layer="Twice"))
    n.fc = L.InnerProduct(n.twice, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    settings = dict(net=n, data=digits(), base_lr=0.01, lr_policy="fixed", python_modules=["twice"])
    one = trained({**settings, "iter_size": 4}, None, 5)
    assert_equal(trained(settings, Parallel(), 5).variables, one.variables, 1e-5)


WRONG = [
    (Parallel(devices=9), r"expected 1 to 4 devices \(cpu:0, cpu:1, cpu:2, cpu:3\); found 9"),
    (Parallel(devices=3, scaling="strong"), r"input 'data' of shape .* cannot be divided among 3 devices"),
    (Parallel(model_parallel=3), "the devices that share weights divide the number of all, 4; found 3"),
    (Parallel(by="pmap", zero=True), "pmap is for one process, whole weights .* expected parallel \"jit\""),
    (Parallel(by="pmapp"), r"by \(--parallel\) is 'pmap' or 'jit'; found 'pmapp'; did you mean 'pmap'\?"),
    (Parallel(scaling="Strong"), r"scaling \(--scaling\) is 'weak' or 'strong'; found 'Strong'"),
    (Parallel(devices=True), 'devices are "all", how many, or a list of those of jax.devices\\(\\); found True'),
    (Parallel(devices="2"), "found '2'"),
    (Parallel(devices=[]), r"found \[\]"),
    (4, r"parallel is a jaffe.Parallel, such as jaffe.Parallel\(devices=4\); received 4"),
    (Parallel(model_parallel="2"), "model_parallel is a number of devices, at least 1; found '2'"),
    (Parallel(model_parallel=2, layers=["ip1"]), r"layers are those to divide: expected some, .* found \['ip1'\]"),
    (Parallel(model_parallel=2, layers={}), "layers are those to divide"),
    (Parallel(layers={"ip1": "output"}), "divided over model_parallel devices; expected more than 1; found 1"),
    (Parallel(model_parallel=2, layers={"ip1": "outputs"}), "divided by \"output\" or \"input\"; found 'outputs'"),
    (Parallel(zero="yes"), "zero is True or False; found 'yes'"),
    (Parallel(model_parallel=4, layers={"ip2": "output"}), "layer 'ip2' .*be divided over 4 devices by its outputs"),
    (Parallel(model_parallel=2, layers={"ip3": "output"}), "a layer to divide, 'ip3', is not in the net; did you mean"),
]


@on_devices(4)
def test_what_does_not_fit():
    for parallel, message in WRONG:
        with pytest.raises(jaffe.JaffeError, match=message):
            jaffe.Solver(**lenet(), max_iter=1, parallel=parallel)


@on_devices(2)
def test_sequences_are_divided_not_multiplied():
    with pytest.raises(jaffe.JaffeError, match=r"state along axis 1 of its inputs, the sequences.*strong"):
        jaffe.Solver(**lstm(), max_iter=1, parallel=Parallel())


@on_devices(4)
def test_the_step_is_compiled_once(tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None)
    settings = {**with_batch_norm(), "net": caffenet_like(8)}
    meshes = (Parallel(), Parallel(by="jit"), Parallel(zero=True),
              Parallel(model_parallel=2, layers={"fc6": "output"}))
    for i, parallel in enumerate(meshes):
        settings["snapshot_prefix"] = str(tmp_path / f"run{i}")
        solver = trained(settings, parallel, 1)
        other = jaffe.Solver(**settings, max_iter=100, random_seed=3, parallel=parallel)
        other.restore(solver.snapshot())
        solver.variables  # noqa: B018  what it takes is compiled now
        compiled.clear()
        solver.step(1)
        solver.variables  # noqa: B018
        solver.step(1)
        assert compiled == []
        other.step(2)
        assert len(compiled) < 5, compiled  # one step, and what fetches the batch


def masked_adam():
    return optax.masked(optax.adam(1e-3), lambda params: jax.tree.map(lambda x: x.ndim > 1, params))


def two_groups():
    return optax.multi_transform(
        {"fast": optax.sgd(0.1, momentum=0.9), "slow": optax.adam(1e-3)},
        lambda params: {layer: dict.fromkeys(group, "slow" if layer == "fc7" else "fast")
                        for layer, group in params.items()})


def factored():
    return optax.adafactor(1e-3, min_dim_size_to_factor=8)


@pytest.mark.slow
@on_devices(4)
def test_optimisers_of_the_callers_own():
    """Their states have masks, groups, and shapes that are not the weights'."""
    meshes = (Parallel(), Parallel(zero=True), Parallel(model_parallel=2, zero=True, layers={"fc6": "output",
                                                                                              "fc7": "input"}))
    for own in (masked_adam(), two_groups(), factored(), optax.contrib.muon(1e-3)):
        settings = dict(data=digits(), optimizer=own)
        one = trained({**settings, "net": caffenet_like(32)}, None, 5)
        for parallel in meshes:
            many = trained({**settings, "net": caffenet_like(8)}, parallel, 5)
            assert_equal(many.variables, one.variables, 1e-6)


@on_devices(4)
def test_what_an_optimiser_keeps_is_never_whole():
    """With zero: neither when it is made nor when the run is tested, whatever is gathered then."""
    settings = {**with_batch_norm(), "net": caffenet_like(8)}
    solver = trained(settings, Parallel(zero=True), 1)
    momentum = {x.shape for x in jax.tree.leaves(solver.state.opt_state) if x.size >= 2**12}
    assert (128, 72) in momentum
    gathered = []
    solver.devices._gather = lambda x: gathered.append(x.shape)
    assert solver._whole().opt_state == ()
    solver.variables  # noqa: B018
    assert not gathered
    shards = [x.addressable_shards[0].data.size for x in jax.tree.leaves(solver.state.opt_state) if x.size >= 2**12]
    assert all(size * 4 in (128 * 72, 64 * 128) for size in shards)


@on_devices(4)
def test_the_device_that_was_named():
    solver = trained(lenet(), Parallel(devices=[jax.devices()[2]]), 1)
    assert {x.device for x in jax.tree.leaves(solver.state)} == {jax.devices()[2]}


@on_devices(2)
def test_the_net_and_its_variables_work_outside():
    solver = trained(with_batch_norm(), Parallel(scaling="strong"), 1)
    inputs = {name: np.zeros(x.shape, np.float32) for name, x in solver.net.inputs.items()}
    assert np.isfinite(solver.net.loss(solver.variables, inputs)[0])
    solver = trained({**with_batch_norm(), "net": caffenet_like(8)},
                     Parallel(model_parallel=2, layers={"fc6": "output"}), 1)
    inputs = {name: np.zeros(x.shape, np.float32) for name, x in solver.net.inputs.items()}
    assert np.isfinite(solver.net.loss(solver.variables, inputs)[0])


@on_devices(4)
def test_warnings(tmp_path):
    said = []

    class Telling(jaffe.train.Reporter):
        def warned(self, message):
            said.append(message)

    net = caffenet_like(8).to_proto()
    next(one for one in net.layer if one.name == "fc6").divide = 1
    settings = {**with_batch_norm(), "net": net, "snapshot_prefix": str(tmp_path / "run")}
    solver = trained(settings, Parallel(), 1, reporter=Telling())
    assert said == ["divide of fc6 is not used: expected model_parallel (--model-parallel) above 1"]
    by_net = trained(settings, Parallel(model_parallel=2), 1, reporter=Telling())
    assert by_net._mapped_net.partition.layers == {"fc6": "output"}
    assert len(said) == 1
    trained(settings, Parallel(devices=2, model_parallel=2), 0, reporter=Telling()).restore(solver.snapshot())
    assert said[1:] == ["an iteration takes 16 items; those of the snapshot took 32: the data go on as after 1 "
                        "iterations of 16"]


@on_devices(4)
def test_each_device_draws_its_own_random_numbers():
    n = jaffe.NetSpec("drop")
    n.data, n.label = L.MemoryData(ntop=2, memory_data_param=dict(batch_size=2, channels=1, height=8, width=8))
    n.drop = L.Dropout(n.data)
    n.fc = L.InnerProduct(n.data, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    ones = {"data": np.ones((16, 1, 8, 8), np.float32), "label": np.zeros(16)}
    for by in ("pmap", "jit"):
        solver = jaffe.Solver(net=n, data=ones, base_lr=0.1, lr_policy="fixed", random_seed=3, parallel=Parallel(by=by))
        batch = next(solver.feed.batches()), solver.devices.put(np.zeros((4, 2), bool))
        drawn = []
        for _ in range(2):
            solver.state, metrics = solver._step(solver.state, solver.feed.resident, batch)
            drawn += list(np.asarray(metrics["outputs"]["drop"]))
        assert [one.shape for one in drawn] == [(2, 1, 8, 8)] * 8
        assert len({one.tobytes() for one in drawn}) == 8  # of each device, at each iteration
