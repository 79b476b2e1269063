"""Copying weights by layer name."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import compile_net, load_weights
from jaffe.netdef import JaffeError, NetParameter, SpecError, read_weights
from jaffe.netdef.weights import array_to_blob

NET = compile_net(zoo.lenet(), phase="TEST")
KEY = jax.random.key(0)


def test_from_caffemodel(tmp_path):
    bias = np.arange(10, dtype=np.float32)
    weight = np.ones((10, 500), np.float32)
    net = NetParameter()
    layer = net.layer.add(name="ip2", type="InnerProduct")
    layer.blobs.append(array_to_blob(weight))
    layer.blobs.append(array_to_blob(bias.reshape(1, 1, 1, 10)))  # as files of 2014 have it
    net.layer.add(name="elsewhere", type="InnerProduct").blobs.append(array_to_blob(bias))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    before = NET.init(KEY)
    after = load_weights(NET, before, path)
    np.testing.assert_array_equal(after["params"]["ip2"]["bias"], bias)
    np.testing.assert_array_equal(after["params"]["ip2"]["weight"], weight)
    np.testing.assert_array_equal(after["params"]["ip1"]["weight"], before["params"]["ip1"]["weight"])
    assert before["params"]["ip2"]["bias"].sum() == 0  # the given variables stay as they were


def test_every_mismatch_is_listed():
    with pytest.raises(JaffeError) as caught:
        load_weights(NET, NET.init(KEY), {"ip2": [np.zeros((3, 500)), np.zeros(10)], "conv1": [np.zeros(3)]})
    assert str(caught.value) == (
        "net 'LeNet' and the given weights do not fit (rename a layer to start it afresh):\n"
        "  layer 'ip2': weight: expected shape (10, 500); found (3, 500)\n"
        "  layer 'conv1': expected 2 blobs (weight, bias); found 1"
    )


def test_nothing_in_common():
    message = "no layer of the given weights is in net 'LeNet': found other; expected any of conv1, conv2, ip1, ip2"
    with pytest.raises(JaffeError, match=message):
        load_weights(NET, NET.init(KEY), {"other": [np.zeros(3)]})


def test_damaged_files(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"\x0a\xff")
    with pytest.raises(SpecError, match=r"is not a \.caffemodel"):
        read_weights(path)
    net = NetParameter()
    net.layer.add(name="l").blobs.add().shape.dim.extend([2**40, 2**40])
    path.write_bytes(net.SerializeToString())
    with pytest.raises(SpecError, match=r"layer 'l' .*has 0 values; expected 1208925819614629174706176"):
        read_weights(path)


def test_published_lenet(shared):
    """Weights trained by the original, on the blobs that the original computed from them."""
    folder = shared / "models"
    z = np.load(folder / "expected" / "lenet_cifar_v1_2014__lenet_iter_10000.caffemodel__lenet.prototxt.npz")
    (path,) = folder.glob("files/lenet_cifar_v1_2014/**/lenet_iter_10000.caffemodel")
    weights = read_weights(path)
    assert weights["conv1"][0].shape == (20, 1, 5, 5)
    data = next(z[key] for key in z.files if key.startswith("in:"))
    net = compile_net(zoo.lenet(), phase="TEST", batch=len(data))
    variables = load_weights(net, net.init(KEY), weights)
    outputs, _ = net.apply(variables, {"data": data, "label": np.zeros(len(data))}, blobs=["ip2"])
    probabilities = jax.nn.softmax(outputs["ip2"])
    np.testing.assert_allclose(probabilities, z["top:prob"], rtol=1e-4, atol=1e-6)
