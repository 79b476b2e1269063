"""Which way is chosen, by rules and by measuring; what is remembered; and what a net says of it."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile.lowering import ConvGeometry, Lowering, autotune, onednn
from jaffe.compile.lowering.candidates import CANDIDATES, Problem, fitting
from jaffe.compile.lowering.choose import PASSES
from jaffe.compile.lowering.costs import predicted
from jaffe.netdef.errors import JaffeError

ONE_BY_ONE = ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1))
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 16 dim: 20 dim: 20 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" }
layer { name: "loss" type: "Reduction" bottom: "norm" top: "loss" loss_weight: 1 reduction_param { operation: SUMSQ } }
"""


def test_every_candidate_has_costs():
    for which, names in CANDIDATES.items():
        for name, one in names.items():
            if name in ("fourier",):
                continue
            problem = example(which, name)
            assert one.fits(problem), (which, name)
            assert 0 <= predicted(problem, name) < float("inf"), (which, name)


def example(which, name):
    if "depthwise" in name:
        return Problem(which, (8, 64, 56, 56), (64, 1, 3, 3), ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1), 64))
    if "blocks" in name:
        return Problem(which, (8, 3, 224, 224), (64, 3, 7, 7), ConvGeometry((2, 2), ((3, 3), (3, 3)), (1, 1)))
    channels = 3 if "onehot" in name else 64
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    return Problem(which, (8, channels, 56, 56), (64, channels, 3, 3), geometry)


def test_rules_avoid_what_xla_is_slow_at(monkeypatch):
    """A 1x1 kernel is a product, one channel a group is not, and both gain most in their gradients."""
    for which in PASSES:
        for problem in (Problem(which, (8, 64, 56, 56), (64, 64, 1, 1), ONE_BY_ONE), example(which, "depthwise")):
            assert ("onednn" in Lowering().choose(problem)) == onednn.available()
    monkeypatch.setattr(onednn, "available", lambda: False)
    for which in PASSES:
        assert Lowering().choose(Problem(which, (8, 64, 56, 56), (64, 64, 1, 1), ONE_BY_ONE)) == "shifted"
        assert Lowering().choose(example(which, "depthwise")) == "depthwise"


def test_a_precision_of_few_digits_is_left_to_xla():
    assert Lowering().ways((8, 64, 56, 56), (64, 64, 1, 1), ONE_BY_ONE, jnp.bfloat16) is None
    assert Lowering().ways((8, 64, 56, 56), (64, 64, 1, 1), ONE_BY_ONE, jnp.float32) is not None


def test_tuning_measures_once_and_remembers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    autotune._read.cache_clear()
    problem = Problem("weight", (2, 16, 24, 24), (16, 16, 3, 3), ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1)))
    measured = []

    def measure(problem, names):
        measured.append(list(names))
        return {name: 0.001 if name == "rows" else 0.002 for name in names}

    monkeypatch.setattr(autotune, "WORTH_MS", 0.0)
    monkeypatch.setattr(autotune, "MOST_MEASURED", 99)
    monkeypatch.setattr(autotune, "measure", measure)
    assert autotune.tuned(problem) == "rows"
    assert set(measured[0]) == set(fitting(problem))
    autotune._read.cache_clear()  # another process
    assert autotune.tuned(problem) == "rows"
    assert len(measured) == 1
    path = autotune.remembered()
    assert tmp_path in path.parents
    assert jax.__version__.replace(".", "-") in path.name
    path.write_text("no json")
    autotune._read.cache_clear()
    assert autotune.tuned(problem) == "rows"
    assert len(measured) == 2
    assert list(json.loads(path.read_text()).values()) == ["rows"]


def test_tuning_knows_what_is_slower_within_nets(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(autotune, "WORTH_MS", 0.0)
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    for size, patches, expected in ((24, 0.9, "xla"), (25, 0.7, "im2col")):
        autotune._read.cache_clear()
        times = {"xla": 1.0, "im2col": patches}
        monkeypatch.setattr(autotune, "measure", lambda problem, names, times=times: times)
        assert autotune.tuned(Problem("forward", (2, 16, size, size), (16, 16, 3, 3), geometry)) == expected


def test_measuring_runs_every_candidate():
    problem = Problem("input", (1, 8, 6, 6), (8, 8, 3, 3), ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1)))
    times = autotune.measure(problem, ["xla", "spread", "winograd2"])
    assert list(times) == ["xla", "spread", "winograd2"]
    assert all(0 < one < 10 for one in times.values())


def test_a_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "jaffe").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="not remembered"):
        autotune._write(autotune.remembered(), {"a": "b"})


def test_a_tuned_net_is_the_plain_one(monkeypatch, tmp_path):
    """Values and gradients; tuning happens while the net is traced."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(autotune, "WORTH_MS", 0.0)
    autotune._read.cache_clear()
    nets = [jaffe.compile_net(NET, lowering="plain"), jaffe.compile_net(NET), jaffe.compile_net(NET, autotune=True)]
    variables = nets[0].init(jax.random.key(0))
    inputs = {"data": np.random.default_rng(0).normal(size=(4, 16, 20, 20)).astype(np.float32)}
    (expected, _), gradient = jax.value_and_grad(nets[0].loss, has_aux=True)(variables, inputs)
    for net in nets[1:]:
        (loss, _), found = jax.jit(jax.value_and_grad(net.loss, has_aux=True))(variables, inputs)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    assert autotune.remembered().exists()


def test_the_summary_says_what_was_chosen():
    net = jaffe.compile_net(NET)
    text = net.summary(lowering=True)
    for expected in ("forward: ", "weight: ", " ms", "slices"):
        assert expected in text
    assert "plain" in jaffe.compile_net(NET, lowering="plain").summary(lowering=True)
    assert " ms" not in net.summary()


def test_second_derivatives():
    """Of a tuned net by forward over reverse as of a plain one; forward mode alone is refused with what to do."""
    inputs = {"data": np.random.default_rng(0).normal(size=(4, 16, 20, 20)).astype(np.float32)}
    found = []
    for how in ("plain", "auto"):
        net = jaffe.compile_net(NET, lowering=how)
        variables = net.init(jax.random.key(0))
        by_bias = lambda bias, net=net, v=variables: net.loss(  # noqa: E731
            {**v, "params": {"conv": {**v["params"]["conv"], "bias": bias}}}, inputs)[0]
        found.append(jax.hessian(by_bias)(variables["params"]["conv"]["bias"]))
        if how == "plain":
            jax.jvp(by_bias, (jnp.zeros(32),), (jnp.ones(32),))
        else:
            with pytest.raises(JaffeError, match='lowering="plain"'):
                jax.jvp(by_bias, (jnp.zeros(32),), (jnp.ones(32),))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3 * np.abs(found[0]).max())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"lowering": "fast"}, '"auto" or "plain"; received \'fast\''),
    ({"lowering": "plain", "autotune": True}, "nothing to tune"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(JaffeError, match=message):
        jaffe.compile_net(NET, **arguments)
