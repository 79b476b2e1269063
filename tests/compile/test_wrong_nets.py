"""Wrong nets, and the exact message that each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError

# An image and a label, on the first two lines of every net that asks for them with a leading {data} or {label}.
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 7 } } }\n'
LABEL = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n'

# name: (net, message)
WRONG = {
    "misspelt_field": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'kernal_size: 3 } }\n',
        "net.prototxt:2:91: ConvolutionParameter has no field 'kernal_size'; did you mean 'kernel_size'?",
    ),
    "misspelt_message": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_parm { '
        'kernel_size: 3 } }\n',
        "net.prototxt:2:71: LayerParameter has no field 'convolution_parm'; did you mean 'convolution_param'?",
    ),
    "bad_enum": (
        DATA + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVG '
        'kernel_size: 2 } }\n',
        "net.prototxt:2:87: PoolingParameter.PoolMethod has no value 'AVG'; did you mean 'AVE'?",
    ),
    "not_closed": (
        DATA + 'layer { name: "conv1" type: "Convolution"\n',
        "net.prototxt:2:29: Expected \"}\"",
    ),
    "text_for_number": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: "x" } }\n',
        "net.prototxt:2:103: Couldn't parse integer: \"x\"",
    ),
    "unknown_type": (
        DATA + 'layer { name: "conv1" type: "Convolutoin" bottom: "data" top: "conv1" }\n'
        'layer { name: "m" type: "Mystery" bottom: "conv1" top: "m" }\n',
        "layer 'conv1' (net.prototxt:2): unknown layer types in this net: 'Convolutoin' (did you mean "
        "'Convolution'?), 'Mystery'; jaffe.register_layer adds types of your own",
    ),
    "unknown_bottom": (
        DATA + 'layer { name: "pool1" type: "Pooling" bottom: "data" top: "pool1" pooling_param { kernel_size: 2 } '
        '}\n'
        'layer { name: "conv2" type: "Convolution" bottom: "pool" top: "conv2" convolution_param { '
        'num_output: 2 kernel_size: 3 } }\n',
        "layer 'conv2' (net.prototxt:3): bottom 'pool' is not produced by any earlier layer; did you mean "
        "'pool1'?",
    ),
    "top_twice": (
        DATA + 'layer { name: "a" type: "ReLU" bottom: "data" top: "x" }\n'
        'layer { name: "b" type: "ReLU" bottom: "data" top: "x" }\n',
        "layer 'b' (net.prototxt:3): top 'x' is already produced by layer 'a'; give it another name, or make it "
        "bottom 0 too (in place)",
    ),
    "include_and_exclude": (
        DATA + 'layer { name: "a" type: "ReLU" bottom: "data" top: "x" include { phase: TEST } exclude { phase: '
        'TRAIN } }\n',
        "layer 'a' (net.prototxt:2): has both include and exclude rules; use one kind",
    ),
    "no_type": (
        DATA + 'layer { name: "a" bottom: "data" top: "x" }\n',
        "layer 'a' (net.prototxt:2): has no type",
    ),
    "no_layers": (
        'name: "empty"\n',
        "net 'empty' has no layers in phase TEST",
    ),
    "old_format": (
        'layers { name: "c" type: CONVOLUTION }\nlayer { name: "d" type: "Input" top: "d" }\n',
        "net.prototxt:1: a net has 'layer' entries or, in Caffe's old format, 'layers'; found 1 and 1",
    ),
    "no_num_output": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'kernel_size: 3 } }\n',
        "layer 'conv1' (net.prototxt:2): expected num_output > 0; found none",
    ),
    "no_kernel": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 2 } }\n',
        "layer 'conv1' (net.prototxt:2): expected kernel_size; found none",
    ),
    "group": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 3 group: 2 } }\n',
        "layer 'conv1' (net.prototxt:2): group 2 does not divide 3 input channels and 4 outputs",
    ),
    "kernel_too_large": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 9 } }\n',
        "layer 'conv1' (net.prototxt:2): kernel (9, 9) with pad (0, 0) and dilation (1, 1) does not fit an input "
        "of (8, 7)",
    ),
    "kernel_two_ways": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3 } }\n',
        "layer 'conv1' (net.prototxt:2): expected kernel_size, or kernel_h and kernel_w; found both",
    ),
    "stride_h_alone": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 3 stride_h: 2 } }\n',
        "layer 'conv1' (net.prototxt:2): expected stride_h and stride_w; found stride_h only",
    ),
    "stride_zero": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 3 stride: 0 } }\n',
        "layer 'conv1' (net.prototxt:2): stride is positive; found (0, 0)",
    ),
    "filler": (
        DATA + 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { '
        'num_output: 4 kernel_size: 3 weight_filler { type: "xaveir" } } }\n',
        "layer 'conv1' (net.prototxt:2): weight_filler: unknown filler 'xaveir'; did you mean 'xavier'?",
    ),
    "too_many_params": (
        DATA + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { } param { } param { } '
        'inner_product_param { num_output: 4 } }\n',
        "layer 'ip' (net.prototxt:2): expected at most 2 param entries (weight, bias); found 3",
    ),
    "foreign_settings": (
        DATA + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" convolution_param { kernel_size: 2 '
        '} }\n',
        "layer 'pool' (net.prototxt:2): Pooling does not read convolution_param; expected pooling_param",
    ),
    "pool_no_kernel": (
        DATA + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" }\n',
        "layer 'pool' (net.prototxt:2): expected kernel_size, or both kernel_h and kernel_w; found neither",
    ),
    "pool_pad": (
        DATA + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 pad: '
        '2 } }\n',
        "layer 'pool' (net.prototxt:2): pad is smaller than the kernel; found pad (2, 2), kernel (2, 2)",
    ),
    "pool_global": (
        DATA + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 '
        'global_pooling: true } }\n',
        "layer 'pool' (net.prototxt:2): global_pooling takes the whole image; expected no kernel size, found one",
    ),
    "axis": (
        DATA + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: '
        '4 axis: 4 } }\n',
        "layer 'ip' (net.prototxt:2): axis 4 is out of range for a blob of 4 axes; expected -4 to 3",
    ),
    "reshape": (
        DATA + 'layer { name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param { shape { dim: 2 dim: -1 '
        'dim: 5 } } }\n',
        "layer 'r' (net.prototxt:2): cannot reshape (2, 3, 8, 7), 336 values, to (2, -1, 5)",
    ),
    "concat": (
        DATA + 'layer { name: "f" type: "Flatten" bottom: "data" top: "f" }\n'
        'layer { name: "cat" type: "Concat" bottom: "data" bottom: "f" top: "cat" }\n',
        "layer 'cat' (net.prototxt:3): bottoms agree on every axis but 1; found (2, 3, 8, 7), (2, 168)",
    ),
    "slice": (
        DATA + 'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" }\n',
        "layer 's' (net.prototxt:2): an axis of 3 does not divide into 2 equal tops; give slice_point",
    ),
    "slice_points": (
        DATA + 'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { slice_point: 5 } }\n',
        "layer 's' (net.prototxt:2): slice_point increase from above 0 to below 3; found [5]",
    ),
    "eltwise": (
        DATA + 'layer { name: "f" type: "Flatten" bottom: "data" top: "f" }\n'
        'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "f" top: "sum" }\n',
        "layer 'sum' (net.prototxt:3): bottoms have one shape; found (2, 3, 8, 7), (2, 168)",
    ),
    "eltwise_one": (
        DATA + 'layer { name: "sum" type: "Eltwise" bottom: "data" top: "sum" }\n',
        "layer 'sum' (net.prototxt:2): Eltwise takes at least 2 bottoms; found 1 (data)",
    ),
    "labels": (
        DATA + LABEL + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }\n',
        "layer 'loss' (net.prototxt:3): expected one label for each of 112 predictions (2, 8, 7); found 2 labels "
        "(2,)",
    ),
    "loss_weights": (
        DATA + LABEL + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        'inner_product_param { num_output: '
        '4 } }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: '
        '1 loss_weight: 2 }\n',
        "layer 'loss' (net.prototxt:4): expected as many loss_weight as tops (1); found 2",
    ),
    "top_k": (
        DATA + LABEL + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        'inner_product_param { num_output: '
        '4 } }\n'
        'layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" accuracy_param { '
        'top_k: 5 } }\n',
        "layer 'acc' (net.prototxt:4): expected top_k from 1 to the number of classes, 4; found 5",
    ),
    "shared_shape": (
        DATA + 'layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } '
        'inner_product_param { num_output: 4 } }\n'
        'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } inner_product_param '
        '{ num_output: 4 } }\n',
        "layer 'b' (net.prototxt:3): weight shares 'w' with layer 'a': expected shape (4, 168); found (4, 4)",
    ),
    "shared_lr": (
        DATA + 'layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" lr_mult: 1 } '
        'inner_product_param { num_output: 4 } }\n'
        'layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { name: "w" lr_mult: 2 } '
        'inner_product_param { num_output: 4 } }\n',
        "layer 'b' (net.prototxt:3): shares 'w' with layer 'a': expected the same lr_mult 1; found 2",
    ),
    "batch_norm_lr": (
        DATA + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" param { lr_mult: 1 } }\n',
        "layer 'bn' (net.prototxt:2): BatchNorm's statistics are not learned: expected lr_mult 0 in param 0; "
        "found 1",
    ),
    "scale": (
        DATA + LABEL + 'layer { name: "s" type: "Scale" bottom: "data" bottom: "label" top: "s" }\n',
        "layer 's' (net.prototxt:3): the multiplier's shape (2,) is not that of the bottom (2, 3, 8, 7) from "
        "axis 1, (3,)",
    ),
    "lrn": (
        DATA + 'layer { name: "norm" type: "LRN" bottom: "data" top: "norm" lrn_param { local_size: 4 } }\n',
        "layer 'norm' (net.prototxt:2): local_size is odd; found 4",
    ),
    "dropout": (
        DATA + 'layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" dropout_param { dropout_ratio: 1 } '
        '}\n',
        "layer 'drop' (net.prototxt:2): expected a dropout_ratio in [0, 1); found 1",
    ),
    "input_dims": (
        'input: "data"\n'
        'input_dim: 1\n'
        'input_dim: 3\n'
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n',
        "net.prototxt: expected 4 input_dim for each input (4); found 2",
    ),
    "huge": (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 100000 dim: 100000 } } }\n',
        "layer 'data' (net.prototxt:1): top 'data' of shape (100000, 100000) has 10000000000 values; expected at "
        "most 2147483647",
    ),
    "no_shape": (
        'layer { name: "mnist" type: "Data" top: "data" top: "label" data_param { batch_size: 64 } }\n',
        "layer 'mnist' (net.prototxt:1): the shape of 'data' is not in the net, only in the data: expected "
        "inputs={'data': (64, ...)} (--input data=64,...); found none",
    ),
    "propagate_down": (
        DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" propagate_down: true propagate_down: false '
        '}\n',
        "layer 'r' (net.prototxt:2): expected as many propagate_down as bottoms (1); found 2",
    ),
    "attribute": (
        DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" attribute { name: "beta" number: 1 } }\n',
        "layer 'r' (net.prototxt:2): ReLU has no attribute 'beta'; expected none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    text, message = WRONG[name]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == message
