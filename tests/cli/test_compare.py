"""jaffe compare: references of every kind, exit status, and what it says of wrong options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import NetParameter
from jaffe.netdef.weights import array_to_blob
from tests.parity.test_compare import NET, record

COMMAND = [sys.executable, "-c", "from jaffe.cli import main; main()", "compare"]
FLOOR = NET.replace("kernel_size: 3 stride: 2 }", "kernel_size: 3 stride: 2 round_mode: FLOOR }")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The net, its weights, the weights as float16 holds them, and recordings with and without a mistake."""
    path = tmp_path_factory.mktemp("compare")
    variables = compile_net(NET).init(jax.random.key(2))
    (path / "small.prototxt").write_text(NET)
    (path / "sloped.prototxt").write_text(NET.replace("top: 'prob'", "top: 'prob' softmax_param { axis: 0 }"))
    for name, dtype in (("small", np.float32), ("half", np.float16)):
        file = NetParameter()
        for layer, weights in variables["params"].items():
            blobs = [array_to_blob(np.asarray(array).astype(dtype).astype(np.float32)) for array in weights.values()]
            file.layer.add(name=layer).blobs.extend(blobs)
        (path / f"{name}.caffemodel").write_bytes(file.SerializeToString())
    np.savez(path / "right.npz", **record(NET, variables, "conv1 pool1 conv2 ip prob"))
    wrong = NET.replace("name: 'relu2' type: 'ReLU'", "name: 'relu2' type: 'ReLU' relu_param { negative_slope: 0.1 }")
    np.savez(path / "wrong.npz", **record(wrong, variables, "conv1 pool1 conv2 ip prob"))
    np.save(path / "data.npy", np.ones((1, 3, 8, 11), np.float32))
    return path


def compare(folder: Path, *arguments: str, status: int = 0, net: str = "small.prototxt small.caffemodel") -> str:
    done = subprocess.run([*COMMAND, *net.split(), *arguments], cwd=folder, capture_output=True, text=True,
                          timeout=300, check=False, env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_recorded(folder: Path):
    output = compare(folder, "--against", "right.npz")
    assert "small (TEST) against right.npz, tolerance 0.0001 of each blob's scale" in output
    assert "equal: 5 of 7 values compared" in output
    output = compare(folder, "--against", "wrong.npz", status=1)
    assert "first difference: layer 'relu2' (small.prototxt:9), ReLU, value 'conv2#1'" in output
    assert "when negative_slope is 0.1 (layer 'relu2')" in output
    assert "equal:" in compare(folder, "--against", "wrong.npz", "--tolerance", "1")


def test_the_input_may_be_given(folder: Path):
    output = compare(folder, "--against", "right.npz", "--input", "data=data.npy", status=1)
    assert "shape (1, 5, 8, 11); the reference has (2, 5, 8, 11)" in output


def test_another_configuration(folder: Path):
    assert "small (TEST) against small.prototxt" in compare(folder, "--against", "small.prototxt")
    output = compare(folder, "--against", "sloped.prototxt", "--input", "data=3,3,8,11", status=1)
    assert "when the softmax runs along axis 0 (layer 'prob')" in output
    output = compare(folder, "--against", "small.prototxt", "--against-weights", "half.caffemodel", status=1)
    assert "layer 'conv1'" in output
    assert "the weights are rounded to float16" in output


def test_float64(folder: Path):
    assert "against float64" in compare(folder, "--against", "float64", "--tolerance", "1e-6")


def test_opencv(folder: Path):
    pytest.importorskip("cv2")
    assert "equal: 7 of 7 values compared" in compare(folder, "--against", "opencv", "--seed", "3")
    output = compare(folder, "--against", "opencv", "--against-weights", "half.caffemodel", status=1)
    assert "the weights are rounded to float16 (layer 'conv1')" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "jaffe: expected --against: an .npz of blobs, an .onnx model, opencv, float64, or another prototxt"),
        (["--against", "gone.npz"], "jaffe: gone.npz: cannot be read: No such file or directory"),
        (["--against", "gone.prototxt"], "jaffe: gone.prototxt: cannot be read: No such file or directory"),
        (["--against", "right.npz", "--input", "data=gone.npy"], "--input data=gone.npy: cannot be read"),
        (["--against", "float64", "--input", "dota=data.npy"], "the net has no input 'dota'; did you mean 'data'?"),
    ],
)
def test_wrong_options(folder: Path, arguments: list[str], message: str):
    assert message in compare(folder, *arguments, status=1)
