"""What the recorded solver traces do not show: changed settings on resume, and degenerate numbers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaffe
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, SolverParameter, SpecError
from jaffe.train.optimizer import TRACED, UPDATES, clip_by_norm, make_optimizer, scale_by_caffe_adam
from jaffe.train.snapshots import restore_variables
from jaffe.train.step import begin, make_update
from tests.train.test_solver import NET, items, same, solver

CHANGES = [{"weight_decay": 0.0}, {"clip_gradients": 1.0}, {"iter_size": 2}, {"momentum": 0.0}, {"base_lr": 0.5}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_run_goes_on_with_other_settings(tmp_path, change):
    """As in Caffe, where a snapshot's history depends on the type of the solver only."""
    first = solver(tmp_path, max_iter=3)
    first.run()
    second = solver(tmp_path, **change)
    second.restore(tmp_path / "run_snapshots")
    second.step(1)
    third = solver(tmp_path)
    third.restore(tmp_path / "run_snapshots")
    third.step(1)
    weights = [job.variables["params"]["ip"]["weight"] for job in (second, third)]
    assert np.isfinite(weights[0]).all()
    assert (weights[0] != weights[1]).any()


def test_another_type_is_told(tmp_path):
    solver(tmp_path, type="Adam", max_iter=2).run()
    job = solver(tmp_path)
    with pytest.raises(JaffeError) as caught:
        job.restore(tmp_path / "run_snapshots")
    path = tmp_path / "run_snapshots"
    assert str(caught.value) == (
        f"{path} is a snapshot of a run with solver Adam; this run's is SGD. The weights alone can be taken: jaffe "
        f"convert {path} weights.npz --net NET, then weights (--weights)")


def test_clip():
    clip = clip_by_norm(2.5)
    state = clip.init({})
    for factor, expected in ((1, [1.5, 2]), (0.5, [1.5, 2]), (0.25, [0.75, 1])):
        clipped, _ = clip.update({"w": jnp.array([3.0, 4.0]) * factor}, state)
        np.testing.assert_allclose(clipped["w"], expected, rtol=1e-6)
    clipped, _ = clip_by_norm(0).update({"w": jnp.zeros(3)}, state)
    np.testing.assert_array_equal(clipped["w"], np.zeros(3))


def test_adam_is_precise_in_its_first_steps():
    """``1 - b2^t`` of float32 powers would be off by 3e-6."""
    adam, b1, b2 = scale_by_caffe_adam(0.9, 0.999, 1e-8), np.float64(np.float32(0.9)), np.float64(np.float32(0.999))
    adam = scale_by_caffe_adam(float(b1), float(b2), 1e-8)
    gradients = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    state, m, v = adam.init({"w": jnp.zeros(5)}), np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients.astype(np.float64), 1):
        update, state = adam.update({"w": jnp.asarray(g, jnp.float32)}, state)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        expected = np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(update["w"], expected, rtol=6e-7)


TWO_LAYERS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { } param { DECAY } inner_product_param
        { num_output: 5 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { } param { DECAY } inner_product_param
        { num_output: 2 weight_filler { type: "xavier" } bias_filler { value: -0.5 } } }
layer { name: "loss" type: "Reduction" bottom: "b" top: "loss" loss_weight: 1 }
"""
LIKE_OPTAX = {
    "AdamW": (dict(), optax.adamw(0.01, weight_decay=0.1)),
    "AdamW, other numbers": (dict(momentum=0.8, momentum2=0.95, delta=1e-3),
                             optax.adamw(0.01, 0.8, 0.95, 1e-3, weight_decay=0.1)),
    "Lion": (dict(), optax.lion(0.01, weight_decay=0.1)),
    "Lion, other numbers": (dict(momentum=0.8, momentum2=0.95), optax.lion(0.01, 0.8, 0.95, weight_decay=0.1)),
    "LAMB": (dict(), optax.lamb(0.01, weight_decay=0.1)),
    "LARS": (dict(trust_coefficient=0.02), optax.lars(0.01, weight_decay=0.1, trust_coefficient=0.02)),
    "LARS, other momentum": (dict(momentum=0.5), optax.lars(0.01, weight_decay=0.1, momentum=0.5)),
}


def updates(net, optimizer, params, scale=1.0):
    """Parameters after each of four updates with random gradients."""
    random, state, result = np.random.default_rng(0), optimizer.init(params), []
    for _ in range(4):
        gradients = jax.tree.map(lambda w: jnp.asarray(scale * random.normal(size=w.shape), jnp.float32), params)
        update, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, update)
        result.append(params)
    return result


@pytest.mark.parametrize("name", LIKE_OPTAX)
def test_later_types_are_those_of_optax(name):
    settings, reference = LIKE_OPTAX[name]
    net = compile_net(TWO_LAYERS.replace("DECAY", ""), phase="TRAIN")
    params = net.init(jax.random.key(0))["params"]
    own = make_optimizer(SolverParameter(type=name.split(",")[0], base_lr=0.01, lr_policy="fixed", weight_decay=0.1,
                                         iter_size=2, **settings), net)
    for found, expected in zip(updates(net, own, params, 2.0), updates(net, reference, params), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), found, expected)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_changes_no_weight(name, bad):
    """Neither a gradient that is not, nor an update of finite numbers."""
    net = compile_net(TWO_LAYERS.replace("DECAY", ""), phase="TRAIN")
    params = net.init(jax.random.key(0))["params"]
    optimizer = make_optimizer(SolverParameter(type=name, base_lr=100, lr_policy="fixed", delta=0, momentum=0.9,
                                               trust_coefficient=1e38), net)
    gradients = jax.tree.map(jnp.ones_like, params)
    layer, weight = next((layer, name) for layer in params for name in params[layer])
    gradients[layer][weight] = gradients[layer][weight].ravel().at[0].set(bad).reshape(params[layer][weight].shape)
    state = begin({"params": params, "state": {}}, optimizer, jax.random.key(1))
    new, metrics = jax.jit(make_update(optimizer, 0.0))(state, gradients, {}, jnp.ones(()))
    updated = optax.apply_updates(params, optimizer.update(gradients, state.opt_state, params)[0])
    finite = np.isfinite(bad) and all(np.isfinite(one).all() for one in jax.tree.leaves(updated))
    assert bool(metrics["finite"]) == finite
    close = partial(np.testing.assert_allclose, rtol=1e-6) if finite else np.testing.assert_array_equal
    jax.tree.map(close, new.params, updated if finite else params)
    assert not (name in TRACED and finite)


@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_biases_without_decay_have_no_trust_ratio(name):
    """optax's mask of the same two classes of weights."""
    net = compile_net(TWO_LAYERS.replace("DECAY", "decay_mult: 0"), phase="TRAIN")
    params = net.init(jax.random.key(0))["params"]
    mask = {layer: {"weight": True, "bias": False} for layer in params}
    reference = (optax.lars(0.01, 0.1, weight_decay_mask=mask, trust_ratio_mask=mask) if name == "LARS" else
                 optax.chain(optax.scale_by_adam(eps=1e-6), optax.add_decayed_weights(0.1, mask),
                             optax.masked(optax.scale_by_trust_ratio(), mask), optax.scale(-0.01)))
    own = make_optimizer(SolverParameter(type=name, base_lr=0.01, lr_policy="fixed", weight_decay=0.1), net)
    for found, expected in zip(updates(net, own, params), updates(net, reference, params), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), found, expected)


def own(optimizer, net=None, **settings):
    """A solver whose update is the caller's."""
    plain = dict(max_iter=8, display=2, random_seed=7, test_iter=[2], test_interval=4)
    return jaffe.Solver(net=net or NET, data=items(), optimizer=optimizer, **{**plain, **settings})


def test_an_optimizer_of_optax():
    """SGD with momentum, written with optax, is Caffe's where nothing decays and the rate is constant."""
    net = NET.replace("lr_mult: 2 decay_mult: 0", "lr_mult: 1")
    caffe = solver(net=net, lr_policy="fixed", weight_decay=0.0)
    losses = own(optax.sgd(0.05, momentum=0.9), net).step(6)
    np.testing.assert_allclose(losses, caffe.step(6), rtol=1e-5)


def test_multipliers_hold_for_an_optimizer_of_optax():
    job = own(optax.adamw(0.01, weight_decay=1.0), NET.replace("param { lr_mult: 1 }", "param { lr_mult: 0 }"))
    before = job.variables["params"]["ip"]
    job.step(3)
    after = job.variables["params"]["ip"]
    same(before["weight"], after["weight"])  # frozen: neither moved nor decayed
    assert (np.asarray(before["bias"]) != after["bias"]).all()


def test_rate_and_loss_of_an_optimizer_of_optax(tmp_path):
    """The rate is shown where optax keeps it; reduce_on_plateau gets the loss; a run goes on exactly."""
    schedule = optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.0, 10))
    make = lambda: optax.chain(schedule, optax.contrib.reduce_on_plateau(patience=2))  # noqa: E731
    whole = own(make())
    whole.run()
    assert all(row["lr"] is not None for row in whole.metrics.training())
    own(make(), max_iter=3, snapshot_prefix=str(tmp_path / "run")).run()
    rest = own(make(), snapshot_prefix=str(tmp_path / "run"))
    rest.run(tmp_path / "run_snapshots")
    same(rest.state, whole.state)
    with pytest.raises(JaffeError, match="a run with solver optax; this run's is SGD"):
        solver().restore(tmp_path / "run_snapshots")
    assert own(optax.sgd(0.1)).learning_rate(0) is None


def test_settings_that_an_optimizer_replaces():
    with pytest.raises(SpecError) as caught:
        own(optax.sgd(0.1), base_lr=0.1, momentum=0.9)
    assert str(caught.value) == ("optimizer= replaces the solver's update: base_lr, momentum would not be read; say it "
                                 "to the optimizer")


def test_averaged_weights():
    """ema += (1 - d) (w - ema), d = min(ema_decay, (1 + t) / (10 + t)); they are what is tested."""
    job = solver(ema_decay=0.5)
    average = job.variables["params"]
    for t in range(6):
        job.step(1)
        d = min(0.5, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, w, d=d: a + (1 - d) * (w - a), average, job.variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), job.state.ema, average)
    (tested,) = job.test()
    evaluation = job.tests[0]
    assert tested == evaluation.run({"params": job.state.ema, "state": job.state.net_state}, job.net)
    assert tested != evaluation.run(job.variables, job.net)


def test_averaging_can_begin_and_end_on_resume(tmp_path):
    solver(tmp_path, max_iter=3, ema_decay=0.9).run()
    plain = solver()
    plain.restore(tmp_path / "run_snapshots")
    assert plain.state.ema is None
    plain.step(1)
    solver(tmp_path / "plain", max_iter=3).run()
    averaged = solver(ema_decay=0.9)
    averaged.restore(tmp_path / "plain" / "run_snapshots")
    same(averaged.state.ema, averaged.variables["params"])
    averaged.step(1)
    # The average is what a snapshot's weights are for others.
    found = restore_variables(tmp_path / "run_snapshots", averaged.net.init(jax.random.key(0)))
    again = solver(ema_decay=0.9)
    again.restore(tmp_path / "run_snapshots")
    same(found["params"], again.state.ema)
