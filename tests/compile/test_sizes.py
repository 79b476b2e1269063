"""Other batch and image sizes at call time: the same functions, compiled once for each, with the same numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError

# Fully convolutional: scores upsampled and cropped back to the image, as FCN does.
FCN = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 16 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 stride: 2 pad: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "up" type: "Deconvolution" bottom: "pool" top: "up"
  convolution_param { num_output: 2 kernel_size: 8 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" crop_param { offset: 3 } }
layer { name: "prob" type: "Softmax" bottom: "crop" top: "prob" }
"""
SIZES = ((2, 3, 16, 12), (1, 3, 23, 31))


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def test_one_compilation_for_each_size():
    net = compile_net(FCN)
    variables = net.init(jax.random.key(1))
    traced = []

    def run(variables, data):
        traced.append(data.shape)
        return net.apply(variables, {"data": data})[0]["prob"]

    jitted = jax.jit(run)
    for shape in SIZES * 3:
        assert jitted(variables, images(shape)).shape == (shape[0], 2, *shape[2:])
    assert traced == list(SIZES)


@pytest.mark.parametrize("shape", SIZES)
def test_a_net_at_another_size_is_the_net_declared_for_it(shape):
    net, declared = compile_net(FCN), compile_net(FCN, inputs={"data": shape})
    variables = net.init(jax.random.key(1))
    found = net.apply(variables, {"data": images(shape)})[0]["prob"]
    expected = declared.apply(variables, {"data": images(shape)})[0]["prob"]
    np.testing.assert_array_equal(found, expected)
    one = net.apply(variables, {"data": images(shape)[:1]})[0]["prob"]  # items do not know of each other
    np.testing.assert_allclose(found[:1], one, rtol=1e-5, atol=1e-6)


def test_an_image_size_that_the_weights_do_not_fit():
    """An InnerProduct has a weight for each place of its input; a batch of another size is no problem."""
    net = compile_net('layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 '
                      'dim: 7 } } }\nlayer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" '
                      "inner_product_param { num_output: 11 } }")
    variables = net.init(jax.random.key(1))
    assert net.apply(variables, {"data": images((13, 3, 5, 7))})[0]["fc"].shape == (13, 11)
    with pytest.raises(JaffeError) as caught:
        net.apply(variables, {"data": images((2, 3, 5, 6))})
    assert str(caught.value) == (
        "layer 'fc' (<text>:2): with inputs of shape {'data': (2, 3, 5, 6)} its weight would be (11, 90); expected "
        "(11, 105), as compiled for {'data': (2, 3, 5, 7)}"
    )
