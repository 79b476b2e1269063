"""ONNX models run by onnxruntime: every layer's net against jaffe, recorded values of Caffe, and whole nets."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from jaffe import zoo
from jaffe.compile import compile_net, layer_types, load_weights
from jaffe.compile.exported import exported_part
from jaffe.compile.layer import make_layer
from jaffe.compile.onnx.model import MOST_BYTES
from jaffe.compile.onnx.writer import OPSET, WRITERS, Call, Value, Writer
from jaffe.netdef import JaffeError, SpecError, deploy, resolve
from tests.compile.test_every_layer import KEY, make_inputs, used
from tests.compile.test_goldens import CASES, agree
from tests.nets import NETS
from tests.nets.case import X, one

# Layer types without a form in ONNX, and why. A new type is either written or comes here with its reason.
REFUSED = {
    "Accuracy": "measures a net against labels",
    "CTCLoss": "a loss",
    "ContrastiveLoss": "a loss",
    "EuclideanLoss": "a loss",
    "HingeLoss": "a loss",
    "InfogainLoss": "a loss",
    "MultiBoxLoss": "a loss",
    "MultinomialLogisticLoss": "a loss",
    "SigmoidCrossEntropyLoss": "a loss",
    "SmoothL1Loss": "a loss",
    "SoftmaxWithLoss": "a loss",
    "DetectionOutput": "ONNX's NonMaxSuppression gives as many rows as it finds, and knows no eta",
    "CTCGreedyDecoder": "writes each label to a place that depends on those before it",
    "Python": "code",
    "Silence": "gives nothing, so nothing leads to it",
    "HDF5Output": "gives nothing, so nothing leads to it",
}
# Nets that are refused for their settings, and what is said.
REFUSED_NETS = {"dummy": "DummyData: draws at random at every call"}
# Nets that do not take any batch, and what is said.
ONE_BATCH = {
    "parameter": "layer 'product' (<text>:3): bottoms have one shape; found (3, 3, 7, 5), (2, 3, 7, 5)",
    "lstm_unit": "layer 'l' (<text>:4): expected a first bottom, c, of shape (1, N, H); found (2, 3, 5)",
}


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, inputs) -> dict[str, np.ndarray]:
    it = session(model)
    values = it.run(None, {value.name: np.asarray(inputs[value.name], np.float32) for value in it.get_inputs()})
    return {value.name: array for value, array in zip(it.get_outputs(), values, strict=True)}


def same(found: np.ndarray, expected, what: str, tolerance: float = 1e-5) -> None:
    """Within the tolerance of the blob's largest value; NaN and infinities at the same places."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(finite.max(initial=0), 1e-6), err_msg=what)


def is_refused(name: str) -> bool:
    part = exported_part(compile_net(NETS[name].net, phase="TEST"), None)
    return name in REFUSED_NETS or any(node.type in REFUSED for node in part.graph.nodes)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("name", NETS)
def test_every_net(name: str):
    case = NETS[name]
    net = compile_net(case.net, phase="TEST")
    variables = used(KEY, net.init(KEY))
    variables["state"].update(net.fresh_carry())
    if is_refused(name):
        with pytest.raises(SpecError, match="no ONNX form of layer"):
            net.export_onnx(variables)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = net.export_onnx(variables)
    said = [str(warning.message) for warning in caught]
    assert model.opset_import[0].version == OPSET
    length = exported_part(net, None).length
    if name in ONE_BATCH:
        (reason,) = said
        assert reason.endswith(f"as not every batch fits. {ONE_BATCH[name]}")
        batches = [length]
    else:
        assert not said
        batches = [1, 3]
    several = [make_inputs(net, case, seed) for seed in range(2)]
    for batch in batches:
        inputs = {
            key: np.concatenate([one[key] for one in several])[:batch] if value.shape[:1] == (length,) else value
            for key, value in several[0].items()
        }
        expected, _ = jax.jit(net.apply)(variables, inputs, KEY)
        for blob, found in run(model, inputs).items():
            same(found, expected[blob], f"{blob}, batch {batch}")


def test_every_layer_type_is_written_or_refused():
    inputs = {name for name in layer_types() if getattr(registered(name), "source", False)}
    assert set(layer_types()) - set(WRITERS) - inputs == set(REFUSED)
    assert not set(WRITERS) & set(REFUSED)


def registered(name: str):
    from jaffe.compile.layer import _REGISTRY

    return _REGISTRY[name]


def recorded(path: Path) -> tuple[str, list[str]] | None:
    """The net of a recording and those of its blobs that have a form in ONNX and are the same in phase TEST."""
    z = np.load(path)
    text = str(z["prototxt"])
    graph = resolve(text)
    if str(z["phase"]) == "TRAIN" and {"BatchNorm", "Dropout"} & {node.type for node in graph.nodes}:
        return None
    unwritten: set[str] = set()
    for node in graph.nodes:
        if not make_layer(node).source and (node.type not in WRITERS or unwritten.intersection(node.bottoms)):
            unwritten.update(node.tops)
    inputs = [top for node in graph.nodes if make_layer(node).source for top in node.tops]
    names = [blob for blob, value in graph.blobs.items()
             if {f"top:{blob}", f"top:{blob}:0"} & set(z.files) and value not in {*unwritten, *inputs}]
    return (text, names) if names else None


RECORDED = {path.stem: path for path in CASES if recorded(path)}


def test_most_recordings_are_used():
    assert len(RECORDED) == 90


@pytest.mark.parametrize("name", RECORDED)
def test_values_recorded_from_caffe(name: str):
    z = np.load(RECORDED[name])
    text, blobs = recorded(RECORDED[name])
    net = compile_net(text, phase="TEST")
    stored: dict[str, list[np.ndarray]] = {}
    for key in z.files:
        if key.startswith("param:"):
            stored.setdefault(key.split(":")[1], []).append(z[key])
    variables = net.init(jax.random.key(0))
    variables = load_weights(net, variables, stored) if stored else variables
    found = run(net.export_onnx(variables, outputs=blobs, batch=None),
                {blob: z[f"in:{blob}" if f"in:{blob}" in z else f"in:{blob}:0"] for blob in net.inputs})
    for output, array in found.items():
        blob = output.split("#")[0]
        expected = z[f"top:{blob}" if f"top:{blob}" in z else f"top:{blob}:0"]
        if name == "filter":  # Caffe's top ends after the selected items
            array = array[: len(expected)]
        agree(array, expected, blob)


def pools(seed: int) -> str:
    random = np.random.default_rng(seed)
    kernel = random.integers(1, 5, 2)
    sides = "tblr" if random.random() < 0.5 else "hw"
    limits = np.repeat(kernel, len(sides) // 2)
    pad = [random.integers(0, k) for k in limits] if random.random() < 0.7 else [0] * len(limits)
    stride = random.integers(1, 7, 2)
    method = random.choice(["MAX", "AVE"])
    settings = (f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
                f"round_mode: {random.choice(['CEIL', 'FLOOR'])} pool: {method} "
                + " ".join(f"pad_{side}: {size}" for side, size in zip(sides, pad, strict=True)))
    return one("Pooling", f"pooling_param {{ {settings} }}", tops="t mask" if method == "MAX" and seed % 3 else "t")


@pytest.mark.parametrize("seed", range(60))
def test_geometry_of_pools(seed: int):
    """Windows over the border, dropped last windows, strides past the kernel, with and without a cell in them; ties."""
    net = compile_net(pools(seed))
    x = np.random.default_rng(seed).integers(0, 5, (2, 3, 7, 5)).astype(np.float32)
    expected, _ = net.apply({}, {"x": x})
    if (np.asarray(expected.get("mask", 0)) < 0).any():  # a window without a cell
        with pytest.raises(SpecError, match="the places of maxima, with windows that lie outside the image"):
            net.export_onnx({})
        return
    for blob, found in run(net.export_onnx({}), {"x": x}).items():
        same(found, expected[blob], f"{blob} {net.graph.nodes[-1].proto}")


def test_reductions_over_no_axes():
    """Where ONNX reduces over all axes, and onnxruntime leaves out the square."""
    writer = Writer(np.dtype(np.float32))
    call = Call(make_layer(resolve(one("ReLU")).nodes[-1]), [Value("x", (2, 3))], [(2, 3)], {}, writer)
    ops = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL1")
    for op in ops:
        writer.identity(call.reduce(op, "x", [], keep=True), op)
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", *ops)]
    graph = onnx.helper.make_graph(writer.nodes, "g", values[:1], values[1:], list(writer.constants.values()))
    opset = [onnx.helper.make_opsetid("", OPSET)]
    x = np.array([[-3, 2, 0], [1, -2, 5]], np.float32)
    found = run(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), {"x": x})
    for op, expected in zip(ops, (x, x, x, x * x, abs(x)), strict=True):
        np.testing.assert_array_equal(found[op], expected, op)


def test_constants_are_held_once():
    writer = Writer(np.dtype(np.float32))
    array = np.arange(10**6, dtype=np.float32)
    tracemalloc.start()
    try:
        first = writer.constant(array, "a")
        writer.constants.clear()
        assert tracemalloc.get_traced_memory()[0] < array.nbytes / 2
    finally:
        tracemalloc.stop()
    assert writer.constant(array.copy(), "b") == first != writer.constant(-array, "c")


def test_a_file_has_room_for_the_graph():
    net = compile_net(zoo.lenet(), phase="TEST")
    model = net.export_onnx(net.init(KEY), outputs=["ip2"])
    rest = model.ByteSize() - sum(len(one.raw_data) for one in model.graph.initializer)
    assert MOST_BYTES + 1000 * rest < 2**31


def test_all_layers_without_a_form_are_named():
    net = compile_net(zoo.lenet(), phase="TEST")
    variables = net.init(KEY)
    with pytest.raises(SpecError) as caught:
        net.export_onnx(variables)
    assert re.sub(r"parts\.py:\d+", "parts.py:N", str(caught.value)) == (
        "no ONNX form of layer 'accuracy' (parts.py:N) Accuracy; layer 'loss' (parts.py:N) SoftmaxWithLoss; "
        "outputs=['ip2'] (--output ip2) leaves them out")
    model = net.export_onnx(variables, outputs=["ip2"])
    assert [value.name for value in model.graph.input] == ["data"]  # no label
    assert [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == ["N", 10]
    with pytest.raises(SpecError) as caught:
        compile_net(one("Dropout", "phase: TRAIN").replace('"l"', '"d"')).export_onnx({})
    assert str(caught.value) == ("no ONNX form of layer 'd' (<text>:2) Dropout: drops at random, as its own phase is "
                                 "TRAIN")


def test_wrong_calls(tmp_path: Path):
    net = compile_net(one("ReLU"), phase="TRAIN")
    with pytest.raises(JaffeError, match="in phase TRAIN; expected TEST"):
        net.export_onnx({})
    net = compile_net(one("PReLU"))
    with pytest.raises(SpecError, match=r"the variables have no 'params' 'l' 'slope'; make them with net.init\(key\)"):
        net.export_onnx({})
    for wrong, found in ((np.zeros(2), "(2,)"), (np.zeros((3, 1)), "(3, 1)")):
        message = re.escape(f"params 'l' 'slope': expected shape (3,); found {found}")
        with pytest.raises(SpecError, match=message):
            net.export_onnx({"params": {"l": {"slope": wrong}}})
    for wrong, found in (("abc", "'abc'"), ([[1, 2], [3]], r"\[\[1, 2\], \[3\]\]")):
        with pytest.raises(SpecError, match=f"params 'l' 'slope': expected an array of numbers; found {found}"):
            net.export_onnx({"params": {"l": {"slope": wrong}}})
    with pytest.raises(JaffeError, match=r"as net.init\(key\) makes them; received \[1\]"):
        net.export_onnx([1])
    variables = net.init(KEY)
    with pytest.raises(JaffeError, match="the net has no blob 'tt'; did you mean 't'"):
        net.export_onnx(variables, outputs=["tt"])
    with pytest.raises(JaffeError, match="outputs is a list of blobs; received 't'"):
        net.export_onnx(variables, outputs="t")
    with pytest.raises(JaffeError, match="batch: sizes are positive whole numbers"):
        net.export_onnx(variables, batch=True)
    with pytest.raises(JaffeError, match=r"gone/net\.onnx: cannot be written: No such file or directory"):
        net.export_onnx(variables, tmp_path / "gone" / "net.onnx")


def test_file_and_batch(tmp_path: Path):
    net = compile_net(one("ReLU"))
    net.export_onnx({}, tmp_path / "net.onnx", batch=5)
    (value,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()
    assert value.shape == [5, 3, 7, 5]
    assert session(net.export_onnx({}, batch=None)).get_inputs()[0].shape == [2, 3, 7, 5]


def test_names_of_outputs():
    net = compile_net(X + """
    layer { name: "a" type: "ReLU" bottom: "x" top: "x" }
    layer { name: "b" type: "Power" bottom: "x" top: "y" power_param { shift: -1 } }
    layer { name: "early" type: "AbsVal" bottom: "y" top: "early" }
    layer { name: "c" type: "ReLU" bottom: "y" top: "y" }
    layer { name: "s" type: "Split" bottom: "y" top: "one" top: "two" }
    layer { name: "p" type: "Parameter" top: "w" parameter_param { shape { dim: 2 } } }""")
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    variables = {"params": {"p": {"weight": np.array([3.0, 4])}}}
    found = run(net.export_onnx(variables, outputs=["x", "y", "early", "one", "two", "w"]), {"x": x})
    assert list(found) == ["x#1", "y", "early", "one", "two", "w"]
    above = np.maximum(x, 0)
    np.testing.assert_array_equal(found["x#1"], above)  # "x" is the input
    np.testing.assert_array_equal(found["early"], np.abs(above - 1))
    for name in ("y", "one", "two"):
        np.testing.assert_array_equal(found[name], np.maximum(above - 1, 0))
    assert found["w"].tolist() == [3, 4]


def test_every_call_is_a_sequence_of_its_own():
    net = compile_net(NETS["lstm"].net)
    variables = used(KEY, net.init(KEY))
    inputs = make_inputs(net, NETS["lstm"])
    model = session(net.export_onnx(variables))
    feeds = {value.name: np.asarray(inputs[value.name]) for value in model.get_inputs()}
    fresh = {**variables, "state": net.fresh_carry()}
    for _ in range(2):
        same(model.run(None, feeds)[0], net.apply(fresh, inputs)[0][net.outputs[0]], "h")


# The nets of ImageNet have the same layers, and take minutes; DetectionOutput has no form in ONNX.
IN_ONNX = [name for name in zoo.RECIPES if name != "ssd_shapes" and zoo.recipe(name).data != "tfds:imagenet2012"]


@pytest.mark.parametrize("name", IN_ONNX)
def test_zoo(name: str):
    net = compile_net(deploy(zoo.recipe(name).net, batch=2))
    variables = used(KEY, net.init(KEY))
    random = np.random.default_rng(0)
    inputs = {key: random.random((3, *spec.shape[1:]), np.float32) for key, spec in net.inputs.items()}
    expected, _ = net.apply({**variables, "state": {**variables["state"], **net.fresh_carry(inputs)}}, inputs)
    # Sigmoids of such large weights are all near 1, and the scores hundreds: their last digits show in the softmax.
    tolerance = 1e-4 if "sigmoid" in name else 1e-5
    for blob, found in run(net.export_onnx(variables), inputs).items():
        same(found, expected[blob], blob, tolerance)


def published(shared: Path) -> list[dict[str, str]]:
    return json.loads((shared / "models" / "index.json").read_text())


def test_published_models(shared: Path):
    """Within 1e-4 of what Caffe computed; detectors up to their last layer, against jaffe."""
    refused = []
    for row in published(shared):
        recording = np.load(shared / "models" / "expected" / row["out"])
        inputs = {key[3:]: recording[key] for key in recording.files if key.startswith("in:")}
        net = compile_net(shared / "models" / "files" / row["proto"],
                          inputs={key: value.shape for key, value in inputs.items()})
        blank = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(net.init, KEY))
        variables = load_weights(net, blank, shared / "models" / "files" / row["weights"])
        outputs = None
        if any(node.type == "DetectionOutput" for node in net.graph.nodes):
            refused.append(Path(row["proto"]).stem)
            outputs = ["mbox_loc", "mbox_conf_flatten", "mbox_priorbox"]
        found = run(net.export_onnx(variables, outputs=outputs), inputs)
        computed = {blob: f"top:{blob}" in recording for blob in found}
        ours = {} if all(computed.values()) else jax.jit(
            lambda v, x, net=net, outputs=outputs: net.apply(v, x, blobs=outputs or ())[0])(variables, inputs)
        for blob, array in found.items():
            expected = recording[f"top:{blob}"] if computed[blob] else ours[blob]
            same(array, expected, f"{row['proto']} {blob}", 1e-4)
    assert refused == ["yufacedetectnet-open-v1", "detect"]
