"""Wrong settings of convolution's family, pooling, resampling and normalisation, and the exact message of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer

DATA = "data", input_layer("data", 2, 3, 8, 7)
VOLUME = "data", input_layer("data", 2, 3, 8, 7, 5)
FLAT = "data", input_layer("data", 2)
MASK = "data data", input_layer("data", 2, 3, 8, 7)

# name: (bottoms and their layers, type, settings, message)
WRONG = {
    "sides_and_pad": (
        DATA, "Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 0 pad_l: 1 }",
        "expected pad, or pad_t, pad_b, pad_l and pad_r; found both",
    ),
    "sides_and_pad_h": (
        DATA, "Deconvolution", "convolution_param { num_output: 4 kernel_size: 3 pad_h: 1 pad_l: 1 }",
        "expected pad_h, or pad_t, pad_b, pad_l and pad_r; found both",
    ),
    "sides_of_volumes": (
        VOLUME, "Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad_t: 1 }",
        "pad_t is for 2 spatial axes; found 3; use pad",
    ),
    "kernel_with_sides": (
        DATA, "Convolution", "convolution_param { num_output: 4 kernel_size: 12 pad_t: 1 pad_r: 2 }",
        "kernel (12, 12) with pad ((1, 0), (0, 2)) and dilation (1, 1) does not fit an input of (8, 7)",
    ),
    "deconv_pad": (
        DATA, "Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 pad: 5 }",
        "kernel (2, 2) with pad (5, 5) and dilation (1, 1) leaves no output for an input of (8, 7)",
    ),
    "deconv_group": (
        DATA, "Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 group: 3 }",
        "group 3 does not divide 3 input channels and 4 outputs",
    ),
    "deconv_shapes": (
        DATA, "Deconvolution", "convolution_param { kernel_size: 2 }",
        "expected num_output > 0; found none",
    ),
    "depthwise_group": (
        DATA, "DepthwiseConvolution", "convolution_param { kernel_size: 2 group: 1 }",
        "DepthwiseConvolution has a group for each of 3 channels; found group 1",
    ),
    "depthwise_outputs": (
        DATA, "ConvolutionDepthwise", "convolution_param { kernel_size: 2 num_output: 4 }",
        "group 3 does not divide 3 input channels and 4 outputs",
    ),
    "im2col_flat": (
        FLAT, "Im2col", "convolution_param { kernel_size: 2 axis: 0 }",
        "expected at least 1 spatial axis; found none",
    ),
    "im2col_kernel": (
        DATA, "Im2col", "convolution_param { kernel_size: 9 }",
        "kernel (9, 9) with pad (0, 0) and dilation (1, 1) does not fit an input of (8, 7)",
    ),
    "local_group": (
        DATA, "LocallyConnected", "convolution_param { num_output: 3 kernel_size: 2 group: 3 }",
        "LocallyConnected has group 1 only; found 3",
    ),
    "local_output": (
        DATA, "LocallyConnected", "convolution_param { kernel_size: 2 }",
        "expected num_output > 0; found none",
    ),
    "pool_axes": (
        FLAT, "Pooling", "pooling_param { kernel_size: 2 }",
        "expected a blob of 4 axes (N, C, H, W) or 5 (N, C, D, H, W); found (2,)",
    ),
    "pool_depth": (
        DATA, "Pooling", "pooling_param { kernel_size: 2 stride_d: 2 }",
        "stride_d is for blobs of 5 axes (N, C, D, H, W); found (2, 3, 8, 7)",
    ),
    "pool_no_depth": (
        VOLUME, "Pooling", "pooling_param { kernel_h: 2 kernel_w: 2 }",
        "expected kernel_d beside kernel_h and kernel_w; found none",
    ),
    "pool_no_stride_depth": (
        VOLUME, "Pooling", "pooling_param { kernel_size: 2 stride_h: 2 stride_w: 2 }",
        "expected stride_d beside stride_h and stride_w; found none",
    ),
    "pool_sides_and_pad": (
        DATA, "Pooling", "pooling_param { kernel_size: 2 pad: 1 pad_b: 1 }",
        "expected pad, or pad_t, pad_b, pad_l and pad_r; found both",
    ),
    "pool_sides_of_volumes": (
        VOLUME, "Pooling", "pooling_param { kernel_size: 2 pad_l: 1 }",
        "pad_l is for 2 spatial axes; found 3; use pad",
    ),
    "pool_side": (
        DATA, "Pooling", "pooling_param { kernel_size: 2 pad_b: 2 }",
        "pad is smaller than the kernel; found pad ((0, 2), (0, 0)), kernel (2, 2)",
    ),
    "pool_global_side": (
        DATA, "Pooling", "pooling_param { global_pooling: true pad_b: 2 }",
        "global_pooling needs pad 0 and stride 1; found ((0, 2), (0, 0)) and (1, 1)",
    ),
    "pool_stochastic_side": (
        DATA, "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 pad_b: 1 }",
        "padding is for MAX and AVE pooling; found pad ((0, 1), (0, 0)) with STOCHASTIC",
    ),
    "ceil_mode": (
        DATA, "Pooling", "pooling_param { kernel_size: 2 ceil_mode: false round_mode: CEIL }",
        "round_mode CEIL contradicts ceil_mode false; expected one of them",
    ),
    "spp_none": (
        DATA, "SPP", "",
        "expected a pyramid_height from 1 to 16; found none",
    ),
    "spp_pad": (
        DATA, "SPP", "spp_param { pyramid_height: 4 }",
        "8 bins on each axis of (8, 7) need kernel (1, 1) and pad (0, 1); expected pads smaller than the kernel",
    ),
    "spp_stochastic": (
        DATA, "SPP", "spp_param { pyramid_height: 2 pool: STOCHASTIC }",
        "padding is for MAX and AVE pooling; found pad (0, 1) with STOCHASTIC",
    ),
    "spp_axes": (
        VOLUME, "SPP", "spp_param { pyramid_height: 1 }",
        "expected a blob of 4 axes (N, C, H, W); found (2, 3, 8, 7, 5)",
    ),
    "mvn_axes": (
        FLAT, "MVN", "",
        "expected a blob of at least 2 axes (N, C, ...); found (2,)",
    ),
    "normalize_axes": (
        FLAT, "Normalize", "",
        "expected a blob of at least 2 axes (N, C, ...); found (2,)",
    ),
    "normalize_eps": (
        DATA, "Normalize", "norm_param { eps: -1 }",
        "eps is not negative; found -1",
    ),
    "bn_axes": (
        FLAT, "BN", "",
        "expected a blob of at least 2 axes (N, C, ...); found (2,)",
    ),
    "bn_both": (
        DATA, "BN", "bn_param { eps: 0.1 bn_mode: LEARN }",
        "bn_mode is of SegNet's BN, eps of PSPNet's; expected fields of one of them",
    ),
    "bn_momentum": (
        DATA, "BN", "bn_param { momentum: 1.5 }",
        "expected a momentum from 0 to 1; found 1.5",
    ),
    "bn_eps": (
        DATA, "BN", "bn_param { eps: -1 }",
        "eps is not negative; found -1",
    ),
    "interp_none": (
        DATA, "Interp", "",
        "expected the size as height and width, shrink_factor, zoom_factor or a second bottom; found none",
    ),
    "interp_ways": (
        DATA, "Interp", "interp_param { zoom_factor: 2 height: 3 width: 3 }",
        "expected the size as height and width, shrink_factor, zoom_factor or a second bottom; found height and "
        "width and shrink_factor or zoom_factor",
    ),
    "interp_height": (
        DATA, "Interp", "interp_param { height: 3 }",
        "expected height and width; found height only",
    ),
    "interp_zero": (
        DATA, "Interp", "interp_param { height: 3 width: 0 }",
        "expected a height and width above 0; found (3, 0)",
    ),
    "interp_factor": (
        DATA, "Interp", "interp_param { zoom_factor: 0 }",
        "shrink_factor and zoom_factor are positive; found 1 and 0",
    ),
    "interp_pad": (
        DATA, "Interp", "interp_param { zoom_factor: 2 pad_beg: 1 }",
        "pad_beg and pad_end crop: expected 0 or less; found 1 and 0",
    ),
    "interp_crop": (
        DATA, "Interp", "interp_param { zoom_factor: 2 pad_beg: -4 pad_end: -3 }",
        "pad_beg -4 and pad_end -3 leave nothing of (8, 7)",
    ),
    "interp_axes": (
        VOLUME, "Interp", "interp_param { zoom_factor: 2 }",
        "expected blobs of 4 axes (N, C, H, W); found (2, 3, 8, 7, 5)",
    ),
    "upsample_axes": (
        VOLUME, "Upsample", "",
        "expected a blob of 4 axes (N, C, H, W); found (2, 3, 8, 7, 5)",
    ),
    "upsample_scale_h": (
        DATA, "Upsample", "upsample_param { scale_h: 2 }",
        "expected scale_h and scale_w; found scale_h only",
    ),
    "upsample_scales": (
        DATA, "Upsample", "upsample_param { scale: 2 scale_h: 2 scale_w: 2 }",
        "expected scale, or scale_h and scale_w; found both",
    ),
    "upsample_no_mask": (
        DATA, "Upsample", "upsample_param { upsample_h: 4 upsample_w: 4 }",
        "upsample_h is for a bottom with a mask; found one bottom",
    ),
    "upsample_padded": (
        MASK, "Upsample", "upsample_param { upsample_h: 4 upsample_w: 4 pad_out_h: true }",
        "expected upsample_h and upsample_w, or pad_out_h; found both",
    ),
    "upsample_size_and_scales": (
        MASK, "Upsample", "upsample_param { upsample_h: 4 upsample_w: 4 scale_h: 2 scale_w: 2 }",
        "expected upsample_h and upsample_w, or scale_h; found both",
    ),
    "upsample_pad_out": (
        MASK, "Upsample", "upsample_param { scale: 3 pad_out_w: true }",
        "pad_out_w needs a scale of 2; found 3",
    ),
    "upsample_zero": (
        DATA, "Upsample", "upsample_param { scale: 0 }",
        "expected an output of at least 1 by 1; found (0, 0)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    (bottoms, inputs), kind, settings, message = WRONG[name]
    path = tmp_path / "net.prototxt"
    blobs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    path.write_text(f'{inputs}layer {{ name: "l" type: "{kind}" {blobs} top: "t" {settings} }}\n')
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == f"layer 'l' (net.prototxt:2): {message}"


def test_masks_have_the_shape_of_the_values():
    inputs = input_layer("x", 2, 3, 8, 7) + input_layer("m", 2, 3, 7, 8)
    message = r"expected a mask of the shape of the bottom, \(2, 3, 8, 7\); found \(2, 3, 7, 8\)"
    with pytest.raises(SpecError, match=message):
        compile_net(inputs + 'layer { name: "l" type: "Upsample" bottom: "x" bottom: "m" top: "t" }\n')
