"""Nets in Python."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.netdef import L, NetSpec, P, SpecError, load, resolve, to_proto
from jaffe.netdef.blocks import conv_bn_relu, conv_relu, fc_relu, learned, max_pool


def test_spec_gives_prototxt():
    n = NetSpec("tiny")
    n.data, n.label = L.DummyData(ntop=2, shape=[{"dim": [2, 3]}, {"dim": [2]}])
    n.ip = L.InnerProduct(n.data, num_output=4, weight_filler={"type": "xavier"}, param=[{"lr_mult": 1}])
    n.relu = L.ReLU(n.ip, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu, n.label, ignore_label=255, loss_weight=2)
    expected = """
        name: "tiny"
        layer { name: "data" type: "DummyData" top: "data" top: "label"
                dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 1 }
                inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
        layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 2
                loss_param { ignore_label: 255 } }
    """
    assert n.to_proto() == load(expected).net
    assert load(str(n)).net == n.to_proto()


def test_settings_find_their_field():
    top = L.Convolution(_data(), kernel_size=5, stride=[2, 1], pool=None) if False else L.Pooling(
        _data(), pool=P.Pooling.AVE, kernel_size=np.int64(3), include={"phase": "TEST"}
    )
    layer = top.call.proto
    assert layer.pooling_param.pool == P.Pooling.AVE
    assert layer.pooling_param.kernel_size == 3
    assert layer.include[0].phase == 1
    conv = L.Deconvolution(_data(), kernel_size=4, stride=[2, 1]).call.proto.convolution_param
    assert list(conv.kernel_size) == [4]
    assert list(conv.stride) == [2, 1]
    explicit = L.Convolution(_data(), convolution_param={"num_output": 3}).call.proto
    assert explicit.convolution_param.num_output == 3


def test_settings_of_a_users_own_layer():
    layer = L.Mish(_data(), beta=1.5, names=["a", "b"], on=True).call.proto
    assert [(a.name, list(a.number), list(a.text)) for a in layer.attribute] == [
        ("beta", [1.5], []), ("names", [], ["a", "b"]), ("on", [1.0], []),
    ]


def _data():
    return L.Input(shape={"dim": [1, 1, 8, 8]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L.Convolution(_data(), kernal_size=5), "has no setting 'kernal_size'; did you mean 'kernel_size'?"),
        (lambda: L.Pooling(_data(), pool="AVG"), "pool='AVG': 'AVG' is not one of MAX, AVE, STOCHASTIC"),
        (lambda: L.Pooling(_data(), kernel_size=-1), "kernel_size=-1:"),
        (lambda: L.ReLU(_data(), _data(), in_place=True), "in_place needs one input and one output; found 2 and 1"),
        (lambda: L.InnerProduct(_data(), weight_filler={"typ": "x"}), "no field 'typ'; did you mean 'type'?"),
    ],
)
def test_wrong_settings_name_the_line(make, message):
    with pytest.raises(SpecError) as caught:
        make()
    assert message in str(caught.value)
    assert "test_builder.py:" in str(caught.value)


def test_inputs_are_tops():
    with pytest.raises(TypeError, match="inputs are outputs of other layers; received str"):
        L.ReLU("data")


def test_errors_point_to_the_python_line():
    n = NetSpec()
    n.data = _data()
    n.ip = L.InnerProduct(n.data)
    assert resolve(n).node("ip").location.startswith("test_builder.py:")


def test_blocks_and_automatic_names():
    n = NetSpec()
    n.data = _data()
    n.block = conv_relu(n.data, 4, 3, param=learned())
    n.pool = max_pool(n.block)
    n.bn = conv_bn_relu(n.pool, 4, 1)
    n.fc = fc_relu(n.bn, 7)
    text = str(resolve(n))
    assert text == """net (unnamed) TEST
  data = Input<data>()
  Convolution1 = Convolution<Convolution1>(data)
  Convolution1#1 = ReLU<block>(Convolution1)
  pool = Pooling<pool>(Convolution1#1)
  Convolution2 = Convolution<Convolution2>(pool)
  Convolution2#1 = BatchNorm<BatchNorm1>(Convolution2)
  Convolution2#2 = Scale<Scale1>(Convolution2#1)
  Convolution2#3 = ReLU<bn>(Convolution2#2)
  InnerProduct1 = InnerProduct<InnerProduct1>(Convolution2#3)
  InnerProduct1#1 = ReLU<fc>(InnerProduct1)
  -> InnerProduct1"""


def test_to_proto_of_tops():
    net = to_proto(L.ReLU(_data()))
    assert [(layer.name, list(layer.top)) for layer in net.layer] == [("Input1", ["Input1"]), ("ReLU1", ["ReLU1"])]


def test_deep_nets_do_not_recurse():
    n = NetSpec()
    top = n.data = _data()
    for _ in range(3000):
        top = L.ReLU(top)
    n.out = top
    assert len(n.to_proto().layer) == 3001


def test_in_place_chains_do_not_recurse():
    n = NetSpec()
    top = n.data = _data()
    for _ in range(3000):
        top = L.ReLU(top, in_place=True)
    n.out = top
    assert n.to_proto().layer[-1].top == ["data"]


def test_unknown_blob():
    n = NetSpec()
    n.conv1 = _data()
    with pytest.raises(AttributeError, match="the net has no blob 'conv'; did you mean 'conv1'"):
        _ = n.conv
    assert "conv1" in n
