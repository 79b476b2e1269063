"""Costs against sums done by hand, and published figures."""

from __future__ import annotations

from jaffe import L, NetSpec, zoo
from jaffe.compile import compile_net


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
