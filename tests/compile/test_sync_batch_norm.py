"""BatchNorm over the batches of several devices is BatchNorm of their one batch."""

from __future__ import annotations

import itertools

import jax
import numpy as np
from jax import lax

import jaffe
from tests.devices import on_devices

CAFFE = """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "y" scale_param { bias_term: true } }
"""
PSPNET = """
layer { name: "bn" type: "BN" bottom: "conv" top: "y" bn_param { momentum: 0.9 } }
"""
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: %d dim: 3 dim: 7 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param
        { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
%s
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
layer { name: "fc" type: "InnerProduct" bottom: "y" top: "fc" inner_product_param
        { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "zero" type: "DummyData" top: "zero" dummy_data_param { shape { dim: %d dim: 2 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "zero" top: "loss" }
"""


@on_devices(4)
def test_four_devices_are_one():
    for layers, lowering in itertools.product((CAFFE, PSPNET), ("auto", "plain")):
        check(layers, lowering)


def check(layers, lowering):
    data = np.random.default_rng(0).normal(size=(12, 3, 7, 5)).astype(np.float32)
    one = jaffe.compile_net(NET % (12, layers, 12), phase="TRAIN", lowering=lowering)
    each = jaffe.compile_net(NET % (3, layers, 3), phase="TRAIN", lowering=lowering, axis_name="devices")
    variables = one.init(jax.random.key(0))

    def gradient(net, params, data):
        (loss, (_, state)), found = jax.value_and_grad(
            lambda p: net.loss({**variables, "params": p}, {"data": data}), has_aux=True)(params)
        return loss, found, state

    expected = jax.jit(lambda p, x: gradient(one, p, x))(variables["params"], data)
    found = jax.pmap(lambda p, x: lax.pmean(gradient(each, p, x), "devices"), "devices", in_axes=(None, 0),
                     out_axes=None)(variables["params"], data.reshape(4, 3, 3, 7, 5))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        # float32 sums in another order. A bias before BatchNorm has no gradient but rounding.
        scale = 1.0 if "'conv'" in str(path) and "'bias'" in str(path) else max(np.abs(b).max(), 1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * scale, err_msg=str(path))
