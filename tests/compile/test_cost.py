"""Costs against sums done by hand, and published figures."""

from __future__ import annotations

import pytest

from jaffe import L, NetSpec, zoo
from jaffe.compile import compile_net
from tests.nets import NETS
from tests.nets.case import X, Y


def test_lenet_by_hand():
    cost = compile_net(zoo.lenet(), phase="TEST", batch=1).cost()
    assert cost["conv1"].params == 20 * 1 * 5 * 5 + 20
    assert cost["conv2"].params == 50 * 20 * 5 * 5 + 50
    assert cost["ip1"].params == 500 * (50 * 4 * 4) + 500
    assert cost["ip2"].params == 10 * 500 + 10
    assert cost.params == 431_080
    # two operations a multiply-add, one for each added bias
    assert cost["conv1"].flops == 2 * 25 * 20 * 24 * 24 + 20 * 24 * 24
    assert cost["conv2"].flops == 2 * 20 * 25 * 50 * 8 * 8 + 50 * 8 * 8
    assert cost["ip1"].flops == 2 * 800 * 500 + 500
    assert cost["ip2"].flops == 2 * 500 * 10 + 10
    assert cost["pool1"].flops == 20 * 12 * 12 * 4
    assert cost["conv1"].activations == 20 * 24 * 24
    assert cost["pool2"].activations == 50 * 4 * 4


def test_lenet_backward_by_hand():
    """Gradients of a product cost what the product does; of a bias one addition an output."""
    cost = compile_net(zoo.lenet(), phase="TEST", batch=1).cost()
    conv2 = 2 * 20 * 25 * 50 * 8 * 8
    assert cost["conv1"].bottom_gradient_flops == cost["data"].backward_flops == 0
    assert cost["conv1"].weight_gradient_flops == cost["conv1"].flops
    assert cost["conv2"].weight_gradient_flops == conv2 + 50 * 8 * 8
    assert cost["conv2"].bottom_gradient_flops == conv2
    assert cost["pool1"].backward_flops == cost["pool1"].flops
    assert cost["accuracy"].backward_flops == 0
    assert cost["loss"].backward_flops == cost["loss"].flops
    assert cost.backward_flops == sum(layer.backward_flops for layer in cost.layers)


@pytest.mark.parametrize(
    ("kind", "settings", "learned", "weights", "bottoms"),
    [
        # two operations an element for a multiplier, one for what is added
        ("Scale", "scale_param { bias_term: true }", ("scale", "bias"), 3 * 210, 210),
        ("Scale", "scale_param { bias_term: true } param { lr_mult: 0 }", ("bias",), 210, 210),
        ("Bias", "", ("bias",), 210, 0),
        ("PReLU", "", ("slope",), 2 * 210, 210),
        ("BatchNorm", "batch_norm_param { use_global_stats: false }", (), 0, 6 * 210),
        ("BN", "", ("slope", "bias"), 3 * 210, 3 * 210),
        ("Normalize", "", ("scale",), 2 * 210, 4 * 210),
        ("LocallyConnected", "convolution_param { num_output: 2 kernel_size: 7 kernel_size: 5 }", ("weight", "bias"),
         2 * 2 * 2 * 105 + 4, 2 * 2 * 2 * 105),
        ("Deconvolution", "convolution_param { num_output: 2 kernel_size: 3 stride: 3 bias_term: false }", ("weight",),
         2 * 210 * 2 * 9, 2 * 210 * 2 * 9),
        ("Concat", "", (), 0, 0),
    ],
)
def test_backward_by_hand(kind: str, settings: str, learned: tuple[str, ...], weights: int, bottoms: int):
    """One layer behind one that learns, on 2 x 3 x 7 x 5 = 210 values."""
    text = X + f'''layer {{ name: "before" type: "Bias" bottom: "x" top: "before" }}
        layer {{ name: "l" type: "{kind}" bottom: "before" top: "l" loss_weight: 1 {settings} }}'''
    found = compile_net(text).cost()["l"]
    assert found.gradients.weights == learned
    assert (found.weight_gradient_flops, found.bottom_gradient_flops) == (weights, bottoms)


def test_shared_out_among_bottoms():
    """A convolution of two blobs of which one needs a gradient; of the Eltwise's bottoms likewise."""
    text = X + Y + '''
        layer { name: "before" type: "Bias" bottom: "x" top: "before" }
        layer { name: "conv" type: "Convolution" bottom: "before" bottom: "y" top: "a" top: "b"
                convolution_param { num_output: 3 kernel_size: 1 } }
        layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" bottom: "y" top: "sum" loss_weight: 1 }'''
    cost = compile_net(text).cost()
    products = 2 * 210 * (2 * 3)
    assert (cost["conv"].weight_gradient_flops, cost["conv"].bottom_gradient_flops) == (products + 420, products // 2)
    assert cost["sum"].bottom_gradient_flops == cost["sum"].flops * 2 // 3


def test_lstm_backward_by_hand():
    """T N = 15, 2 inputs, 7 units: the gradients of both weights and of the input, and the way back through time."""
    for frozen in (False, True):
        text = NETS["lstm"].net.replace('name: "l"', 'name: "l" loss_weight: 1' + " param { lr_mult: 0 }" * 3 * frozen)
        text = text.replace('bottom: "x"', 'bottom: "before"').replace(
            'layer { name: "l"', 'layer { name: "before" type: "Bias" bottom: "x" top: "before" }\nlayer { name: "l"')
        found = compile_net(text).cost()["l"]
        inputs, hidden, through = 2 * 15 * 28 * 2, 2 * 15 * 28 * 7, 2 * 15 * 28 * 7 + 15 * 10 * 7
        assert found.weight_gradient_flops == (0 if frozen else inputs + hidden + 15 * 28 + through)
        assert found.bottom_gradient_flops == inputs + through * frozen


def caffenet() -> NetSpec:
    """Caffe's reference net (Krizhevsky et al. 2012, pooling before normalisation), to its last scores."""
    n = NetSpec("CaffeNet")
    n.data = L.Input(shape={"dim": [1, 3, 227, 227]})
    x = n.data
    for name, settings in {
        "1": dict(num_output=96, kernel_size=11, stride=4),
        "2": dict(num_output=256, kernel_size=5, pad=2, group=2),
        "3": dict(num_output=384, kernel_size=3, pad=1),
        "4": dict(num_output=384, kernel_size=3, pad=1, group=2),
        "5": dict(num_output=256, kernel_size=3, pad=1, group=2),
    }.items():
        n["conv" + name] = x = L.Convolution(x, **settings)
        n["relu" + name] = x = L.ReLU(x, in_place=True)
        if name in "125":
            n["pool" + name] = x = L.Pooling(x, kernel_size=3, stride=2)
        if name in "12":
            n["norm" + name] = x = L.LRN(x, local_size=5, alpha=1e-4)
    for name, width in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        n[name] = x = L.InnerProduct(x, num_output=width)
        if name != "fc8":
            n["relu_" + name] = x = L.ReLU(x, in_place=True)
            n["drop_" + name] = x = L.Dropout(x, in_place=True)
    return n


def test_caffenet_by_hand():
    cost = compile_net(caffenet()).cost()
    multiply_adds = {
        "conv1": 96 * 55 * 55 * (3 * 11 * 11),
        "conv2": 256 * 27 * 27 * (48 * 5 * 5),
        "conv3": 384 * 13 * 13 * (256 * 3 * 3),
        "conv4": 384 * 13 * 13 * (192 * 3 * 3),
        "conv5": 256 * 13 * 13 * (192 * 3 * 3),
        "fc6": 4096 * 256 * 6 * 6,
        "fc7": 4096 * 4096,
        "fc8": 1000 * 4096,
    }
    for name, count in multiply_adds.items():
        assert cost[name].flops == 2 * count + cost[name].activations, name  # and the bias of each output
    assert sum(multiply_adds.values()) == 724_406_816  # published: 724 M
    assert cost.params == 60_965_224  # published
    assert cost["norm1"].flops == 96 * 27 * 27 * (5 + 4)
    assert cost["pool5"].outputs == ((1, 256, 6, 6),)


def test_state_is_not_a_parameter():
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 } } }
    layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }"""
    cost = compile_net(text).cost()
    assert (cost.params, cost.state) == (0, 3 + 3 + 1)
