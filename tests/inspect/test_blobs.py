"""Filters, blobs, tables, and pictures of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import compile_net
from jaffe.inspect import (
    activity,
    deprocess,
    embed,
    feature_maps,
    features,
    figure,
    filters,
    overlay,
    scatter,
    tile,
)
from jaffe.netdef import JaffeError, L, NetSpec
from tests.inspect.nets import image, linear, small


@pytest.fixture(scope="module")
def net():
    return compile_net(small(), phase="TEST")


@pytest.fixture(scope="module")
def variables(net):
    return net.init(jax.random.key(0))


def test_filters(net, variables):
    weight = variables["params"]["conv"]["weight"]  # (5, 3, 3, 3), BGR
    found = filters(net, variables, "conv")
    most = np.abs(weight).max((1, 2, 3))[:, None, None]
    np.testing.assert_allclose(found[..., 0], 0.5 + weight[:, 2] / (2 * most), rtol=1e-6)
    np.testing.assert_array_equal(filters(net, variables, "conv", order="RGB"), found[..., ::-1])
    assert 0 <= found.min() < found.max() <= 1
    assert filters(net, variables, "fc").shape == (4, 5, 5, 5)
    linear_net, own, _ = linear()
    assert filters(linear_net, own, "fc").shape == (4, 6, 5, 3)


def test_filters_that_are_shared_or_nothing():
    n = NetSpec()
    n.a, n.b = L.Input(ntop=2, shape=[dict(dim=[1, 1, 4, 4])] * 2)
    for name, bottom in (("one", n.a), ("two", n.b)):
        n[name] = L.Convolution(bottom, num_output=2, kernel_size=3, bias_term=False, param=[dict(name="w")])
    net = compile_net(n)
    weight = np.zeros((2, 1, 3, 3), np.float32)
    found = filters(net, {"params": {"one": {"weight": weight}}}, "two")
    np.testing.assert_array_equal(found, np.full((2, 3, 3), 0.5, np.float32))


def test_tile():
    x = np.arange(12).reshape(3, 2, 2)
    found = tile(x)
    nothing, most = np.ones((2, 2)), 11
    expected = np.ones((5, 5))
    expected[:2, :2], expected[:2, 3:], expected[3:, :2], expected[3:, 3:] = (*x / most, nothing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert tile(x, 3, gap=0).shape == (2, 6)
    np.testing.assert_array_equal(tile(x, 3, gap=0, scale="each")[:, :2], [[0, np.float32(1 / 3)],
                                                                          [np.float32(2 / 3), 1]])
    assert tile(np.zeros((4, 2, 2, 3))).shape == (5, 5, 3)
    assert tile(np.zeros((2, 4, 3, 3))).shape == (7, 15)  # a row for each of two
    assert tile(np.zeros((1, 4, 3, 3))).shape == (7, 7)
    assert tile(np.zeros((2, 3, 3, 3))).shape == (3, 7, 3)  # colours
    assert tile(np.zeros((2, 3, 3, 3)), colour=False).shape == (7, 11)
    with pytest.raises(JaffeError, match=r"expected pictures .*; received shape \(2, 2\)"):
        tile(np.zeros((2, 2)))
    with pytest.raises(JaffeError, match="scale is one of all, each, none; received 'eac'; did you mean 'each'"):
        tile(x, scale="eac")


def test_tile_of_numbers_that_are_not_finite():
    """They leave the scale of the others alone; pictures of them alone do not warn."""
    x = np.array([[[1.0, 2.0]], [[np.nan, np.inf]], [[3.0, 5.0]]])
    np.testing.assert_allclose(tile(x, 3, gap=0), [[0, 0.25, np.nan, 1, 0.5, 1]])
    np.testing.assert_allclose(tile(x, 3, gap=0, scale="each"), [[0, 1, np.nan, 1, 0, 1]])


def test_feature_maps_need_no_labels_and_take_any_size(net, variables):
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    whole = net.apply(variables, {"data": x, "label": np.zeros(2)}, blobs=["conv", "pool"])[0]
    np.testing.assert_allclose(feature_maps(net, variables, x, "pool"), whole["pool"], rtol=1e-6)
    np.testing.assert_allclose(feature_maps(net, variables, {"data": x, "label": [0, 1]}, "conv"), whole["conv"],
                               rtol=1e-6)
    assert feature_maps(net, variables, np.ones((3, 30, 20)), "conv").shape == (1, 5, 28, 18)
    with pytest.raises(JaffeError, match="no blob 'cnv'; did you mean 'conv'"):
        feature_maps(net, variables, x, "cnv")
    with pytest.raises(JaffeError, match=r"'loss'|expected a dict with arrays for data, label"):
        feature_maps(net, variables, x, "loss")


def test_features_batch_by_batch(net, variables):
    x = np.random.default_rng(0).normal(size=(7, 3, 12, 12)).astype(np.float32)
    whole = feature_maps(net, variables, x, "fc")
    for batch in (2, 3, 7, 100):
        np.testing.assert_allclose(features(net, variables, x, "fc", batch=batch), whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(JaffeError, match="as many items of each input, at least one; received"):
        features(net, variables, x[:0], "fc")


def test_deprocess_undoes_preprocess():
    net, _, _ = linear(mean_value=[100, 110, 120], scale=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    np.testing.assert_allclose(deprocess(net, net.preprocess(pixels)), pixels, atol=1e-4)
    assert deprocess(net, np.zeros((1, 3, 9, 9))).shape == (1, 9, 9, 3)
    with pytest.raises(JaffeError, match=r"images \(N, C, H, W\) of 1 or 3 channels; received shape \(3, 9, 9\)"):
        deprocess(net, np.zeros((3, 9, 9)))


def test_embed():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 9)) + 3
    points = embed(plane)
    between = [np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (points, plane)]
    np.testing.assert_allclose(*between, atol=1e-4)  # a plane keeps its distances
    clusters = np.repeat(np.eye(3) * 20, 10, 0) + rng.normal(size=(30, 3))
    near = embed(clusters, "tsne", perplexity=5)
    assert near.shape == (30, 2)
    distances = np.linalg.norm(near[:, None] - near[None], axis=-1) + np.eye(30) * 1e9
    assert (distances.argmin(1) // 10 == np.arange(30) // 10).all()
    np.testing.assert_array_equal(near, embed(clusters, "tsne", perplexity=5))
    with pytest.raises(JaffeError, match="method is one of pca, tsne; received 'umap'"):
        embed(plane, "umap")
    with pytest.raises(JaffeError, match="expected at least 4 items of at least 2 features; received 3 of 9"):
        embed(plane[:3])


def test_embed_of_what_has_no_picture():
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[1, 2] = np.nan
    with pytest.raises(JaffeError, match="expected finite features; 1 of 6 items have NaN or infinite ones"):
        embed(x)
    with pytest.raises(JaffeError, match="the features of all 6 items are the same"):
        embed(np.ones((6, 3)), "tsne")
    with pytest.raises(JaffeError, match="t-SNE gives up to 3 dimensions; received 4"):
        embed(np.eye(6), "tsne", dimensions=4)


def test_scatter_gives_each_class_a_colour_of_its_own():
    points = np.random.default_rng(0).normal(size=(30, 2))

    def colours(labels, **settings):
        found = scatter(points[: len(labels)], labels, **settings).axes[0].collections
        return [tuple(one.get_facecolor()[0]) for one in found]

    for labels in ([3, 13, 23, 33], np.arange(30) * 40, np.arange(4.0), list("abca")):
        assert len(set(colours(labels))) == len(np.unique(labels))
    assert colours([1, 3]) == colours([0, 1, 2, 3])[1::2]  # a class of ten keeps its colour from picture to picture
    legend = scatter(points[:2], np.array([0.0, 1.0]), names=["no", "yes"]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["no", "yes"]


def test_batches_of_nothing(net, variables):
    with pytest.raises(JaffeError, match="batch is at least 1; received 0"):
        features(net, variables, np.zeros((2, 3, 12, 12)), "fc", batch=0)


def test_activity():
    n = NetSpec()
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[2, 3, 4, 4]), dict(dim=[2])])
    n.scale = L.Scale(n.data)
    n.relu = L.ReLU(n.scale, in_place=True)
    n.fc = L.InnerProduct(n.relu, num_output=2)
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    net = compile_net(n, phase="TEST")
    variables = {"params": {"scale": {"scale": np.array([1, -1, 0])},
                            "fc": {"weight": np.zeros((2, 48)), "bias": np.array([1.0, 3.0])}}}
    x = np.ones((2, 3, 4, 4), np.float32)
    table = activity(net, variables, {"data": x})
    assert list(table) == ["scale", "scale#1", "fc"]
    row = table["scale#1"]
    assert (row.layer, row.type, row.units, row.dead, row.least, row.most) == ("relu", "ReLU", 3, 2, 0, 1)
    np.testing.assert_allclose([row.mean, row.zeros, row.std], [1 / 3, 2 / 3, np.sqrt(2 / 9)], rtol=1e-6)
    assert (table["fc"].mean, table["fc"].std, table["fc"].dead) == (2, 1, 0)
    assert list(activity(net, variables, x)) == ["scale", "scale#1", "fc"]
    assert list(activity(net, variables, {"data": x, "label": [0, 1]})) == ["scale", "scale#1", "fc", "loss"]
    assert "66.7%   2 of 3" in str(table)


def test_figures(tmp_path):
    made = figure({"grey": np.eye(3), "colour": np.full((2, 2, 3), 200.0)}, columns=1)
    made.savefig(tmp_path / "x.png")
    assert [axis.get_title() for axis in made.axes] == ["grey", "colour"]
    assert made.axes[1].images[0].get_array().max() == np.float32(200 / 255)
    heat = overlay(np.zeros((8, 6, 3)), [[0, 1], [0, 0]])
    assert heat.shape == (8, 6, 3)
    assert heat[0, 5].min() > 0.1
    assert heat[7, 0].max() < 0.01
    points = scatter([[0, 1], [2, 3], [4, 5]], [0, 1, 0], names=["a", "b"])
    assert [text.get_text() for text in points.axes[0].get_legend().get_texts()] == ["a", "b"]
    for function, argument in ((figure, np.zeros((4, 2, 2))), (scatter, np.zeros((4, 3)))):
        with pytest.raises(JaffeError, match="received shape"):
            function(argument)
    with pytest.raises(JaffeError, match="received shape"):
        overlay(np.zeros((2, 2)), np.zeros(3))
    with pytest.raises(JaffeError, match="expected a label for each of 3 points"):
        scatter(np.zeros((3, 2)), [1])


def test_filter_errors(net, variables):
    with pytest.raises(JaffeError, match="the net has no layer 'con'; did you mean 'conv'"):
        filters(net, variables, "con")
    with pytest.raises(JaffeError, match=r"layer 'pool' .*: Pooling has no filters; layers that have: conv, fc"):
        filters(net, variables, "pool")
    with pytest.raises(JaffeError, match="order is 'RGB' or 'BGR'"):
        filters(net, variables, "conv", order="GRB")
    assert image().shape == (2, 3, 6, 5)
