"""Nets for tests: convolution and pooling."""

from __future__ import annotations

from tests.nets.case import FILL, Case, input_layer, one

NETS = {
    "convolution": Case(one(
        "Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 stride: 2 {FILL} }}"
    )),
    "convolution_dilated": Case(one(
        "Convolution", f"convolution_param {{ num_output: 6 kernel_size: 2 dilation: 2 group: 3 {FILL} }}"
    )),
    "convolution_1d": Case(one(
        "Convolution", f"convolution_param {{ axis: -2 num_output: 2 kernel_size: 3 stride: 2 {FILL} }}"
    )),
    "convolution_3d": Case(one(
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 1 pad: 1 {FILL} }}",
        inputs=input_layer("x", 2, 3, 5, 7, 11),
    )),
    "pooling_max": Case(one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }")),
    "pooling_mask": Case(
        one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops="t mask"), no_gradient=("mask",)
    ),
    "pooling_ave": Case(one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")),
    "pooling_stochastic": Case(one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }")),
    "pooling_global": Case(one("Pooling", "pooling_param { pool: AVE global_pooling: true }")),
}
