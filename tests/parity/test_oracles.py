"""References computed here: an ONNX model made by hand, one that jaffe wrote, OpenCV 4."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, NetParameter, write_text
from jaffe.netdef.source import load
from jaffe.netdef.weights import array_to_blob
from jaffe.parity import compare, random_inputs, run_onnx, run_opencv
from tests.parity.test_compare import KEY, NET, verdicts

ALL_EQUAL = {"conv1", "conv1#1", "pool1", "conv2", "conv2#1", "ip", "prob"}


@pytest.fixture(scope="module")
def net():
    return compile_net(NET)


@pytest.fixture(scope="module")
def variables(net):
    return net.init(KEY)


def onnx_model(variables, path, ceil: int, *, names: bool = True):
    """The net as another tool would write it: tensors of its own names, nodes named as the layers (or not)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node
    p = {f"{layer}.{name}": np.asarray(array) for layer, one in variables["params"].items()
         for name, array in one.items()}
    p["flat"] = np.array([2, -1], np.int64)
    nodes = [
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["t1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["t1"], ["t2"], "relu1"),
        node("MaxPool", ["t2"], ["t3"], "pool1", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=ceil),
        node("Conv", ["t3", "conv2.weight", "conv2.bias"], ["t4"], "conv2"),
        node("Relu", ["t4"], ["t5"], "relu2"),
        node("Reshape", ["t5", "flat"], ["t6"], "reshape"),
        node("Gemm", ["t6", "ip.weight", "ip.bias"], ["t7"], "ip", transB=1),
        node("Softmax", ["t7"], ["prob"], "softmax", axis=1),
    ]
    for one in nodes if not names else ():
        one.ClearField("name")
    if ceil == 0:
        del nodes[6:], nodes[5]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "small", [info("image", onnx.TensorProto.FLOAT, [2, 3, 8, 11])],
        [info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in p.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_onnx(net, variables, tmp_path):
    inputs = random_inputs(net)
    comparison = compare(net, variables, run_onnx(onnx_model(variables, tmp_path / "a.onnx", 1), inputs))
    assert verdicts(comparison) == dict.fromkeys(ALL_EQUAL, "equal")
    assert comparison.reference == "a.onnx"
    comparison = compare(net, variables, run_onnx(onnx_model(variables, tmp_path / "b.onnx", 1, names=False), inputs))
    assert verdicts(comparison) == dict.fromkeys(ALL_EQUAL, "not recorded") | {"prob": "equal"}
    comparison = compare(net, variables, run_onnx(onnx_model(variables, tmp_path / "c.onnx", 0), inputs))
    assert comparison.first.layer == "pool1"
    assert [one.what for one in comparison.first.explanation.confirmed] == ["the pooled size is rounded down"]


def test_onnx_that_jaffe_wrote(net, variables, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net.export_onnx(variables, tmp_path / "small.onnx")
    comparison = compare(net, variables, run_onnx(tmp_path / "small.onnx", random_inputs(net)))
    assert comparison.agrees
    assert verdicts(comparison) == dict.fromkeys(ALL_EQUAL, "equal")


def test_wrong_onnx(net, variables, tmp_path):
    path = onnx_model(variables, tmp_path / "a.onnx", 1)
    with pytest.raises(JaffeError, match=r"a.onnx: expected 2 inputs \(x, y\); found image"):
        run_onnx(path, {"x": np.zeros(1), "y": np.zeros(1)})
    with pytest.raises(JaffeError, match=r"a.onnx: onnxruntime fails: .*INVALID_ARGUMENT"):
        run_onnx(path, {"data": np.zeros((2, 3, 8, 12))})
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(JaffeError, match=r"text.onnx: is not an ONNX model"):
        run_onnx(tmp_path / "text.onnx", {"data": np.zeros(1)})


def opencv_files(variables, folder) -> tuple[str, str]:
    file = NetParameter()
    for layer in load(NET).net.layer:
        stored = variables["params"].get(layer.name, {})
        blobs = [array_to_blob(np.asarray(stored[name])) for name in ("weight", "bias") if stored]
        file.layer.add(name=layer.name, type=layer.type).blobs.extend(blobs)
    write_text(load(NET).net, folder / "small.prototxt")
    (folder / "small.caffemodel").write_bytes(file.SerializeToString())
    return str(folder / "small.prototxt"), str(folder / "small.caffemodel")


def test_opencv(net, variables, tmp_path):
    pytest.importorskip("cv2")
    prototxt, weights = opencv_files(variables, tmp_path)
    comparison = compare(net, variables, run_opencv(net, prototxt, weights, random_inputs(net)))
    assert verdicts(comparison) == dict.fromkeys(ALL_EQUAL, "equal")
    params = variables["params"]
    other = {"params": {**params, "conv2": {**params["conv2"], "bias": np.zeros(7)}}}
    prototxt, weights = opencv_files(other, tmp_path)
    comparison = compare(net, variables, run_opencv(net, prototxt, weights, random_inputs(net)))
    assert comparison.first.layer == "conv2"
    assert [one.what for one in comparison.first.explanation.confirmed] == ["no bias is added"]


def test_wrong_opencv(net, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    with pytest.raises(JaffeError, match=r"OpenCV 4\..* refuses the net: "):
        run_opencv(net, tmp_path / "gone.prototxt", tmp_path / "gone.caffemodel", random_inputs(net))
    newer = types.ModuleType("cv2")
    newer.__version__, newer.dnn = "5.0", types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "cv2", newer)
    with pytest.raises(JaffeError, match=r"OpenCV 5.0 does not read Caffe's files: pip install 'opencv-python-head"):
        run_opencv(net, "a", "b", {})
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(JaffeError, match="this reference needs cv2: pip install 'opencv-python-headless<5'"):
        run_opencv(net, "a", "b", {})
