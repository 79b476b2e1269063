"""Nets that these tests use."""

from __future__ import annotations

import numpy as np

# In-place layers, a fan-out with a Split, BatchNorm, Dropout, two losses with weights: everything that a pass in pieces
# could get wrong.
BRANCHED = """
name: "branched"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 dim: 6 dim: 6 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "elu" type: "ELU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "drop" }
layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "conv" top: "sum" reduction_param { operation: SUMSQ } loss_weight: 0.01 }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" loss_weight: 2 }
"""


def branched_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(4, 2, 6, 6)).astype(np.float32), "t": np.array([0, 3, 1, 4], np.float32)}


# As deploy files are: legacy inputs, a softmax, and everything per item.
SMALL = """
name: "small"
input: "data" input_shape { dim: 3 dim: 3 dim: 5 dim: 5 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { value: 0.1 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc"
        inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
