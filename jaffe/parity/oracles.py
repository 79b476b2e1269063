"""References computed here: onnxruntime, OpenCV 4, another jaffe net, float64."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.net import CompiledNet, Variables
from jaffe.netdef.errors import JaffeError
from jaffe.parity.reference import Reference
from jaffe.parity.walk import Walk


def random_inputs(net: CompiledNet, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal values for every input of more than one axis, zeros (labels) for the others."""
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(spec.shape) if len(spec.shape) > 1 else np.zeros(spec.shape)).astype(np.float32)
        for name, spec in net.inputs.items()
    }


def run_net(
    net: CompiledNet, variables: Variables, inputs: Mapping[str, Any], rng: jax.Array | None = None, name: str = ""
) -> Reference:
    """A jaffe net as a reference: every value of it, those before in-place layers too."""
    values = {key: np.asarray(value) for key, value in Walk(net, variables, inputs, {}, rng).free.items()}
    blobs = {f"{key}#0" if key in net.graph.blobs else key: value for key, value in values.items()}
    blobs |= {blob: values[value] for blob, value in net.graph.blobs.items()}
    fed = {key: np.asarray(inputs[key]) for key in net.inputs}
    return Reference(blobs, fed, name=name or f"{net.name or 'the other net'} ({net.dtype})")


def in_float64(make: Callable[[Any], tuple[CompiledNet, Variables]], inputs: Mapping[str, Any]) -> Reference:
    """The same net computed in float64. ``make`` gives the net and its variables for a dtype."""
    with jax.enable_x64(True):
        net, variables = make(jnp.float64)
        return run_net(net, variables, inputs, name="float64")


def run_onnx(path: str | os.PathLike[str], inputs: Mapping[str, Any]) -> Reference:
    """Every tensor of an ONNX model, as onnxruntime computes it without optimisations.

    Inputs go by name, or in order when the names differ. Tensors are matched by name, and nodes that are named
    as a layer by that.

    Raises:
        JaffeError: onnx or onnxruntime is not installed, the file is no ONNX model, or the inputs do not fit.
    """
    onnx, runtime = _module("onnx"), _module("onnxruntime")
    path = Path(path)
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
    except Exception as error:  # protobuf and onnx each raise their own kinds
        raise JaffeError(f"{path}: is not an ONNX model: {error}") from None
    stored = {tensor.name for tensor in model.graph.initializer}
    wanted = [one.name for one in model.graph.input if one.name not in stored]
    if len(wanted) != len(inputs):
        raise JaffeError(f"{path.name}: expected {len(inputs)} inputs ({', '.join(inputs)}); found {', '.join(wanted)}")
    names = dict(zip(wanted, inputs, strict=True)) if set(wanted) != set(inputs) else {name: name for name in wanted}
    shown = {one.name for one in model.graph.output}
    tensors = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in shown)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        arrays = session.run(tensors, {name: np.asarray(inputs[key], np.float32) for name, key in names.items()})
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise JaffeError(f"{path.name}: onnxruntime fails: {error}") from None
    blobs = {name: array for name, array in zip(tensors, arrays, strict=True) if isinstance(array, np.ndarray)}
    layers = {
        node.name: tuple(blobs[name] for name in node.output)
        for node in model.graph.node if node.name and all(name in blobs for name in node.output)
    }
    return Reference(blobs, {key: np.asarray(value) for key, value in inputs.items()}, layers, path.name)


def run_opencv(
    net: CompiledNet, prototxt: str | os.PathLike[str], weights: str | os.PathLike[str], inputs: Mapping[str, Any]
) -> Reference:
    """Every layer of a net, as OpenCV 4 computes it from the same two files.

    Raises:
        JaffeError: OpenCV 4 is not installed (OpenCV 5 cannot read Caffe's files), or it refuses the net.
    """
    cv2 = _module("cv2", "opencv-python-headless<5")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise JaffeError(f"OpenCV {cv2.__version__} does not read Caffe's files: "
                         "pip install 'opencv-python-headless<5'")
    try:
        other = cv2.dnn.readNetFromCaffe(os.fspath(prototxt), os.fspath(weights))
        other.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        other.enableFusion(False)
        for name, array in inputs.items():
            other.setInput(np.asarray(array, np.float32), name)
        names = set(other.getLayerNames())
        wanted = [node.name for node in net.graph.nodes if node.name in names]
        tops = other.forwardAndRetrieve(wanted)
    except cv2.error as error:
        raise JaffeError(f"OpenCV {cv2.__version__} refuses the net: {error.err or error}") from None
    layers = {name: tuple(np.array(top) for top in one) for name, one in zip(wanted, tops, strict=True)}
    return Reference({}, {key: np.asarray(value) for key, value in inputs.items()}, layers, f"OpenCV {cv2.__version__}")


def _module(name: str, package: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise JaffeError(f"this reference needs {name}: pip install '{package or name}'") from None
