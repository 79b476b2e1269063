"""What the recorded solver traces do not show: changed settings on resume, and degenerate numbers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.netdef import JaffeError
from jaffe.train.optimizer import clip_by_norm, scale_by_caffe_adam
from tests.train.test_solver import solver

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
    assert str(caught.value) == (
        f"{tmp_path / 'run_snapshots'} is a snapshot of a run with solver Adam; this one is SGD. Its weights alone can "
        "be taken: jaffe convert, then weights (--weights)")


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
