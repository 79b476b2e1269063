"""Weights written by ``save_weights``: round trips, several sources, shared parameters, and OpenCV as a reader."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import compile_net, load_weights, save_weights, weights_report
from jaffe.netdef import JaffeError, NetParameter, SpecError, load, read_weights
from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.netdef.weights import array_to_blob, differences, write_weights

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(11)
SUFFIXES = (".caffemodel", ".caffemodel.h5", ".safetensors", ".npz")
NET = """
name: "small"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 11 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param {
  num_output: 5 kernel_h: 3 kernel_w: 2 weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "uniform" } } }
layer { name: "norm" type: "BatchNorm" bottom: "y" top: "z" }
layer { name: "scale" type: "Scale" bottom: "z" top: "s" scale_param { bias_term: true } }
layer { name: "prelu" type: "PReLU" bottom: "s" top: "s" }
layer { name: "pool" type: "Pooling" bottom: "s" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "out" inner_product_param {
  num_output: 13 weight_filler { type: "xavier" } } }
"""
SHARED = """
layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" }
        inner_product_param { num_output: 3 bias_filler { type: "uniform" } } }
layer { name: "three" type: "InnerProduct" bottom: "c" top: "d" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 3 } }
"""


def filled(net):
    """Variables with a different number everywhere."""
    return jax.tree.map(lambda x: np.asarray(RANDOM.uniform(0.5, 1.5, x.shape), np.float32), net.init(KEY))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("text", [NET, SHARED], ids=["small", "shared"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix, text):
    net = compile_net(text)
    variables = filled(net)
    path = tmp_path / f"net{suffix}"
    save_weights(net, variables, path)
    assert_equal(load_weights(net, net.init(KEY), path), variables)
    report = weights_report(net, path)
    assert not report.left
    assert not report.ignored


def test_blobs_are_caffes(tmp_path):
    """BatchNorm has mean, variance and factor; the net's declaration is in the file, which is itself a net."""
    net = compile_net(NET)
    variables = filled(net)
    path = tmp_path / "net.caffemodel"
    save_weights(net, variables, path)
    shapes = {layer: [blob.shape for blob in blobs] for layer, blobs in read_weights(path).items()}
    assert shapes == {"conv": [(5, 3, 3, 2), (5,)], "norm": [(5,), (5,), (1,)], "scale": [(5,), (5,)], "prelu": [(5,)],
                      "ip": [(13, 75), (13,)]}
    mean, variance, factor = read_weights(path)["norm"]
    np.testing.assert_array_equal(mean, variables["state"]["norm"]["mean"])
    np.testing.assert_array_equal(variance, variables["state"]["norm"]["variance"])
    np.testing.assert_array_equal(factor, variables["state"]["norm"]["factor"])
    again = compile_net(path)
    assert_equal(again.init(KEY), variables)
    save_weights(again, variables, tmp_path / "again.caffemodel")  # of a net that holds weights itself
    assert (tmp_path / "again.caffemodel").read_bytes() == path.read_bytes()
    x = RANDOM.normal(size=(2, 3, 7, 11)).astype(np.float32)
    np.testing.assert_array_equal(
        again.apply(again.init(KEY), {"x": x})[0]["out"], net.apply(variables, {"x": x})[0]["out"]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_opencv_reads_it(tmp_path, dtype):
    """OpenCV's importer computes the same from a file that jaffe wrote."""
    cv2 = pytest.importorskip("cv2")
    net = compile_net(NET)
    variables = filled(net)
    path = tmp_path / "net.caffemodel"
    save_weights(net, variables, path)
    (tmp_path / "net.prototxt").write_text(NET)
    x = RANDOM.normal(size=(2, 3, 7, 11)).astype(np.float32)
    if dtype == np.float16:  # as NVIDIA's fork does; OpenCV writes such files itself, and jaffe reads them
        half = tmp_path / "half.caffemodel"
        cv2.dnn.shrinkCaffeModel(str(path), str(half))
        message = NetParameter.FromString(half.read_bytes())
        assert message.layer[1].blobs[0].raw_data
        variables = load_weights(net, net.init(KEY), half)
        np.testing.assert_array_equal(
            variables["params"]["conv"]["weight"], read_weights(path)["conv"][0].astype(np.float16).astype(np.float32)
        )
        path = half
    other = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(path))
    other.setInput(x)
    for layer in ("prelu", "ip"):
        for i, blob in enumerate(read_weights(path)[layer]):
            np.testing.assert_array_equal(other.getParam(layer, i).reshape(blob.shape), blob)
    expected = other.forward()
    found = net.apply(variables, {"x": x})[0]["out"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5 * float(np.abs(expected).max()))


def test_double_precision(tmp_path):
    """Doubles in a file reach a float64 net whole; files are written in float32."""
    values = RANDOM.normal(size=(13, 75)) / 3
    np.savez(tmp_path / "net.npz", **{"ip/0": values, "ip/1": np.zeros(13)})
    with jax.enable_x64(True):
        net = compile_net(NET, dtype=np.float64)
        variables = load_weights(net, net.init(KEY), tmp_path / "net.npz")
        np.testing.assert_array_equal(variables["params"]["ip"]["weight"], values)
        save_weights(net, variables, tmp_path / "net.caffemodel")
    np.testing.assert_array_equal(read_weights(tmp_path / "net.caffemodel")["ip"][0], values.astype(np.float32))


def test_shared_parameters(tmp_path):
    """Once for each layer in binary files, once in all in HDF5, where they may be missing; but no others."""
    net = compile_net(SHARED)
    variables = filled(net)
    for suffix in SUFFIXES:
        save_weights(net, variables, tmp_path / f"net{suffix}")
    binary, once = read_weights(tmp_path / "net.caffemodel"), read_weights(tmp_path / "net.caffemodel.h5")
    assert [len(blobs) for blobs in binary.values()] == [2, 2, 2]
    np.testing.assert_array_equal(binary["three"][1], variables["params"]["one"]["bias"])
    assert {layer: [blob is not None for blob in blobs] for layer, blobs in once.items()} == {
        "one": [True, True], "two": [False, True]}
    with pytest.raises(JaffeError) as caught:
        load_weights(net, variables, {"one": [once["one"][0]], "two": [once["one"][0]], "three": []})
    assert str(caught.value) == (
        "net '' and the given weights do not fit (rename a layer to start it afresh):\n"
        "  layer 'one': expected 2 blobs (weight, bias); found 1\n"
        "  layer 'two': expected 2 blobs (weight, bias); found 1"
    )
    with pytest.raises(JaffeError, match=r"layer 'two': expected 2 blobs \(weight, bias\); found 3"):
        load_weights(net, variables, {"two": [None, once["one"][1], once["one"][1], once["one"][1]]})


def test_several_sources(tmp_path):
    """They are copied one after another, so that the last counts; as Caffe's list with commas too."""
    net = compile_net(NET)
    first, second = filled(net), filled(net)
    a, b = tmp_path / "a.caffemodel", tmp_path / "b.h5"
    save_weights(net, first, a)
    write_weights(b, {"ip": [second["params"]["ip"]["weight"], second["params"]["ip"]["bias"]], "other": [np.ones(3)]})
    expected = {**first, "params": {**first["params"], "ip": second["params"]["ip"]}}
    for source in ([a, b], f"{a},{b}", f" {a} , {b},", [a, read_weights(b)]):
        assert_equal(load_weights(net, net.init(KEY), source), expected)
    assert_equal(load_weights(net, net.init(KEY), [b, a]), first)
    with_comma = tmp_path / "a,b.npz"
    save_weights(net, second, with_comma)
    assert_equal(load_weights(net, net.init(KEY), str(with_comma)), second)
    report = weights_report(net, b)
    assert (report.copied, report.ignored) == (("ip",), ("other",))
    assert report.left == ("conv", "norm", "scale", "prelu")
    assert str(report) == "copied ip\nignored other\nleft conv, norm, scale, prelu"
    assert weights_report(net, [b, a]).left == ()
    with pytest.raises(JaffeError, match="no layer of the given weights is in net 'small': found other"):
        load_weights(net, first, [a, {"other": [np.ones(3)], "pool": []}])
    with pytest.raises(SpecError, match=r"gone\.caffemodel: cannot be read: No such file or directory"):
        load_weights(net, first, f"{a},gone.caffemodel")


def test_every_mismatch_of_every_source():
    net = compile_net(NET)
    sources = [{"ip": [np.zeros((13, 75))], "pool": [np.zeros(3)]}, {"conv": [np.zeros((5, 3, 2, 3)), np.zeros(5)]}]
    assert weights_report(net, sources).problems == (
        "layer 'ip': expected 2 blobs (weight, bias); found 1",
        "layer 'pool': expected 0 blobs (no weights); found 1",
        "layer 'conv': weight: expected shape (5, 3, 3, 2); found (5, 3, 2, 3)",
    )
    with pytest.raises(JaffeError) as caught:
        load_weights(net, net.init(KEY), sources)
    assert str(caught.value) == (
        "net 'small' and the given weights do not fit (rename a layer to start it afresh):\n"
        "  layer 'ip': expected 2 blobs (weight, bias); found 1\n"
        "  layer 'pool': expected 0 blobs (no weights); found 1\n"
        "net 'small' and the given weights do not fit (rename a layer to start it afresh):\n"
        "  layer 'conv': weight: expected shape (5, 3, 3, 2); found (5, 3, 2, 3)"
    )


def test_layers_of_one_name_in_a_file(tmp_path):
    """Caffe copies them one after another, and refuses at the first that does not fit."""
    net = compile_net(NET)
    path = tmp_path / "net.caffemodel"

    def file(*weights: np.ndarray) -> None:
        layers = [LayerParameter(name="ip", blobs=[array_to_blob(one), array_to_blob(np.ones(13))]) for one in weights]
        path.write_bytes(NetParameter(layer=[*layers, LayerParameter(name="ip")]).SerializeToString())

    fits = RANDOM.normal(size=(13, 75)).astype(np.float32)
    file(np.zeros((13, 75)), fits)
    np.testing.assert_array_equal(load_weights(net, net.init(KEY), path)["params"]["ip"]["weight"], fits)
    for weights in ((np.zeros((75, 13)), fits), (fits, np.zeros((75, 13)))):
        file(*weights)
        with pytest.raises(JaffeError, match=r"layer 'ip': weight: expected shape \(13, 75\); found \(75, 13\)"):
            load_weights(net, net.init(KEY), path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "weights are a file, arrays by layer name, or a list of those; received none"),
        (" , ", "weights are a file, arrays by layer name, or a list of those; received none"),
        (None, "weights are a file, arrays by layer name, or a list of those; received NoneType"),
        ({"ip": [[[1.0, 2.0], [3.0]], np.zeros(13)]}, "layer 'ip': blob 0 is no array of numbers"),
        ({"ip": [np.zeros((13, 75)), ["a"] * 13]}, "layer 'ip': blob 1 is of dtype <U1; expected numbers"),
        ({"ip": np.zeros((13, 75))}, "layer 'ip': expected a list of arrays of numbers; found ndarray"),
    ],
    ids=range(6),
)
def test_wrong_sources(source, message):
    net = compile_net(NET)
    with pytest.raises(JaffeError) as caught:
        load_weights(net, net.init(KEY), source)
    assert str(caught.value).endswith(message)


def test_old_shapes_fit():
    """(N) as (1, 1, 1, N) and (M, N) as (1, 1, M, N); not with the sizes elsewhere, and not other ones."""
    net = compile_net(NET)
    weight, bias = RANDOM.normal(size=(13, 75)), RANDOM.normal(size=13)
    found = load_weights(net, net.init(KEY), {"ip": [weight.reshape(1, 1, 13, 75), bias.reshape(1, 1, 1, 13)]})
    np.testing.assert_array_equal(found["params"]["ip"]["weight"], weight.astype(np.float32))
    np.testing.assert_array_equal(found["params"]["ip"]["bias"], bias.astype(np.float32))
    for shapes in [((13, 75, 1, 1), (13,)), ((1, 13, 75), (13,)), ((13, 75), (1, 1, 13, 1)), ((13, 75), (1, 13))]:
        with pytest.raises(JaffeError, match="expected shape"):
            load_weights(net, net.init(KEY), {"ip": [np.zeros(shape) for shape in shapes]})


def test_wrong_variables(tmp_path):
    net = compile_net(NET)
    variables = filled(net)
    for wrong, message in [
        ({"params": {}, "state": {}}, "the variables have no 'params' 'conv' 'weight'; expected those of net 'small'"),
        ({**variables, "state": {"norm": {**variables["state"]["norm"], "mean": np.zeros(3)}}},
         "layer 'norm': mean: expected shape (5,); found (3,)"),
    ]:
        with pytest.raises(JaffeError) as caught:
            save_weights(net, wrong, tmp_path / "net.npz")
        assert str(caught.value) == message
    for wrong in ({}, {"params": {}}, {"params": None}, None):
        with pytest.raises(JaffeError, match="the variables have no 'params' 'ip' 'weight'; expected those of net"):
            load_weights(net, wrong, {"ip": [np.zeros((13, 75)), np.zeros(13)]})
    with pytest.raises(SpecError, match="expected a name that ends in"):
        save_weights(net, variables, tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


def test_published_weights_survive(shared, tmp_path):
    """From Caffe's file of 2014 through jaffe to each format: the same numbers."""
    folder = shared / "models/files/lenet_cifar_v1_2014/examples/mnist"
    published = folder / "lenet_iter_10000.caffemodel"
    net = compile_net(load(folder / "lenet.prototxt"))
    variables = load_weights(net, net.init(KEY), published)
    for suffix in SUFFIXES:
        path = tmp_path / f"net{suffix}"
        save_weights(net, variables, path)
        assert not differences(read_weights(published), read_weights(path))


def test_several_nets_in_one_file(shared):
    """PCN's file holds the weights of three nets; each takes its own by name."""
    folder = shared / "models/files/pcn_face/PCN/model"
    z = np.load(shared / "models/expected/pcn_face__PCN.caffemodel__PCN-1.prototxt.npz")
    inputs = {key[3:]: z[key] for key in z.files if key.startswith("in:")}
    net = compile_net(folder / "PCN-1.prototxt", inputs={name: x.shape for name, x in inputs.items()})
    report = weights_report(net, folder / "PCN.caffemodel")
    assert (len(report.copied), len(report.ignored), report.left, report.problems) == (7, 15, (), ())
    outputs, _ = net.apply(load_weights(net, net.init(KEY), folder / "PCN.caffemodel"), inputs)
    for name, found in outputs.items():
        np.testing.assert_allclose(found, z[f"top:{name}"], rtol=1e-5, atol=1e-6)
