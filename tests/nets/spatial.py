"""Nets for tests: convolution, pooling and resampling."""

from __future__ import annotations

from tests.nets.case import FILL, Case, X, Y, input_layer, one

VOLUME = input_layer("x", 2, 3, 5, 7, 11)
POOL = (
    'layer { name: "pool" type: "Pooling" bottom: "x" top: "small" top: "mask" '
    'pooling_param { kernel_size: 2 stride: 2 } }\n'
)

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
        inputs=VOLUME,
    )),
    "convolution_sides": Case(one(
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 pad_t: 1 pad_l: 2 pad_r: 1 {FILL} }}",
    )),
    "deconvolution": Case(one(
        "Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 stride: 2 {FILL} }}"
    )),
    "deconvolution_two": Case(one(
        "Deconvolution", f"convolution_param {{ num_output: 2 kernel_size: 2 dilation: 2 pad_b: 1 pad_r: 2 {FILL} }}",
        bottoms="x y", tops="t u", inputs=X + Y,
    )),
    "deconvolution_1d": Case(one(
        "Deconvolution", f"convolution_param {{ axis: -2 num_output: 14 kernel_size: 3 stride: 2 group: 7 {FILL} }}"
    )),
    "deconvolution_bilinear": Case(one(
        "Deconvolution", "convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 group: 3 bias_term: false "
        'weight_filler { type: "bilinear" } }'
    )),
    "depthwise": Case(one(
        "DepthwiseConvolution", f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2 {FILL} }}"
    )),
    "depthwise_other_name": Case(one("ConvolutionDepthwise", f"convolution_param {{ kernel_size: 2 {FILL} }}")),
    "im2col": Case(one(
        "Im2col", "convolution_param { kernel_size: 3 kernel_size: 2 pad: 1 stride: 2 dilation: 1 dilation: 2 }"
    )),
    "im2col_1d": Case(one("Im2col", "convolution_param { kernel_size: 3 axis: 2 }")),
    "locally_connected": Case(one(
        "LocallyConnected", f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 pad_t: 1 {FILL} }}"
    )),
    "pooling_max": Case(one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }")),
    "pooling_mask": Case(
        one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops="t mask"), no_gradient=("mask",)
    ),
    "pooling_ave": Case(one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")),
    "pooling_stochastic": Case(one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }")),
    "pooling_global": Case(one("Pooling", "pooling_param { pool: AVE global_pooling: true }")),
    "pooling_sides": Case(one(
        "Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad_t: 2 pad_r: 1 ceil_mode: false }"
    )),
    "pooling_3d": Case(
        one("Pooling", "pooling_param { kernel_size: 3 kernel_d: 2 stride: 2 stride_d: 1 pad: 1 }", tops="t mask",
            inputs=VOLUME),
        no_gradient=("mask",),
    ),
    "pooling_3d_stochastic": Case(one(
        "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 3 }", inputs=VOLUME
    )),
    "spp": Case(one("SPP", "spp_param { pyramid_height: 2 }")),
    "spp_one": Case(one("SPP", "spp_param { pyramid_height: 1 pool: AVE }")),
    "interp": Case(one("Interp", "interp_param { height: 11 width: 3 pad_beg: -1 }")),
    "interp_two": Case(one("Interp", bottoms="x y", inputs=X + input_layer("y", 2, 5, 13, 2))),
    "interp_same": Case(one("Interp", "interp_param { zoom_factor: 1 }")),
    "upsample": Case(one("Upsample", "upsample_param { scale_h: 2 scale_w: 3 }")),
    "upsample_mask": Case(
        one("Upsample", "upsample_param { upsample_h: 7 upsample_w: 5 }", "small mask", inputs=X + POOL)
    ),
}
