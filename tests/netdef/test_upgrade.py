"""Old formats: what becomes of V0 and V1 entries, input fields and solver enums, and where errors are located."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.netdef import (
    NetParameter,
    NetState,
    SolverParameter,
    SpecError,
    format_text,
    load,
    resolve,
    upgrade_net,
    upgrade_solver,
)
from jaffe.netdef.jaffe_pb2 import LayerParameter, V0LayerParameter, V1LayerParameter
from jaffe.netdef.text import parse_text
from jaffe.netdef.upgrade import upgrade
from jaffe.netdef.upgrade_v0 import _FIELDS, _TRANSFORM, _UNUSED

# Section 0 of the inventory of Caffe: how each type is spelt today.
TYPES = """
    ABSVAL AbsVal ACCURACY Accuracy ARGMAX ArgMax BNLL BNLL CONCAT Concat CONTRASTIVE_LOSS ContrastiveLoss
    CONVOLUTION Convolution DATA Data DECONVOLUTION Deconvolution DROPOUT Dropout DUMMY_DATA DummyData
    EUCLIDEAN_LOSS EuclideanLoss ELTWISE Eltwise EXP Exp FLATTEN Flatten HDF5_DATA HDF5Data
    HDF5_OUTPUT HDF5Output HINGE_LOSS HingeLoss IM2COL Im2col IMAGE_DATA ImageData INFOGAIN_LOSS InfogainLoss
    INNER_PRODUCT InnerProduct LRN LRN MEMORY_DATA MemoryData MULTINOMIAL_LOGISTIC_LOSS MultinomialLogisticLoss
    MVN MVN POOLING Pooling POWER Power RELU ReLU SIGMOID Sigmoid
    SIGMOID_CROSS_ENTROPY_LOSS SigmoidCrossEntropyLoss SILENCE Silence SOFTMAX Softmax SOFTMAX_LOSS SoftmaxWithLoss
    SPLIT Split SLICE Slice TANH TanH WINDOW_DATA WindowData THRESHOLD Threshold
"""


def test_v1_types():
    words = TYPES.split()
    names = dict(zip(words[::2], words[1::2], strict=True))
    assert set(names) == set(V1LayerParameter.LayerType.keys()) - {"NONE"}
    for old, new in names.items():
        assert load(f"layers {{ type: {old} }}").net.layer[0].type == new
    assert load("layers { type: NONE }").net.layer[0].type == ""


V1 = """name: "old"
force_backward: true
state { phase: TRAIN stage: "s" }
layers {
  name: "d" type: DATA top: "d" top: "label"
  data_param { source: "db" batch_size: 7 scale: 0.5 mean_file: "m" crop_size: 11 mirror: true backend: LMDB }
  include { phase: TRAIN }
}
layers {
  name: "c" type: CONVOLUTION bottom: "d" top: "c"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 3
  param: "w" param: "" blob_share_mode: PERMISSIVE
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } }
}
layers { name: "l" type: SOFTMAX_LOSS bottom: "c" bottom: "label" loss_weight: 0.25 exclude { phase: TEST } }
"""
V1_UPGRADED = """name: "old"
force_backward: true
state { phase: TRAIN stage: "s" }
layer {
  name: "d" type: "Data" top: "d" top: "label"
  data_param { source: "db" batch_size: 7 backend: LMDB }
  transform_param { scale: 0.5 mean_file: "m" crop_size: 11 mirror: true }
  include { phase: TRAIN }
}
layer {
  name: "c" type: "Convolution" bottom: "d" top: "c"
  param { name: "w" lr_mult: 1 decay_mult: 3 share_mode: PERMISSIVE } param { lr_mult: 2 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" loss_weight: 0.25 exclude { phase: TEST } }
"""


def test_v1():
    source = load(V1)
    assert source.net == parse_text(V1_UPGRADED, NetParameter)
    assert source.locations == ("<text>:4", "<text>:9", "<text>:15")
    assert upgrade_net(source.net) is source.net  # nothing is left to do


def test_v1_binary_and_message(tmp_path: Path):
    """Every way in reads old nets, and leaves the message that it is given alone."""
    old = parse_text(V1, NetParameter)
    path = tmp_path / "old.caffemodel"
    path.write_bytes(old.SerializeToString())
    expected = parse_text(V1_UPGRADED, NetParameter)
    assert load(path).net == load(old).net == expected
    assert old == parse_text(V1, NetParameter)
    assert [node.type for node in resolve(path, NetState("TRAIN")).nodes] == ["Data", "Convolution", "SoftmaxWithLoss"]


def test_every_v1_setting_survives():
    """All messages that a V1 entry can hold are those of a layer under the same name."""
    for field in V1LayerParameter.DESCRIPTOR.fields:
        if field.name.endswith("_param"):
            old = NetParameter()
            getattr(old.layers.add(), field.name).SetInParent()
            assert upgrade_net(old).layer[0].HasField(field.name), field.name


@pytest.mark.parametrize(
    ("kind", "own", "stays"),
    [
        ("DATA", "data_param", False),
        ("IMAGE_DATA", "image_data_param", False),
        ("WINDOW_DATA", "window_data_param", True),
    ],
)
def test_transform_settings_of_data_layers(kind, own, stays):
    layer = load(f'layers {{ type: {kind} {own} {{ scale: 0.5 crop_size: 3 mirror: true mean_file: "m" }} '
                 "transform_param { mean_value: 7 } }").net.layer[0]
    transform, settings = layer.transform_param, getattr(layer, own)
    assert (transform.crop_size, transform.mirror, transform.mean_file) == (3, True, "m")
    assert list(transform.mean_value) == [7]
    assert (settings.scale, transform.scale) == ((0.5, 1) if stays else (1, 0.5))
    assert not settings.HasField("crop_size")


def test_transform_settings_of_the_current_format_stay():
    """As in Caffe: there they are read by nobody."""
    net = NetParameter()
    net.layer.add(type="Data").data_param.scale = 0.5
    assert upgrade_net(net) is net


V0 = """name: "first"
input: "x"
input_dim: 2 input_dim: 3 input_dim: 17 input_dim: 19
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "x" top: "padded" }
layers {
  layer {
    name: "conv" type: "conv" num_output: 5 kernelsize: 3 stride: 2 group: 1 biasterm: false
    weight_filler { type: "gaussian" std: 0.01 } blobs_lr: 1. weight_decay: 0.5
  }
  bottom: "padded" top: "conv"
}
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "pad2" type: "padding" pad: 1 } bottom: "conv" top: "p" }
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "p" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 2 beta: 0.5 k: 7 } bottom: "pool" top: "norm" }
layers { layer { name: "fc" type: "innerproduct" num_output: 11 } bottom: "norm" top: "fc" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.25 } bottom: "fc" top: "drop" }
"""
V0_UPGRADED = """name: "first"
layer { name: "input" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 17 dim: 19 } } }
layer {
  name: "conv" type: "Convolution" bottom: "x" top: "conv" param { lr_mult: 1 decay_mult: 0.5 }
  convolution_param {
    num_output: 5 kernel_size: 3 stride: 2 group: 1 bias_term: false pad: 2
    weight_filler { type: "gaussian" std: 0.01 }
  }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }
}
layer {
  name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 alpha: 2 beta: 0.5 k: 7 }
}
layer { name: "fc" type: "InnerProduct" bottom: "norm" top: "fc" inner_product_param { num_output: 11 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "drop" dropout_param { dropout_ratio: 0.25 } }
"""


def test_v0():
    source = load(V0)
    assert source.net == parse_text(V0_UPGRADED, NetParameter)
    # lines stay right where padding layers, and the input fields, are no layers any more
    assert [where.removeprefix("<text>:") for where in source.locations] == [
        "<text>", "5", "12", "14", "15", "16", "17"
    ]
    assert upgrade(parse_text(V0, NetParameter)).changes == (
        "8 layers of the first format (V0)",
        "2 padding layers folded into the layers that read them",
        "6 layers entries written as layer",
        "input fields written as an Input layer",
    )


def test_v0_pads_add_up():
    layer = load('input: "x" layers { layer { type: "padding" pad: 2 } bottom: "x" top: "x" }\n'
                 'layers { layer { type: "conv" pad: 1 } bottom: "x" top: "y" }').net.layer[-1]
    assert list(layer.convolution_param.pad) == [3]
    assert layer.bottom == ["x"]


def test_v0_padding_counts_until_its_blob_is_written_again():
    source = load('layers { layer { type: "padding" pad: 2 } bottom: "x" top: "p" }\n'
                  'layers { layer { type: "pool" } bottom: "p" top: "p" }\n'
                  'layers { layer { type: "relu" } bottom: "p" }')
    assert [layer.pooling_param.pad for layer in source.net.layer] == [2, 0]
    assert [list(layer.bottom) for layer in source.net.layer] == [["x"], ["p"]]


def test_v0_data_layers():
    data, images, windows = load("""
    layers { layer { type: "data" source: "db" batchsize: 3 scale: 0.5 meanfile: "m" cropsize: 5 mirror: true
                     rand_skip: 7 } }
    layers { layer { type: "images" source: "list" batchsize: 3 shuffle_images: true new_height: 11 new_width: 13 } }
    layers { layer { type: "window_data" source: "w" det_fg_threshold: 0.25 det_bg_threshold: 0.125 scale: 0.5
                     det_fg_fraction: 0.75 det_context_pad: 17 det_crop_mode: "square" cropsize: 5 } }
    """).net.layer
    assert data == parse_text('type: "Data" data_param { source: "db" batch_size: 3 rand_skip: 7 } '
                              'transform_param { scale: 0.5 mean_file: "m" crop_size: 5 mirror: true }', LayerParameter)
    assert images == parse_text('type: "ImageData" image_data_param { source: "list" batch_size: 3 shuffle: true '
                                'new_height: 11 new_width: 13 }', LayerParameter)
    assert windows == parse_text(
        'type: "WindowData" window_data_param { source: "w" scale: 0.5 fg_threshold: 0.25 bg_threshold: 0.125 '
        'fg_fraction: 0.75 context_pad: 17 crop_mode: "square" } transform_param { crop_size: 5 }', LayerParameter
    )


def test_every_v0_field_is_known():
    """In one of the tables, or among the two that nothing reads."""
    fields = {field.name for field in V0LayerParameter.DESCRIPTOR.fields}
    elsewhere = {"name", "type", "blobs", "blobs_lr", "weight_decay"}
    assert fields - elsewhere - set(_FIELDS) - set(_TRANSFORM) == set(_UNUSED) == {"new_num", "new_channels"}


def test_v0_fields_that_nothing_reads():
    old = parse_text('layers { layer { type: "images" source: "list" new_num: 3 new_channels: 5 } }', NetParameter)
    done = upgrade(old)
    assert done.net == parse_text('layer { type: "ImageData" image_data_param { source: "list" } }', NetParameter)
    assert done.changes[1] == "new_num and new_channels, which no layer reads, left out of 1 layer"


def test_sizes_without_an_input():
    """Caffe looks at ``input`` only."""
    text = 'layer { name: "r" type: "ReLU" bottom: "a" top: "r" }'
    for sizes in ("input_dim: 3", "input_shape { dim: 3 }"):
        done = upgrade(parse_text(f"{sizes} {text}", NetParameter))
        assert done.net == parse_text(text, NetParameter)
        assert done.origins == (0,)
        assert done.changes == ("sizes of inputs, but no input: dropped",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layers { layer { name: "a" type: "cnv" } }', "layer 'a' (<text>:1): unknown layer type 'cnv' of the V0 "
         "format; did you mean 'conv'?"),
        ('\nlayers { layer { name: "a" type: "relu" kernelsize: 3 } }',
         "layer 'a' (<text>:2): relu does not read kernelsize; expected it on conv or pool"),
        ('layers { layer { name: "p" type: "padding" pad: 4294967295 } bottom: "x" top: "p" }\n'
         'layers { layer { name: "c" type: "conv" pad: 1 } bottom: "p" top: "c" }',
         "layer 'c' (<text>:2): pad 1 and that of 'p', 4294967295, are too large"),
        ('layers { layer { name: "a" type: "relu" hdf5_output_param { } } }',
         "layer 'a' (<text>:1): relu does not read hdf5_output_param; expected it on hdf5_output"),
        ('layers { layer { name: "a" type: "images" new_width: -3 } }',
         "layer 'a' (<text>:1): new_width is not negative; found -3"),
        ('layers { layer { name: "a" type: "relu" } name: "b" blobs_lr: 2 }',
         "layer 'a' (<text>:1): an entry with 'layer' inside holds its settings there; found name, blobs_lr beside it"),
        ('layers { layer { name: "p" type: "padding" } top: "p" }',
         "layer 'p' (<text>:1): padding takes 1 bottom and 1 top; found 0 and 1"),
        ('layers { layer { name: "p" type: "padding" } bottom: "x" top: "p" }\n'
         'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
         "layer 'r' (<text>:2): reads the padding layer 'p': expected conv or pool, with 1 bottom; found 'relu', "
         "with 1"),
        ("layers { type: CONVOLUTON }",
         "<text>:1:16: V1LayerParameter.LayerType has no value 'CONVOLUTON'; did you mean 'CONVOLUTION'?"),
        ('layers { type: "Convolution" }',
         "<text>:1:16: expected a value of V1LayerParameter.LayerType, without quotes; found \"Convolution\"; "
         "did you mean 'CONVOLUTION'?"),
        ("layer { type: CONVOLUTION }", "<text>:1:15: expected a text in quotes; found CONVOLUTION"),
        ('layer { type: "Input" }\nlayers { type: RELU }',
         "<text>:2: a net has 'layer' entries or, in Caffe's old format, 'layers'; found 1 and 1"),
        ('input: "a" input: "b" input_dim: 1\n', "<text>: expected 4 input_dim for each input (8); found 1"),
        ('input: "a" input: "b" input_shape { dim: 1 }\n',
         "<text>: expected an input_shape for each input (2); found 1"),
        ('input: "a" input_dim: ${BATCH}\n',
         "<text>:1:23: ${BATCH} is a placeholder that some script fills in; put a value in its place"),
        ('input: "a"\ninput_dim: $#batch#$\n',
         "<text>:2:12: $#batch#$ is a placeholder that some script fills in; put a value in its place"),
    ],
)
def test_messages(text, message):
    with pytest.raises(SpecError) as caught:
        load(text)
    assert str(caught.value) == message


def test_graph_errors_name_the_line_of_an_old_layer():
    with pytest.raises(SpecError) as caught:
        resolve(V0 + 'layers { layer { name: "last" type: "relu" } bottom: "padded" top: "z" }')
    assert str(caught.value).startswith("layer 'last' (<text>:18): reads the padding layer 'pad'")
    with pytest.raises(SpecError) as caught:
        resolve(V0 + 'layers { layer { name: "last" type: "relu" } bottom: "pol" top: "z" }')
    assert str(caught.value) == (
        "layer 'last' (<text>:18): bottom 'pol' is not produced by any earlier layer; did you mean 'pool'?"
    )


@pytest.mark.parametrize(
    ("layers", "tops"),
    [
        ('layer { type: "ReLU" bottom: "a" top: "r" }', ["a"]),  # some layer reads it
        ('layer { type: "Data" top: "a" top: "b" } layer { type: "ReLU" bottom: "a" top: "r" }', []),
        ("", []),
    ],
)
def test_inputs_without_sizes(layers, tops):
    net = upgrade_net(parse_text(f'input: "a" input: "b" {layers}', NetParameter))
    assert [top for layer in net.layer if layer.type == "Input" for top in layer.top] == tops
    assert not net.input


def test_input_layer_beside_a_layer_of_its_name():
    net = load('input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n'
               'layer { name: "input" type: "ReLU" bottom: "a" top: "r" }').net
    assert [layer.name for layer in net.layer] == ["input_", "input"]


def test_batch_norm_of_three_learned_parameters():
    text = ('layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" param { lr_mult: 1 name: "m" } param { } '
            "param { lr_mult: 0 decay_mult: 0 } }")
    layer = load(text).net.layer[0]
    assert [(spec.lr_mult, spec.decay_mult, spec.name) for spec in layer.param] == [(0, 0, "m"), (0, 0, ""), (0, 0, "")]
    fixed = NetParameter(layer=[layer])
    assert upgrade_net(fixed) is fixed


@pytest.mark.parametrize(
    ("old", "new"),
    [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"),
     ("ADADELTA", "AdaDelta"), ("ADAM", "Adam")],
)
def test_solver_type(old, new):
    solver = parse_text(f"solver_type: {old} base_lr: 0.5", SolverParameter)
    assert upgrade_solver(solver) == SolverParameter(type=new, base_lr=0.5)
    assert solver.HasField("solver_type")


def test_nets_inside_a_solver():
    solver = SolverParameter()
    solver.net_param.CopyFrom(parse_text(V1, NetParameter))
    solver.test_net_param.add().CopyFrom(parse_text(V0, NetParameter))
    solver = upgrade_solver(solver)
    assert solver.net_param == parse_text(V1_UPGRADED, NetParameter)
    assert solver.test_net_param[0] == parse_text(V0_UPGRADED, NetParameter)


def test_solver_with_both_types():
    with pytest.raises(SpecError, match=r"^solver.prototxt: solver_type is the old form of type; expected one of them"):
        upgrade_solver(parse_text('solver_type: SGD type: "SGD"', SolverParameter), "solver.prototxt")


def test_errors_of_nets_inside_a_solver_name_its_file():
    for field in ("net_param", "train_net_param", "test_net_param"):
        solver = parse_text(f'{field} {{ layers {{ layer {{ name: "a" type: "cnv" }} }} }}', SolverParameter)
        with pytest.raises(SpecError, match=r"^layer 'a' \(solver\.prototxt\): unknown layer type 'cnv'"):
            upgrade_solver(solver, "solver.prototxt")


def test_upgraded_text_reads_back():
    net = load(V0).net
    assert load(format_text(net)).net == net
