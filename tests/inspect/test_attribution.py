"""Saliency, Grad-CAM and occlusion, where the answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe import compile_net
from jaffe.inspect import grad_cam, occlusion, saliency
from jaffe.netdef import JaffeError, L, NetSpec
from tests.inspect.nets import CLASSES, SHAPE, image, linear, small

TIGHT = dict(rtol=1e-5, atol=1e-6)


def test_saliency_of_a_linear_net_is_its_weights():
    net, variables, weight = linear()
    found = saliency(net, variables, image(), [1, 3])
    np.testing.assert_allclose(found, np.abs(weight[[1, 3]]).max(1), **TIGHT)
    smooth = saliency(net, variables, image(), 2, samples=3, noise=0.5, key=jax.random.key(0))
    np.testing.assert_allclose(smooth, np.broadcast_to(np.abs(weight[2]).max(0), smooth.shape), **TIGHT)


def test_input_times_gradient_of_a_linear_net_adds_up_to_the_score():
    net, variables, weight = linear()
    x = image()
    found = saliency(net, variables, x, 2, method="input")
    np.testing.assert_allclose(found, np.abs((x * weight[2]).sum(1)), **TIGHT)


def test_the_softmax_is_looked_behind_unless_it_is_named():
    net, variables, weight = linear()
    named = saliency(net, variables, image(), 0, "prob")
    assert np.abs(named - np.abs(weight[0]).max(0)).max() > 0.1
    np.testing.assert_allclose(saliency(net, variables, image(), 0, "fc")[0], np.abs(weight[0]).max(0), **TIGHT)


def test_guided_gradients():
    """d score / dx of w2 relu(w1 x) is w1 where the unit is on and w2 is above 0."""
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 1, 4]))
    n.scale = L.Scale(n.data, axis=3)
    n.relu = L.ReLU(n.scale)
    n.fc = L.InnerProduct(n.relu, num_output=2, bias_term=False)
    w1, w2 = np.array([1, -2, 3, 4], np.float32), np.array([[0, 0, 0, 0], [5, 6, -7, 8]], np.float32)
    variables = {"params": {"scale": {"scale": w1}, "fc": {"weight": w2}}}
    net, x = compile_net(n), np.ones((1, 1, 1, 4), np.float32)
    np.testing.assert_array_equal(saliency(net, variables, x, 1)[0, 0], [5, 0, 21, 32])
    np.testing.assert_array_equal(saliency(net, variables, x, 1, method="guided")[0, 0], [5, 0, 0, 32])


def test_samples_are_the_same_for_the_same_key():
    net = compile_net(small(), phase="TEST", lowering="plain")
    variables = net.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 12))
    one, same, other = (saliency(net, variables, x, 0, samples=2, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_occlusion_of_a_linear_net():
    net, variables, weight = linear()
    (x,) = image(items=1)
    found = occlusion(net, variables, x, 3, 2, 1, fill=0.5)
    expected = [[((x - 0.5) * weight[3])[:, i : i + 2, j : j + 2].sum() for j in range(4)] for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # a difference of two scores
    assert occlusion(net, variables, x, 3, 4).shape == (2, 1)


def test_grad_cam_of_global_average_pooling_is_the_class_activation_map():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 6, 5]))
    n.conv = L.Convolution(n.data, num_output=4, kernel_size=1, weight_filler=dict(type="gaussian", std=1))
    n.drop = L.Dropout(n.conv, in_place=True)
    n.pool = L.Pooling(n.drop, pool="AVE", global_pooling=True)
    n.fc = L.InnerProduct(n.pool, num_output=3, bias_term=False, weight_filler=dict(type="gaussian", std=1))
    net = compile_net(n)
    variables = net.init(jax.random.key(3))
    maps = net.apply(variables, {"data": image()}, blobs=["conv"])[0]["conv"]
    weights = variables["params"]["fc"]["weight"]
    expected = jnp.maximum(jnp.einsum("nchw,c->nhw", maps, weights[1]), 0) / 30
    np.testing.assert_allclose(grad_cam(net, variables, image(), 1), expected, **TIGHT)
    np.testing.assert_allclose(grad_cam(net, variables, image(), 1, "conv", "fc"), expected, **TIGHT)


def test_gradients_pass_where_training_stops_them():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=SHAPE))
    n.fc = L.InnerProduct(n.data, num_output=CLASSES, param=[dict(lr_mult=0)] * 2, propagate_down=False)
    net, (_, variables, weight) = compile_net(n), linear()
    np.testing.assert_allclose(saliency(net, variables, image(), 1)[0], np.abs(weight[1]).max(0), **TIGHT)


def test_other_sizes_and_no_labels():
    """Up to the scores the net takes one size; up to a convolution's maps any."""
    net = compile_net(small(), phase="TEST", lowering="plain")
    variables = net.init(jax.random.key(0))
    assert saliency(net, variables, np.ones((5, 3, 12, 12)), 0).shape == (5, 12, 12)
    assert saliency(net, variables, np.ones((3, 17, 14)), 0, "pool").shape == (1, 17, 14)
    with pytest.raises(JaffeError, match=r"layer 'fc'.*: with inputs of shape \{'data': \(1, 3, 17, 14\)\} its weight "
                                         r"would be"):
        saliency(net, variables, np.ones((3, 17, 14)), 0)


def sequence(axis):
    n = NetSpec()
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[5, 2, 3]), dict(dim=[5, 2])])
    n.fc = L.InnerProduct(n.data, num_output=4, axis=axis)
    n.loss = L.SoftmaxWithLoss(n.fc, n.label, axis=axis)
    return compile_net(n, phase="TEST")


def test_classes_along_another_axis_are_not_taken_for_items():
    net = sequence(2)
    with pytest.raises(JaffeError, match=r"layer 'loss'.*: its classes are along axis 2 of 'fc' \(5, 2, 4\); expected "
                                         r"scores \(N, classes, ...\)"):
        saliency(net, net.init(jax.random.key(0)), np.ones((5, 2, 3)), 1)


def test_scores_of_other_items_than_the_inputs():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 4, 4]))
    n.rows = L.Reshape(n.data, shape=dict(dim=[-1, 16]))
    n.fc = L.InnerProduct(n.rows, num_output=2)
    net = compile_net(n)
    for function in (saliency, lambda *arguments: grad_cam(*arguments, "data")):
        with pytest.raises(JaffeError, match="expected scores of 2 items, as the inputs have; found 6 of them"):
            function(net, net.init(jax.random.key(0)), image()[:, :, :4, :4], 1)


def test_grad_cam_of_scores_with_places_takes_the_maps_before_them():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 6, 5]))
    n.conv = L.Convolution(n.data, num_output=4, kernel_size=3, weight_filler=dict(type="gaussian", std=1))
    n.score = L.Convolution(n.conv, num_output=2, kernel_size=2, weight_filler=dict(type="gaussian", std=1))
    net = compile_net(n)
    variables, x = net.init(jax.random.key(0)), image(items=1)
    np.testing.assert_array_equal(grad_cam(net, variables, x, 1), grad_cam(net, variables, x, 1, "conv"))


def wrong(message, function, *arguments, **settings):
    with pytest.raises(JaffeError, match=message):
        function(*arguments, **settings)


def test_errors():
    net, variables, _ = linear()
    x = image()
    wrong("'fc' has scores of 4 classes, 0 to 3; received class_=4", saliency, net, variables, x, 4)
    wrong("class_ is a number, or one for each of 2 items", saliency, net, variables, x, [1, 2, 3])
    wrong("no blob 'dta'; did you mean 'data'", saliency, net, variables, x, 1, "dta")
    wrong("method is one of gradient, guided, input; received 'guide'; did you mean 'guided'", saliency, net, variables,
          x, 1, method="guide")
    wrong(r"expected key=jax.random.key\(...\); found none", saliency, net, variables, x, 1, samples=2)
    wrong("samples is at least 1; received 0", saliency, net, variables, x, 1, samples=0, key=jax.random.key(0))
    wrong("class_ is a number, or one for each of 2 items; received 'cat'", saliency, net, variables, x, "cat")
    wrong("batch is at least 1; received 0", occlusion, net, variables, x[0], 1, 2, batch=0)
    wrong("no input 'dat'; did you mean 'data'", saliency, net, variables, {"dat": x}, 1)
    wrong("input 'data' is missing; fc needs data", saliency, net, variables, {}, 1)
    wrong("expected one image", occlusion, net, variables, x, 1, 2)
    wrong("expected a square of 1 to 5 pixels", occlusion, net, variables, x[0], 1, 6)
    wrong("fc depends on no maps", grad_cam, net, variables, x, 1)
    wrong(r"expected maps \(N, C, h, w\); blob 'fc' has shape \(2, 4\)", grad_cam, net, variables, x, 1, "fc")
    train = compile_net(small(), phase="TRAIN")
    wrong("expected a net compiled with phase='TEST'; found phase TRAIN", saliency, train, variables, x, 1)
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3]))
    n.a, n.b = L.InnerProduct(n.data, num_output=2), L.InnerProduct(n.data, num_output=2)
    wrong("which blob of net '' holds the scores of classes is not plain: name it, blob=...; its outputs are a, b",
          saliency, compile_net(n), variables, x, 1)
