"""What wrong calls of Net are told."""

from __future__ import annotations

import numpy as np
import pytest

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, SpecError
from tests.pycaffe.nets import SMALL


@pytest.fixture(scope="module")
def net() -> caffe.Net:
    return caffe.Net(SMALL, caffe.TEST)


X = np.zeros((3, 3, 5, 5))


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda net: net.forward(dta=X), r"^no input 'dta'; did you mean 'data'\?; expected all of data$"),
    (lambda net: net.forward(data=X, label=X), r"^no input 'label'; expected all of data$"),
    (lambda net: net.forward(data=X[:2]), r"^input 'data': expected an array of shape \(3, 3, 5, 5\); received \(2, 3, "
                                          r"5, 5\); net.blobs\['data'\].reshape\(...\) changes it$"),
    (lambda net: net.forward(data=X[:, :2]), r"received \(3, 2, 5, 5\)"),
    (lambda net: net.forward(data="cat.jpg"), r"received str"),
    (lambda net: net.forward(data=None), r"received NoneType"),
    (lambda net: net.backward(prob=X), r"^output 'prob': expected an array of shape \(3, 6\); received \(3, 3, 5, 5\)"),
    (lambda net: net.backward(data=X), r"^no output 'data'; expected all of prob$"),
    (lambda net: net.forward(start="con1"), r"^the net has no layer 'con1'; did you mean 'conv1'\?$"),
    (lambda net: net.backward(end="nothing"), r"^the net has no layer 'nothing'$"),
    (lambda net: net.forward(start="fc", end="conv1"), r"layers 3 to 1 are no part of the net, which has layers 0"),
    (lambda net: net.backward(start="conv1", end="fc"), r"layers 3 to 1 are no part of the net"),
    (lambda net: net._forward(0, 9), r"layers 0 to 9 are no part of the net"),
    (lambda net: net.forward(blobs=["fc7"]), r"^the net has no blob 'fc7'; did you mean 'fc'\?$"),
    (lambda net: net.backward(diffs=["fc7"]), r"^the net has no blob 'fc7'"),
    (lambda net: net.blobs["dat"], r"^the net has no blob 'dat'; did you mean 'data'\?$"),
    (lambda net: net.params["relu1"], r"^the net has no parameters of layer 'relu1'$"),
    (lambda net: net.top_names["fc8"], r"^the net has no layer 'fc8'; did you mean 'fc'\?$"),
    (lambda net: net.blobs["data"].reshape(0, 3), r"a blob is reshaped to whole numbers of 1 and above; received"),
    (lambda net: net.blobs["data"].reshape(1.5), r"received \(1.5,\)"),
    (lambda net: net.blobs["data"].reshape((3, 3, 5, 5)), r"received \(\(3, 3, 5, 5\),\)"),
    (lambda net: net.params["fc"][0].reshape(6, 35), r"a parameter's shape is its layer's, \(6, 36\); received \(6"),
    (lambda net: net.set_input_arrays(X, X), r"for nets whose first layer is MemoryData; found Input: write to net"
                                             r".blobs\['data'\].data instead"),
    (lambda net: net.copy_from("gone.caffemodel"), r"^gone.caffemodel: cannot be read: No such file or directory$"),
    (lambda net: net.load_hdf5("gone.h5"), r"^gone.h5: "),
    (lambda net: net.save("gone/w.caffemodel"), r"^gone/w.caffemodel: cannot be written: No such file"),
    (lambda net: net.save("gone/w"), r"^gone/w: cannot be written: No such file"),
    (lambda net: net.forward_all(data=X[:0]), r"expected arrays with as many items, 1 and more; received {'data': 0}"),
    (lambda net: net.forward_all(dat=X), r"no input 'dat'"),
    (lambda net: net.forward_backward_all(data=X, prb=X), r"the net has no input or output 'prb'; did you mean 'prob'"),
])
def test_calls(net, wrong, message):
    with pytest.raises(JaffeError, match=message):
        wrong(net)


@pytest.mark.parametrize(("arguments", "message"), [
    (("gone.prototxt", caffe.TEST), r"^gone.prototxt: cannot be read: No such file or directory$"),
    ((SMALL,), r"^a net's phase is caffe.TRAIN \(0\) or caffe.TEST \(1\); received None$"),
    ((SMALL, 2), r"received 2$"),
    ((SMALL, "test"), r"received None$"),  # taken for weights, and no phase after them
    ((SMALL, caffe.TEST, 0, None, "gone.caffemodel"), r"^gone.caffemodel: cannot be read"),
])
@pytest.mark.filterwarnings("ignore:Net.file, weights, phase")
def test_making(arguments, message):
    with pytest.raises(JaffeError, match=message):
        caffe.Net(*arguments)


def test_shapes_that_do_not_fit(net):
    """Refused before anything is computed; the net goes on when the shape is right again."""
    net.blobs["data"].reshape(3, 3, 6, 6)
    message = r"layer 'fc' .*with bottoms of shape \(3, 4, 4, 4\) its weight would be \(6, 64\); expected \(6, 36\)"
    for call in (net.reshape, net.forward):
        with pytest.raises(SpecError, match=message):
            call()
    net.blobs["data"].reshape(3, 3, 2, 2)
    with pytest.raises(SpecError, match=r"layer 'conv1' "):
        net.forward()
    net.blobs["data"].reshape(3, 3, 5, 5)
    assert net.forward(data=X)["prob"].shape == (3, 6)
    net.blobs["fc"].reshape(3, 7)
    with pytest.raises(JaffeError, match=r"blob 'fc' has shape \(3, 7\); backward expects \(3, 6\): run forward first"):
        net.backward(start="fc")
    net.forward()


def test_nets_that_do_not_fit(net, tmp_path):
    other = caffe.Net(SMALL.replace("num_output: 6", "num_output: 7"), caffe.TEST)
    with pytest.raises(JaffeError, match=r"layer 'fc' cannot be shared: expected parameters of shapes \[\(7, 36\), "
                                         r"\(7,\)\]; found \[\(6, 36\), \(6,\)\]"):
        other.share_with(net)
    net.save(tmp_path / "w.caffemodel")
    before = other.params["conv1"][0].data.copy()
    with pytest.raises(JaffeError, match=r"layer 'fc': weight: expected shape \(7, 36\); found \(6, 36\)"):
        other.copy_from(tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(other.params["conv1"][0].data, before)


def test_missing_names_are_key_errors_too(net):
    """As scripts catch them."""
    with pytest.raises(KeyError, match="the net has no blob 'fc7'"):
        _ = net.blobs["fc7"]
    assert net.blobs.get("fc7") is None
    assert "fc7" not in net.blobs
    assert list(net.blobs.copy()) == list(net.blobs)
