"""Images that nets make: they do what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import compile_net
from jaffe.inspect import class_image, deep_dream, feature_maps, invert
from jaffe.netdef import JaffeError, L, NetSpec
from tests.inspect.nets import image, linear, small

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def net():
    return compile_net(small(), phase="TEST", batch=1, lowering="plain")


@pytest.fixture(scope="module")
def variables(net):
    return net.init(KEY)


def test_class_image_raises_the_score(net, variables):
    x = class_image(net, variables, 2, KEY, steps=30, jitter=1, bounds=(-1, 2))
    assert x.shape == (1, 3, 12, 12)
    assert -1 <= x.min() < x.max() <= 2
    scores = feature_maps(net, variables, x, "fc")[0]
    middle = feature_maps(net, variables, np.full((3, 12, 12), 0.5), "fc")[0]
    assert np.argmax(scores) == 2
    assert scores[2] > middle[2] + 1
    np.testing.assert_array_equal(x, class_image(net, variables, 2, KEY, steps=30, jitter=1, bounds=(-1, 2)))
    other = class_image(net, variables, 2, jax.random.key(1), steps=30, jitter=1, bounds=(-1, 2))
    assert np.abs(x - other).max() > 0.01


def test_class_image_of_a_linear_net_points_along_its_weights():
    """Plain ascent from nearly nothing goes along the gradient."""
    net, variables, weight = linear()
    x = class_image(net, variables, 1, KEY, steps=20, rate=0.01, decay=0, smooth=0, colour=1, jitter=0,
                    bounds=(-100, 100))
    assert np.corrcoef(np.ravel(x), weight[1].ravel())[0, 1] > 0.95


def test_class_image_within_what_pixels_can_be():
    net, variables, _ = linear(mean_value=[100, 110, 120], scale=0.5)
    x = np.asarray(class_image(net, variables, 0, KEY, rate=0.5, decay=0, smooth=0, colour=1, jitter=0))
    np.testing.assert_allclose(x.min((0, 2, 3)), [-50, -55, -60])
    np.testing.assert_allclose(x.max((0, 2, 3)), [77.5, 72.5, 67.5])


def test_class_image_where_all_units_are_off(net, variables):
    off = jax.tree.map(np.asarray, variables)
    off = {"params": {**off["params"], "conv": {"weight": off["params"]["conv"]["weight"], "bias": np.full(5, -3.0)}}}
    assert np.abs(feature_maps(net, off, np.full((3, 12, 12), 0.0), "conv")).max() == 0
    x = class_image(net, off, 2, KEY, steps=60, jitter=0, bounds=(-2, 2))
    assert feature_maps(net, off, x, "fc")[0, 2] > 0.1


def test_deep_dream_raises_the_norm(net, variables):
    x = np.random.default_rng(0).uniform(size=(2, 3, 20, 17)).astype(np.float32)
    dreamt = deep_dream(net, variables, x, "conv", KEY, octaves=2, steps=5, jitter=2, bounds=(0, 1))
    assert dreamt.shape == x.shape
    before, after = (np.linalg.norm(feature_maps(net, variables, one, "conv")) for one in (x, dreamt))
    assert after > 1.05 * before
    again = deep_dream(net, variables, x, "conv", KEY, octaves=2, steps=5, jitter=2, bounds=(0, 1))
    np.testing.assert_array_equal(dreamt, again)


def test_inversion_of_a_net_that_can_be_inverted():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 6, 5]))
    n.mixed = L.Convolution(n.data, num_output=3, kernel_size=1)
    net = compile_net(n)
    weight = np.array([[2, 0, 1], [0, 1, 0], [-1, 0, 1]], np.float32).reshape(3, 3, 1, 1)
    variables = {"params": {"mixed": {"weight": weight, "bias": np.ones(3, np.float32)}}}
    x = image() / 4
    found = invert(net, variables, x, "mixed", KEY, variation=0, bounds=(-1, 1))
    np.testing.assert_allclose(found, x, atol=2e-3)


def test_inversion_matches_the_blob_and_variation_smooths(net, variables):
    x = np.random.default_rng(0).uniform(size=(1, 3, 12, 12)).astype(np.float32)
    rough, smooth = (invert(net, variables, x, "pool", KEY, bounds=(0, 1), variation=v) for v in (0, 10))
    wanted = feature_maps(net, variables, x, "pool")
    errors = [np.linalg.norm(feature_maps(net, variables, one, "pool") - wanted) / np.linalg.norm(wanted)
              for one in (rough, smooth)]
    assert errors[0] < 0.05  # where a unit is off there is no gradient: the optimum is a local one
    assert errors[0] < errors[1]
    assert np.abs(np.diff(smooth, axis=3)).mean() < np.abs(np.diff(rough, axis=3)).mean()


def test_errors(net, variables):
    with pytest.raises(JaffeError, match="no blob 'convv'; did you mean 'conv'"):
        deep_dream(net, variables, np.ones((3, 12, 12)), "convv", KEY)
    with pytest.raises(JaffeError, match=r"an image of \(2, 2\) does not fit blob 'conv'; choose fewer octaves: layer"):
        deep_dream(net, variables, np.ones((3, 12, 12)), "conv", KEY, octaves=6)
    with pytest.raises(JaffeError, match=r"octaves is at least 1, and zoom above 0; received octaves=0, zoom=1\.4"):
        deep_dream(net, variables, np.ones((3, 12, 12)), "conv", KEY, octaves=0)
    with pytest.raises(JaffeError, match="rate is above 0; received 0"):
        class_image(net, variables, 0, KEY, rate=0)
    with pytest.raises(JaffeError, match="bounds are the least and the greatest value of a pixel"):
        class_image(net, variables, 0, KEY, bounds=(1, 1))
    with pytest.raises(JaffeError, match="layer 'fc'"):
        class_image(net, variables, 0, KEY, size=(20, 20))
    n = NetSpec()
    n.a, n.b = L.Input(ntop=2, shape=[dict(dim=[1, 3, 4, 4])] * 2)
    n.sum = L.Eltwise(n.a, n.b)
    with pytest.raises(JaffeError, match=r"'sum' needs a \(1, 3, 4, 4\), b \(1, 3, 4, 4\); expected one input"):
        class_image(compile_net(n), {}, 0, KEY)
