"""Net: blobs and parameters that scripts write to, passes in pieces, shapes, state, files."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import jaffe.pycaffe as caffe
from jaffe.netdef import write_text
from jaffe.netdef.source import load
from tests.pycaffe.nets import BRANCHED, SMALL, branched_inputs


@pytest.fixture
def net() -> caffe.Net:
    caffe.set_random_seed(3)
    return caffe.Net(SMALL, caffe.TEST)


@pytest.fixture(scope="module")
def branched() -> caffe.Net:
    """Of phase TRAIN; its draws are the same in every test that seeds."""
    return caffe.Net(BRANCHED, caffe.TRAIN)


def images(count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 5, 5)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_what_a_net_has(net):
    assert list(net.blobs) == net._blob_names == ["data", "conv1", "fc", "prob"]
    assert [blob.data.shape for blob in net.blobs.values()] == [(3, 3, 5, 5), (3, 4, 3, 3), (3, 6), (3, 6)]
    assert {name: [blob.data.shape for blob in blobs] for name, blobs in net.params.items()} == {
        "conv1": [(4, 3, 3, 3), (4,)], "fc": [(6, 36), (6,)]}
    assert (net.inputs, net.outputs, net._inputs, net._outputs) == (["data"], ["prob"], [0], [3])
    assert list(net._layer_names) == list(net.layer_dict) == ["input", "conv1", "relu1", "fc", "prob"]
    assert [layer.type for layer in net.layers] == ["Input", "Convolution", "ReLU", "InnerProduct", "Softmax"]
    assert net.layers[1].blobs[0] is net.params["conv1"][0]
    assert net.bottom_names["relu1"] == net.top_names["relu1"] == net.top_names["conv1"] == ["conv1"]
    assert (net._bottom_ids(3), net._top_ids(3)) == ([1], [2])
    blob = net.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count, blob.shape) == (3, 3, 5, 5, 225, (3, 3, 5, 5))
    assert isinstance(blob, caffe.Blob)
    assert not blob.data.any()
    assert blob.data.dtype == blob.diff.dtype == np.float32
    assert np.all(net.params["conv1"][1].data == np.float32(0.1))


def test_split_blobs_and_loss_weights_are_as_in_caffe(branched):
    assert list(branched.blobs) == ["x", "t", "conv", "conv_elu_0_split_0", "conv_elu_0_split_1", "drop", "ip", "sum",
                                    "loss"]
    assert branched.bottom_names["drop"] == ["conv_elu_0_split_0"]
    assert branched.layer_dict["conv_elu_0_split"].type == "Split"
    assert branched.blob_loss_weights == {**dict.fromkeys(branched.blobs, 0.0), "sum": pytest.approx(0.01), "loss": 2}
    assert branched.blobs["loss"].diff == 2
    assert branched.outputs == ["loss", "sum"]


def test_what_is_written_counts_and_what_is_held_is_current(net):
    held = net.blobs["prob"].data
    row = net.params["fc"][1].data[2:3]
    first = net.forward(data=images())["prob"].copy()
    np.testing.assert_array_equal(held, first)
    np.testing.assert_allclose(first.sum(1), 1, rtol=1e-6)
    before = net.blobs["fc"].data.copy()
    row[...] = 7
    net.forward()
    np.testing.assert_array_equal(held[:, 2] > first[:, 2], True)
    np.testing.assert_allclose(net.blobs["fc"].data - before, np.eye(6)[2] * 7 * np.ones((3, 1)), atol=1e-5)
    net.blobs["data"].data[1] = 0
    net.params["conv1"][0].data.flat = 0
    net.forward()
    np.testing.assert_allclose(net.blobs["conv1"].data, 0.1, rtol=1e-6)


def test_held_views_stop_to_be_watched_when_they_are_gone(net):
    """What nobody holds is not sent to the device again; correctness does not depend on it, speed does."""
    buffer = net.params["fc"][0].values
    net.params["fc"][0].data[...] = 1
    assert not buffer.held
    assert buffer.device() is buffer.device()
    view = net.params["fc"][0].data[0]
    assert buffer.held
    first = buffer.device()
    view[...] = 2
    assert buffer.device() is not first
    assert np.asarray(buffer.device())[0, 0] == 2
    np.testing.assert_array_equal(first, 1)
    del view
    assert not buffer.held


def test_forward_returns_outputs_blobs_and_tops_of_the_end(net):
    assert set(net.forward(data=images(), blobs=["fc", "conv1"])) == {"prob", "fc", "conv1"}
    assert set(net.forward(end="fc")) == {"fc"}
    assert net.forward(end="conv1")["conv1"].min() < 0  # before the layer that writes over it
    assert net.forward(start="relu1", end="relu1")["conv1"].min() == 0


def test_forward_from_a_blob_that_was_written(net):
    net.forward(data=images())
    net.blobs["fc"].data[...] = np.arange(18).reshape(3, 6)
    found = net.forward(start="prob")["prob"]
    np.testing.assert_allclose(found, softmax(np.arange(18.0).reshape(3, 6)), rtol=1e-6)


def test_forward_in_pieces_is_the_whole(branched):
    inputs = branched_inputs()
    caffe.set_random_seed(1)
    branched.params["bn"][2].data[...] = 0
    whole = {**branched.forward(**inputs, blobs=["conv", "drop"])}
    whole = {name: array.copy() for name, array in whole.items()}
    branched.params["bn"][2].data[...] = 0
    for name in whole:
        branched.blobs[name].data[...] = -1
    branched.forward(end="bn")
    caffe.set_random_seed(1)  # Dropout draws what it drew
    branched.forward(start="scale")
    for name, array in whole.items():
        np.testing.assert_allclose(branched.blobs[name].data, array, rtol=1e-6, err_msg=name)
    assert branched.params["bn"][2].data == 1


def gradients(net) -> dict[str, np.ndarray]:
    found = {f"{layer}[{i}]": blob.diff.copy() for layer, blobs in net.params.items() for i, blob in enumerate(blobs)}
    return {**found, **{name: blob.diff.copy() for name, blob in net.blobs.items() if name not in net.outputs}}


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_backward_is_the_derivative(branched):
    """Of the loss by the input and by a weight, against differences in float32: to 2 %."""
    caffe.set_random_seed(5)
    inputs = branched_inputs()
    loss = _loss(branched, inputs)
    branched.clear_param_diffs()
    branched.backward()
    for array, diff, place in (
        (branched.blobs["x"].data, branched.blobs["x"].diff.copy(), (1, 1, 2, 3)),
        (branched.params["conv"][0].data, branched.params["conv"][0].diff.copy(), (2, 1, 0, 2)),
        (branched.params["ip"][0].data, branched.params["ip"][0].diff.copy(), (3, 7)),
    ):
        array[place] += 0.01
        caffe.set_random_seed(5)
        found = (_loss(branched) - loss) / 0.01
        array[place] -= 0.01
        assert found == pytest.approx(diff[place], rel=0.02, abs=2e-3)


def _loss(net, inputs: dict[str, np.ndarray] | None = None) -> float:
    for name, array in (inputs or {}).items():
        net.blobs[name].data[...] = array
    return net._forward(0, len(net.layers) - 1)


def test_loss_of_forward_is_weighted(branched):
    total = _loss(branched, branched_inputs())
    sums = branched.blobs["sum"].data.sum()
    assert total == pytest.approx(2 * branched.blobs["loss"].data + 0.01 * sums, rel=1e-6)
    assert branched._forward(branched._layer_names.index("loss"), len(branched.layers) - 1) == pytest.approx(
        2 * branched.blobs["loss"].data)


def test_in_place_blobs_keep_the_last_data_and_the_first_diff(branched):
    branched.forward(**branched_inputs())
    branched.backward(start="elu", end="elu")
    assert not np.array_equal(branched.blobs["conv"].diff, branched.blobs["conv_elu_0_split_0"].diff)
    branched.backward()
    last = branched.blobs["conv"].data.copy()
    first = branched.blobs["conv"].diff.copy()
    branched.forward(end="conv")
    assert not np.array_equal(branched.blobs["conv"].data, last)
    x, w = branched.blobs["x"].data, branched.params["conv"][0].diff
    by_bias = first.sum((0, 2, 3))
    branched.clear_param_diffs()
    branched.backward(start="conv", end="conv")
    np.testing.assert_allclose(branched.params["conv"][1].diff, by_bias, atol=1e-5)
    assert x.any()
    assert w.any()


def test_diffs_of_parameters_add_up_and_others_are_replaced(net):
    net.forward(data=images())
    top = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    net.backward(prob=top)
    once = gradients(net)
    net.backward(prob=2 * top)
    twice = gradients(net)
    for name, array in once.items():
        assert array.any(), name
        np.testing.assert_allclose(twice[name], (2 if name in net.blobs else 3) * array, rtol=1e-4, atol=1e-6)
    held = net.params["fc"][0].diff
    net.clear_param_diffs()
    assert not held.any()
    assert not net.params["conv1"][1].diff.any()
    net.blobs["prob"].diff[...] = top  # the same, written
    assert set(net.backward(diffs=["fc"])) == {"data", "fc"}
    close(gradients(net), once)
    net.params["fc"][1].diff[...] = 100
    net.backward()
    np.testing.assert_allclose(net.params["fc"][1].diff, 100 + once["fc[1]"], rtol=1e-5)


def test_backward_takes_the_gradient_at_what_blobs_hold(net):
    """As in Caffe: the script may write to a blob between forward and backward."""
    net.forward(data=images())
    net.blobs["conv1"].data[...] = 3
    net.blobs["fc"].diff[...] = np.eye(3, 6)
    net.backward(start="fc", end="fc")
    np.testing.assert_allclose(net.params["fc"][0].diff[:3], 3, rtol=1e-6)
    np.testing.assert_allclose(net.params["fc"][0].diff[3:], 0)


def test_backward_of_a_layer_that_wrote_in_place(net):
    """What it read is no longer held, and is computed again from the layer before."""
    before = net.forward(data=images(), end="conv1")["conv1"].copy()
    net.forward()
    net.blobs["conv1"].diff[...] = 5
    net.backward(start="relu1", end="relu1")
    np.testing.assert_array_equal(net.blobs["conv1"].diff, 5 * (before > 0))


def test_callbacks_see_each_layer(branched):
    """Layers one by one make the same as a whole pass, backward too: in-place chains, Split, Dropout, BatchNorm."""
    inputs = branched_inputs()
    caffe.set_random_seed(2)
    branched.forward(**inputs)
    branched.clear_param_diffs()
    branched.backward()
    whole, outputs = gradients(branched), branched.blobs["loss"].data.copy()
    assert all(whole[name].any() for name in ("x", "conv", "conv[0]", "scale[0]", "scale[1]", "ip[0]", "ip[1]"))
    seen = []
    one_by_one = caffe.Net(BRANCHED, caffe.TRAIN)
    one_by_one.share_with(branched)
    for when in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(one_by_one, when)(lambda i, when=when: seen.append((when, i)))
    one_by_one.after_forward(lambda i: i == 2 and caught.append(one_by_one.blobs["conv"].data.copy()))
    caught = []
    for name, array in inputs.items():
        one_by_one.blobs[name].data[...] = array
    one_by_one.forward()
    np.testing.assert_array_equal(caught[0], one_by_one.forward(end="conv")["conv"])
    assert [pair for pair in seen if pair[0].endswith("forward")][:4] == [
        ("before_forward", 0), ("after_forward", 0), ("before_forward", 1), ("after_forward", 1)]
    caffe.set_random_seed(2)
    for i, layer in enumerate(one_by_one._layer_names):
        if layer == "drop":
            caffe.set_random_seed(2)
        one_by_one.forward(start=layer, end=layer)
        assert seen[-1] == ("after_forward", i)
    np.testing.assert_allclose(one_by_one.blobs["loss"].data, outputs, rtol=1e-5)
    one_by_one.clear_param_diffs()
    one_by_one.backward()
    assert [i for when, i in seen if when == "before_backward"] == list(range(len(one_by_one.layers) - 1, -1, -1))
    close(gradients(one_by_one), whole)


def test_other_shapes(net):
    net.blobs["data"].reshape(2, 3, 5, 5)
    assert net.blobs["prob"].data.shape == (3, 6)
    net.reshape()
    assert net.blobs["prob"].data.shape == net.blobs["fc"].diff.shape == (2, 6)
    two = net.forward(data=images(2))["prob"].copy()
    net.blobs["data"].reshape(1, 3, 5, 5)
    net.blobs["data"].data[...] = images(2)[:1]
    one = net.forward()["prob"]  # reshapes by itself
    np.testing.assert_allclose(one, two[:1], rtol=1e-6)
    assert net.backward(prob=np.ones((1, 6)))["data"].shape == (1, 3, 5, 5)
    net.blobs["conv1"].reshape(7, 4, 3, 3)
    assert net.forward(start="fc")["prob"].shape == (7, 6)


def test_forward_all(net):
    seven = images(7, seed=4)
    found = net.forward_all(data=seven, blobs=["fc"])
    assert {name: array.shape for name, array in found.items()} == {"prob": (7, 6), "fc": (7, 6)}
    net.blobs["data"].reshape(7, 3, 5, 5)
    np.testing.assert_allclose(net.forward(data=seven)["prob"], found["prob"], rtol=1e-5)


def test_forward_backward_all(net):
    seven, top = images(7, seed=4), np.random.default_rng(0).normal(size=(7, 6))
    found, diffs = net.forward_backward_all(blobs=["conv1"], diffs=["fc"], data=seven, prob=top)
    assert {name: array.shape for name, array in {**found, **diffs}.items()} == {
        "prob": (7, 6), "conv1": (7, 4, 3, 3), "data": (7, 3, 5, 5), "fc": (7, 6)}
    by_weight = net.params["fc"][0].diff.copy()
    net.blobs["data"].reshape(7, 3, 5, 5)
    net.clear_param_diffs()
    net.forward(data=seven)
    np.testing.assert_allclose(net.backward(prob=top)["data"], diffs["data"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(net.params["fc"][0].diff, by_weight, rtol=1e-4, atol=1e-6)


def test_weights_go_through_files(net, tmp_path):
    net.save(tmp_path / "w.caffemodel")
    net.save_hdf5(tmp_path / "w.caffemodel.h5")
    path = tmp_path / "deploy.prototxt"
    write_text(load(SMALL).net, path)
    expected = net.forward(data=images())["prob"].copy()
    loaded = caffe.Net(str(path), caffe.TEST, weights=str(tmp_path / "w.caffemodel"))
    fresh = caffe.Net(path, caffe.TEST)
    fresh.load_hdf5(tmp_path / "w.caffemodel.h5")
    net.save(tmp_path / "without_suffix")  # pycaffe writes a .caffemodel whatever the name
    net.save_hdf5(tmp_path / "hdf5.without")
    assert (tmp_path / "without_suffix").read_bytes() == (tmp_path / "w.caffemodel").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {
        "w.caffemodel", "w.caffemodel.h5", "deploy.prototxt", "without_suffix", "hdf5.without"}
    unnamed = caffe.Net(path, caffe.TEST)
    unnamed.load_hdf5(tmp_path / "hdf5.without")
    for other in (loaded, fresh, unnamed):
        np.testing.assert_array_equal(other.forward(data=images())["prob"], expected)
    with pytest.warns(DeprecationWarning, match=r"Net\(file, weights, phase\) is pycaffe's old form"):
        old = caffe.Net(str(path), str(tmp_path / "w.caffemodel"), caffe.TEST)
    np.testing.assert_array_equal(old.forward(data=images())["prob"], expected)


def test_what_a_file_does_not_have_keeps_its_filler(net, tmp_path):
    net.save(tmp_path / "w.caffemodel")
    renamed = caffe.Net(SMALL.replace('name: "fc" type', 'name: "fc_new" type'), caffe.TEST,
                        weights=tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(renamed.params["conv1"][0].data, net.params["conv1"][0].data)
    assert renamed.params["fc_new"][0].data.std() > 0.05
    assert not np.array_equal(renamed.params["fc_new"][0].data, net.params["fc"][0].data)


def test_nets_that_share(net):
    other = caffe.Net(SMALL, caffe.TEST)
    mine = other.params["fc"][0]
    other.share_with(net)
    mine.data[...] = 0
    other.params["fc"][1].data[...] = np.arange(6)
    np.testing.assert_allclose(net.forward(data=images())["prob"], softmax(np.tile(np.arange(6.0), (3, 1))), rtol=1e-6)
    other.forward(data=images())
    net.blobs["prob"].diff[...] = other.blobs["prob"].diff[...] = np.eye(3, 6)
    net.backward()
    once = net.params["fc"][1].diff.copy()
    other.backward()
    np.testing.assert_allclose(net.params["fc"][1].diff, 2 * once, rtol=1e-6)


def test_shared_parameters_are_one_array():
    net = caffe.Net("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } inner_product_param
                { num_output: 3 bias_term: false } }
        layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE }
                inner_product_param { num_output: 3 bias_term: false } }""", caffe.TEST)
    net.params["a"][0].data[...] = 2 * np.eye(3)
    np.testing.assert_array_equal(net.params["b"][0].data, 2 * np.eye(3))
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(net.forward(x=x)["b"], 4 * x)
    net.backward(b=np.ones((2, 3)))
    np.testing.assert_array_equal(net.params["a"][0].diff, net.params["b"][0].diff)
    np.testing.assert_array_equal(net.params["a"][0].diff, 4 * np.tile(x.sum(0), (3, 1)))  # 2 x from each layer


def test_arrays_outlive_their_net(net):
    net.forward(data=images())
    blobs = [*net.blobs.values(), *(blob for blobs in net.params.values() for blob in blobs)]
    expected = [blob.data.sum() for blob in blobs]
    del net
    gc.collect()
    assert [blob.data.sum() for blob in blobs] == expected


@pytest.mark.parametrize(("arguments", "blobs"), [
    ({}, ["x", "none"]), ({"level": 1}, ["x", "none", "one"]), ({"stages": ["A"]}, ["x", "none", "a"]),
    ({"stages": ["A", "B"], "level": 3}, ["x", "none", "one", "a", "ab"]),
])
def test_levels_and_stages(arguments, blobs):
    rules = {"none": "", "one": "include { min_level: 1 }", "a": 'include { stage: "A" }',
             "ab": 'include { stage: "A" stage: "B" }'}
    layers = "".join(f'layer {{ name: "{name}" type: "Power" bottom: "x" top: "{name}" {rule} }}'
                     for name, rule in rules.items())
    net = caffe.Net('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }' + layers, caffe.TEST,
                    **arguments)
    assert [name for name in net.blobs if "split" not in name] == blobs


def test_seeds(branched):
    drawn = []
    branched.blobs["conv"].data[...] = 1
    for seed in (4, 4, 5):
        caffe.set_random_seed(seed)
        bias = caffe.Net(FILLED, caffe.TRAIN).params["bias"][0].data.copy()
        one, two = (branched.forward(start="drop", end="drop")["drop"].copy() for _ in range(2))
        assert not np.array_equal(one, two)
        drawn.append((bias, one))
    for one, same, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)


FILLED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 9 } } }
layer { name: "bias" type: "Bias" bottom: "x" top: "y" bias_param { filler { type: "uniform" } } }
"""
