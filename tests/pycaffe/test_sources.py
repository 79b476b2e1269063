"""Nets that read data, make data, carry state, or run the script's own layers."""

from __future__ import annotations

import sys
import types

import lmdb
import numpy as np
import pytest

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, SpecError

MEMORY = """
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }
layer { name: "sum" type: "Reduction" bottom: "data" top: "sum" reduction_param { axis: 1 } }
layer { name: "both" type: "Eltwise" bottom: "sum" bottom: "label" top: "both" }
"""


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1, 1)])
def test_memory_data(shape):
    net = caffe.Net(MEMORY, caffe.TEST)
    with pytest.raises(SpecError, match=r"layer 'd' .*has no data: expected net.set_input_arrays\(data, label"):
        net.forward()
    data = np.arange(18, dtype=np.float32).reshape(6, 1, 1, 3)
    net.set_input_arrays(data, np.arange(6).reshape(shape))
    for batch in (0, 1, 2, 0):  # after the last the first
        net.forward()
        rows = slice(2 * batch, 2 * batch + 2)
        np.testing.assert_array_equal(net.blobs["data"].data, data[rows])
        np.testing.assert_array_equal(net.blobs["label"].data, np.arange(6)[rows])
        np.testing.assert_array_equal(net.blobs["both"].data, data[rows].sum((1, 2, 3)) + np.arange(6)[rows])
    net.forward(start="sum")  # reads no batch
    np.testing.assert_array_equal(net.blobs["data"].data, data[:2])
    assert net.inputs == []


@pytest.mark.parametrize(("data", "labels", "message"), [
    ((5, 1, 1, 3), (5,), r"expected data of shape \(n, 1, 1, 3\), n a multiple of 2; received \(5, 1, 1, 3\)"),
    ((4, 3), (4,), r"expected data of shape \(n, 1, 1, 3\), n a multiple of 2; received \(4, 3\)"),
    ((0, 1, 1, 3), (0,), r"expected data of shape"),
    ((4, 1, 1, 3), (3,), r"expected labels of shape \(4,\) or \(4, 1, 1, 1\); received \(3,\)"),
    ((4, 1, 1, 3), (4, 1), r"expected labels of shape"),
])
def test_wrong_memory_data(data, labels, message):
    net = caffe.Net(MEMORY, caffe.TEST)
    with pytest.raises(SpecError, match=message):
        net.set_input_arrays(np.zeros(data), np.zeros(labels))
    with pytest.raises(SpecError, match="data and labels are arrays of numbers"):
        net.set_input_arrays(np.zeros(data), "none")


def records(path, count: int = 5) -> None:
    with lmdb.open(str(path), map_size=2**20) as env, env.begin(write=True) as transaction:
        for i in range(count):
            datum = caffe.io.array_to_datum(np.full((1, 2, 2), i, np.uint8), i)
            transaction.put(f"{i:08}".encode(), datum.SerializeToString())


def test_data_layers_read_a_batch_at_every_forward(tmp_path):
    records(tmp_path / "db")
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "d" type: "Data" top: "data" top: "label" transform_param { scale: 0.5 }
                data_param { source: "db" backend: LMDB batch_size: 3 } }
        layer { name: "twice" type: "Power" bottom: "data" top: "twice" power_param { scale: 2 } }""")
    net = caffe.Net(str(path), caffe.TEST)
    for expected in ([0, 1, 2], [3, 4, 0]):
        net.forward()
        np.testing.assert_array_equal(net.blobs["label"].data, expected)
        np.testing.assert_array_equal(net.blobs["twice"].data[:, 0, 0, 0], expected)
        np.testing.assert_array_equal(net.blobs["data"].data[:, 0, 0, 0], np.array(expected) / 2)
    net.forward(start="twice")
    np.testing.assert_array_equal(net.blobs["label"].data, [3, 4, 0])
    path.write_text(path.read_text().replace('"db"', '"gone"'))
    with pytest.raises(JaffeError, match=r"data_param.source 'gone' is not found; looked in "):
        caffe.Net(str(path), caffe.TEST)


def test_dummy_data_is_filled_once_with_constants_and_always_anew_with_others():
    net = caffe.Net("""
        layer { name: "d" type: "DummyData" top: "x" top: "t"
                dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { type: "gaussian" std: 1 }
                                   data_filler { value: 4 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5
                weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }""", caffe.TRAIN)
    assert net.inputs == []
    assert np.all(net.blobs["t"].data == 4)
    first = net.forward(blobs=["x"])["x"].copy()
    labels = net.blobs["t"].data
    labels[...] = [0, 2]  # stays, as in Caffe
    assert not np.array_equal(net.forward(blobs=["x"])["x"], first)
    np.testing.assert_array_equal(labels, [0, 2])
    scores = net.blobs["y"].data
    shifted = scores - scores.max(1, keepdims=True)
    expected = np.mean(np.log(np.exp(shifted).sum(1)) - shifted[[0, 1], [0, 2]])
    assert net.blobs["loss"].data == pytest.approx(expected, rel=1e-5)
    net.backward()
    assert net.params["ip"][0].diff.any()


def test_recurrent_state_goes_from_call_to_call():
    """h and c of an LSTM, as long as the batch is the same; backward begins where its forward began."""
    caffe.set_random_seed(2)
    net = caffe.Net("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 } } }
        layer { name: "cont" type: "Input" top: "cont" input_param { shape { dim: 1 dim: 2 } } }
        layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 4
                weight_filler { type: "uniform" min: -1 max: 1 } } }""", caffe.TRAIN)
    x = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    steps, by_input = [], []
    for t in range(3):
        steps.append(net.forward(x=x[t : t + 1], cont=np.full((1, 2), t > 0))["h"].copy())
        by_input.append(net.backward(h=np.ones((1, 2, 4)))["x"].copy())
    assert not np.array_equal(steps[0], net.forward(x=x[:1], cont=np.ones((1, 2)))["h"])
    net.forward(x=x[:1], cont=np.zeros((1, 2)))
    size = np.linalg.norm(by_input[1])
    moved = x[1:2] + 0.01 * by_input[1] / size
    change = (net.forward(x=moved, cont=np.ones((1, 2)))["h"].sum() - steps[1].sum()) / 0.01
    assert change == pytest.approx(size, rel=0.03)
    np.testing.assert_allclose(steps[0], net.forward(x=x[:1], cont=np.zeros((1, 2)))["h"], rtol=1e-6)
    net.blobs["x"].reshape(3, 2, 3)
    net.blobs["cont"].reshape(3, 2)
    whole = net.forward(x=x, cont=np.array([[0, 0], [1, 1], [1, 1]]))["h"].copy()
    np.testing.assert_allclose(whole, np.concatenate(steps), rtol=1e-5)
    net.blobs["x"].reshape(1, 1, 3)
    net.blobs["cont"].reshape(1, 1)
    fresh = net.forward(x=x[:1, :1], cont=np.ones((1, 1)))["h"]  # another batch: from zero
    np.testing.assert_allclose(fresh, steps[0][:, :1], rtol=1e-5)


OWN_LAYERS = '''
import caffe
import numpy as np


class Distance(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff = bottom[0].data - bottom[1].data
        top[0].data[...] = self.factor * np.sum(self.diff**2) / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        if propagate_down[1]:
            raise Exception("labels have no gradient")
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff[0] * self.factor * self.diff / bottom[0].num
'''
OWN_NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "y" bottom: "t" top: "loss" loss_weight: 1
        python_param { module: "own_layers" layer: "Distance" param_str: "3" } }
"""


def test_layers_of_the_script_under_the_old_name(monkeypatch, tmp_path):
    """Files that say `import caffe` run unchanged when that name stands for jaffe.pycaffe."""
    monkeypatch.setitem(sys.modules, "caffe", caffe)
    monkeypatch.setitem(sys.modules, "own_layers", types.ModuleType("own_layers"))
    exec(OWN_LAYERS, sys.modules["own_layers"].__dict__)
    with pytest.raises(SpecError, match=r"layer 'loss' .*runs Python code, .* give python_modules=\['own_layers'\]"):
        caffe.Net(OWN_NET, caffe.TRAIN)
    net = caffe.Net(OWN_NET, caffe.TRAIN, python_modules=["own_layers"])
    x, t = np.arange(6).reshape(2, 3), np.ones((2, 4))
    loss = net.forward(x=x, t=t)["loss"]
    difference = net.blobs["y"].data - t
    assert loss == pytest.approx(3 * np.sum(difference**2) / 4, rel=1e-5)
    net.backward()
    np.testing.assert_allclose(net.blobs["y"].diff, 1.5 * difference, rtol=1e-5)
    np.testing.assert_allclose(net.params["ip"][1].diff, 1.5 * difference.sum(0), rtol=1e-5)
    assert not net.blobs["t"].diff.any()
