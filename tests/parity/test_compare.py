"""compare: which layer is the first, whose fault it is, and which recorded name is which value."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, resolve
from jaffe.parity import Reference, compare, in_float64, random_inputs, run_net
from jaffe.parity.measure import detections, fit, measure
from jaffe.parity.reference import align

FILL = "weight_filler { type: 'gaussian' std: 0.3 } bias_filler { type: 'gaussian' }"
NET = f"""name: 'small'
layer {{ name: 'data' type: 'Input' top: 'data' input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 11 }} }} }}
layer {{ name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1'
        convolution_param {{ num_output: 5 kernel_size: 3 pad: 1 {FILL} }} }}
layer {{ name: 'relu1' type: 'ReLU' bottom: 'conv1' top: 'conv1' }}
layer {{ name: 'pool1' type: 'Pooling' bottom: 'conv1' top: 'pool1' pooling_param {{ kernel_size: 3 stride: 2 }} }}
layer {{ name: 'conv2' type: 'Convolution' bottom: 'pool1' top: 'conv2'
        convolution_param {{ num_output: 7 kernel_size: 3 {FILL} }} }}
layer {{ name: 'relu2' type: 'ReLU' bottom: 'conv2' top: 'conv2' }}
layer {{ name: 'ip' type: 'InnerProduct' bottom: 'conv2' top: 'ip' inner_product_param {{ num_output: 13 {FILL} }} }}
layer {{ name: 'prob' type: 'Softmax' bottom: 'ip' top: 'prob' }}
"""
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def net():
    return compile_net(NET)


@pytest.fixture(scope="module")
def variables(net):
    return net.init(KEY)


def record(text: str, variables, blobs: str, seed: int = 0) -> dict[str, np.ndarray]:
    """What a net computes of these blobs, on random inputs."""
    other = compile_net(text)
    inputs = random_inputs(other, seed)
    outputs, _ = other.apply(variables, inputs, blobs=blobs.split())
    return {f"in:{name}": value for name, value in inputs.items()} | {
        f"top:{name}": np.asarray(outputs[name]) for name in blobs.split()}


def verdicts(comparison) -> dict[str, str]:
    return {row.value: row.verdict for row in comparison.rows}


def test_equal(net, variables):
    comparison = compare(net, variables, record(NET, variables, "conv1 pool1 conv2 ip prob"))
    assert comparison.agrees
    assert comparison.first is None
    assert comparison.error < 1e-6
    assert verdicts(comparison) == {"conv1": "not recorded", "conv1#1": "equal", "pool1": "equal",
                                    "conv2": "not recorded", "conv2#1": "equal", "ip": "equal", "prob": "equal"}
    assert "equal: 5 of 7 values compared" in str(comparison)


def test_the_first_wrong_layer_and_those_that_carry_on(net, variables):
    recorded = record(NET.replace("name: 'relu2' type: 'ReLU'",
                                  "name: 'relu2' type: 'ReLU' relu_param { negative_slope: 0.1 }"),
                      variables, "conv1 pool1 conv2 ip prob")
    comparison = compare(net, variables, recorded)
    assert verdicts(comparison) == {"conv1": "not recorded", "conv1#1": "equal", "pool1": "equal",
                                    "conv2": "not recorded", "conv2#1": "wrong", "ip": "carried", "prob": "carried"}
    first = comparison.first
    assert (first.layer, first.value) == ("relu2", "conv2#1")
    assert first.explanation.suspects == ("conv2", "relu2")
    (cause,) = first.explanation.confirmed
    assert (cause.hypothesis, cause.layers, cause.what) == ("negative_slope", ("relu2",), "negative_slope is 0.1")
    text = str(comparison)
    assert "first difference: layer 'relu2' (<text>:9), ReLU, value 'conv2#1'" in text
    assert "any of which may be at fault: 'conv2', 'relu2'" in text
    assert "confirmed: equal (relative error " in text
    assert "when negative_slope is 0.1 (layer 'relu2')" in text


def test_two_wrong_layers_are_told_apart(net, variables):
    """The second is judged on the reference's own blobs, so that the first does not hide it."""
    text = NET.replace("name: 'pool1' type: 'Pooling'", "name: 'pool1' type: 'Pooling' ").replace(
        "kernel_size: 3 stride: 2 }", "pool: AVE kernel_size: 3 stride: 2 }").replace(
        "top: 'prob' }", "top: 'prob' softmax_param { axis: 0 } }")
    comparison = compare(net, variables, record(text, variables, "conv1 pool1 conv2 ip prob"))
    assert verdicts(comparison) == {"conv1": "not recorded", "conv1#1": "equal", "pool1": "wrong",
                                    "conv2": "not recorded", "conv2#1": "carried", "ip": "carried", "prob": "wrong"}
    assert "also wrong by themselves: 'prob' (the softmax runs along axis 0)" in str(comparison)
    assert "when the pool is an average (layer 'pool1')" in str(comparison)


def test_shapes_that_differ(net, variables):
    """Down the net the shapes differ too, and the InnerProduct cannot run on them with these weights."""
    recorded = record(NET, variables, "conv1")
    conv1 = recorded["top:conv1"]
    recorded["top:pool1"] = np.stack([np.stack([
        conv1[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3)) for j in range(5)], -1) for i in range(3)], -2)
    recorded["top:conv2"] = np.zeros((2, 7, 1, 3), np.float32)
    recorded["top:ip"] = np.zeros((2, 13), np.float32)
    comparison = compare(net, variables, recorded)
    assert verdicts(comparison) == {"conv1": "not recorded", "conv1#1": "equal", "pool1": "wrong",
                                    "conv2": "not recorded", "conv2#1": "wrong", "ip": "differs",
                                    "prob": "not recorded"}
    assert "shape (2, 5, 4, 5); the reference has (2, 5, 3, 5)" in str(comparison)
    assert [one.hypothesis for one in comparison.first.explanation.confirmed] == ["pool_rounding"]


def test_without_a_known_cause(net, variables):
    recorded = record(NET, variables, "conv1 pool1")
    recorded["top:pool1"] = recorded["top:pool1"] + 1
    comparison = compare(net, variables, recorded)
    assert comparison.first.layer == "pool1"
    assert comparison.first.explanation.confirmed == ()
    text = str(comparison)
    assert "none of the known causes makes it equal; worth checking:" in text
    assert "pooling: is the size rounded up, as Caffe does, or down?" in text
    assert "BatchNorm" not in text


def test_only_the_output_recorded(variables):
    """One mistake made in every layer of a kind is found with no inner blob."""
    average = NET.replace("stride: 2 }", "stride: 2 pool: AVE }")
    recorded = record(average.replace("type: 'ReLU'", "type: 'ReLU' relu_param { negative_slope: 0.2 }"),
                      variables, "ip")
    comparison = compare(compile_net(average), variables, recorded)
    assert comparison.first.explanation.suspects == ("conv1", "relu1", "pool1", "conv2", "relu2", "ip")
    (cause,) = comparison.first.explanation.confirmed
    assert (cause.hypothesis, cause.layers) == ("negative_slope", ("relu1", "relu2"))
    assert "when negative_slope is 0.2 (layers 'relu1', 'relu2')" in str(comparison)


def test_rounding_that_adds_up_is_not_a_wrong_layer(net, variables):
    """Every layer is within the tolerance of the one before, and the last is not of the first."""
    half = jax.tree.map(lambda array: array.astype("float16").astype("float32"), variables)
    reference = run_net(net, half, random_inputs(net), name="half")
    free = compare(net, variables, reference, tolerance=0)
    alone = max(row.alone.relative for row in free.rows)
    assert free.error > alone
    comparison = compare(net, variables, reference, tolerance=alone)
    assert "wrong" not in verdicts(comparison).values()
    assert comparison.first.verdict == "carried"
    assert "on the reference's own blobs every layer is equal: rounding errors add up" in str(comparison)


def test_mean_and_scale_behind_an_in_place_relu(net, variables):
    """The first layer's own value was not recorded: above 0 it is the ReLU's."""
    recorded = record(NET, variables, "conv1")
    outputs, _ = net.apply(variables, {"data": (recorded["in:data"] - 0.5) / 4}, blobs=["conv1"])
    comparison = compare(net, variables, {**recorded, "top:conv1": np.asarray(outputs["conv1"])})
    assert "multiplied by 0.25 (1/4) after a mean of (0.5, 0.5, 0.5) is subtracted" in str(comparison)


# References.


def test_a_net_as_reference_has_every_value(net, variables):
    comparison = compare(net, variables, run_net(net, variables, random_inputs(net)))
    assert set(verdicts(comparison).values()) == {"equal"}
    assert len(comparison.rows) == 7
    assert comparison.error == 0


def test_a_net_without_an_in_place_layer(net, variables):
    """Its last value of the blob is compared with the net's last."""
    text = "\n".join(line for line in NET.splitlines() if "relu1" not in line)
    other = compile_net(text)
    comparison = compare(net, variables, run_net(other, variables, random_inputs(net), name="other"))
    assert verdicts(comparison)["conv1"] == "equal"
    assert comparison.first.value == "conv1#1"
    assert "layer_left_out" in [one.hypothesis for one in comparison.first.explanation.confirmed]


def test_float64(net, variables):
    arrays = jax.tree.map(np.asarray, variables)
    reference = in_float64(lambda dtype: (compile_net(NET, dtype=dtype), arrays), random_inputs(net))
    assert reference.blobs["prob"].dtype == np.float64
    comparison = compare(net, variables, reference, tolerance=1e-6)
    assert comparison.agrees
    assert 0 < comparison.error < 1e-6


def test_names_of_values():
    text = NET + "".join(f"layer {{ name: 's{i}' type: 'Silence' bottom: 'pool1' }}\n" for i in range(2))
    graph = resolve(text)
    one = np.zeros(1)

    def names(*recorded: str) -> tuple[dict[str, float], tuple[str, ...]]:
        known, unused = align(graph, Reference({name: one + i for i, name in enumerate(recorded)}))
        return {key: float(value[0]) for key, value in known.items()}, unused

    assert names("conv1", "ip") == ({"conv1#1": 0, "ip": 1}, ())  # a name is what the blob ends up with,
    assert names("conv1", "conv1#1") == ({"conv1": 0, "conv1#1": 1}, ())  # but where the later one is there too;
    assert names("conv1#0", "conv1") == ({"conv1": 0, "conv1#1": 1}, ())  # or name#0 is the first.
    assert names("pool1_pool1_0_split_1") == ({"pool1": 0}, ())  # Caffe's copies of a blob that several layers read
    assert names("conv1_relu1_0_split_0") == ({"conv1#1": 0}, ())
    assert names("conv1_conv1_0_split_0") == ({"conv1": 0}, ())
    assert names("ip", "pool9", "conv1#4") == ({"ip": 0}, ("pool9", "conv1#4"))
    known, unused = align(graph, Reference(layers={"relu1": (one,), "gone": (one,)}))
    assert (list(known), unused) == (["conv1#1"], ("gone",))


def test_axes_of_one_do_not_count(net, variables):
    recorded = record(NET, variables, "prob")
    recorded["top:prob"] = recorded["top:prob"].reshape(2, 13, 1, 1)
    assert compare(net, variables, recorded).agrees
    assert fit(np.zeros((2, 1, 3)), (2, 3)).shape == (2, 3)
    assert fit(np.zeros((2, 1, 3)), (3, 2)).shape == (2, 1, 3)


def test_npz(net, variables, tmp_path):
    recorded = record(NET, variables, "conv1 prob")
    np.savez(tmp_path / "blobs.npz", **recorded, extra=np.zeros(2))
    comparison = compare(net, variables, tmp_path / "blobs.npz")
    assert comparison.agrees
    assert comparison.reference == "blobs.npz"
    assert comparison.unused == ("extra",)
    assert "not in the net: extra" in str(comparison)
    # names as they are, the input among them
    np.savez(tmp_path / "plain.npz", **{key.partition(":")[2]: value for key, value in recorded.items()})
    assert compare(net, variables, tmp_path / "plain.npz").agrees


def test_other_sizes_than_declared(net, variables):
    """A net without weights that depend on the size takes the recording's."""
    text = NET[: NET.index("layer { name: 'ip'")]
    small = compile_net(text)
    given = {"data": np.ones((1, 3, 13, 9), np.float32)}
    outputs, _ = small.apply(small.init(KEY), given, blobs=["pool1"])
    assert compare(small, small.init(KEY), {"in:data": given["data"], "pool1": outputs["pool1"]}).agrees


# The measure.


def test_measure():
    found = measure([1.0, 2.0, 3.5], [1.0, -4.0, 3.0])
    assert (found.error, found.scale, found.where, found.found, found.expected) == (6, 4, (1,), 2, -4)
    assert found.relative == 1.5
    assert not found.within(1.4)
    assert found.within(1.5)
    assert measure([np.nan, np.inf, 1], [np.nan, np.inf, 1]).error == 0
    assert measure([np.nan, 1], [0, 1]).error == np.inf
    assert measure([np.inf], [-np.inf]).error == np.inf
    assert measure([0.1], [0]).scale == 1
    assert measure(np.zeros((0, 2)), np.zeros((0, 2))).error == 0
    assert str(measure([1.0], [1.0])) == "no difference"


def test_rows_without_a_detection_do_not_count():
    one = [0, 1, 0.5, 0.1, 0.2, 0.3, 0.4]
    np.testing.assert_array_equal(detections([[[one, [-1.0] * 7, [0.0] * 7, one]]]), [one, one])


def test_layers_that_only_give_a_shape_are_no_suspects():
    net = compile_net(NET + "layer { name: 'small' type: 'Pooling' bottom: 'pool1' top: 'small' "
                            "pooling_param { kernel_size: 2 } }\n"
                            "layer { name: 'crop' type: 'Crop' bottom: 'data' bottom: 'small' top: 'crop' }")
    inputs = random_inputs(net)
    first = compare(net, net.init(KEY), {"in:data": inputs["data"], "crop": inputs["data"][:, :, 3:6, 3:7]}).first
    assert first.explanation.suspects == ("crop",)


# Wrong references.


def test_what_wrong_references_are_told(net, variables, tmp_path):
    data = random_inputs(net)["data"]
    with pytest.raises(JaffeError, match=r"reference has no blob of net 'small': found pool9; expected any of conv1"):
        compare(net, variables, {"pool9": data, "in:data": data})
    with pytest.raises(JaffeError, match=r"input 'data' \(2, 3, 8, 11\) is neither given nor in the reference: "):
        compare(net, variables, {"prob": np.zeros((2, 13))})
    with pytest.raises(JaffeError, match="the reference: 'prob': expected an array of numbers; found <U1"):
        compare(net, variables, {"prob": np.array(["a"])})
    with pytest.raises(JaffeError, match=r"gone.npz: cannot be read: No such file"):
        compare(net, variables, tmp_path / "gone.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(JaffeError, match=r"text.npz: is not an .npz file of arrays"):
        compare(net, variables, tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", data)
    with pytest.raises(JaffeError, match=r"one.npy: expected an .npz file of arrays by name; found a single array"):
        compare(net, variables, tmp_path / "one.npy")
    with pytest.raises(JaffeError, match="'conv1'"):
        compare(net, variables, {"in:data": data[:, :2], "prob": np.zeros((2, 13))})
