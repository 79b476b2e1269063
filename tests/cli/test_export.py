"""``jaffe export``."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest

from jaffe.netdef.weights import write_weights
from tests.cli.test_cli import jaffe

NET = """name: "net"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 7 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5 } }
layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
"""
RANDOM = np.random.default_rng(2)
WEIGHTS = {"ip": [RANDOM.normal(size=(5, 7)).astype("f"), RANDOM.normal(size=5).astype("f")]}


def test_both_formats(tmp_path: Path):
    (tmp_path / "net.prototxt").write_text(NET)
    write_weights(tmp_path / "w.caffemodel", WEIGHTS)
    output = jaffe("export", "net.prototxt", "--weights", "w.caffemodel", "--onnx", "net.onnx", "--stablehlo",
                   "net.bin", cwd=tmp_path)
    sizes = [(tmp_path / name).stat().st_size for name in ("net.onnx", "net.bin")]
    assert output == (
        f"net.onnx: ONNX, opset 18, {sizes[0]:,} bytes\n  input   x  (N, 7)\n  output  y  (N, 5)\n"
        f"net.bin: StableHLO for cpu, cuda, {sizes[1]:,} bytes\n  input   x  (N, 7)\n  output  y  (N, 5)\n")
    x = RANDOM.normal(size=(3, 7)).astype("f")
    weight, bias = WEIGHTS["ip"]
    expected = np.maximum(x @ weight.T + bias, 0)
    (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    artefact = jax.export.deserialize(bytearray((tmp_path / "net.bin").read_bytes()))
    np.testing.assert_allclose(artefact.call({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


def test_a_blob_of_a_net_for_training(tmp_path: Path):
    output = jaffe("export", "lenet", "--onnx", "net.onnx", "--output", "ip2", "--batch", "4", cwd=tmp_path)
    assert output.splitlines()[1:] == ["  input   data  (4, 1, 28, 28)", "  output  ip2  (4, 10)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "jaffe: expected --onnx or --stablehlo: the file to write"),
        (["--onnx", "there.onnx"], "jaffe: there.onnx is there already; --force overwrites it"),
        (["--onnx", "a", "--stablehlo", "./a"], "jaffe: --onnx and --stablehlo name the same file, ./a"),
        (["--onnx", "a", "--stablehlo", "there.onnx"], "jaffe: there.onnx is there already; --force overwrites it"),
        (["--onnx", "a", "--stablehlo", "gone/b", "--weights", "gone"],
         "jaffe: gone/b: cannot be written: No such file or directory"),
        (["--onnx", ".", "--force", "--weights", "gone"], "jaffe: .: cannot be written: Is a directory"),
        (["--onnx", "a", "--platforms", "cpu"], "jaffe: --platforms is for --stablehlo; an ONNX file has none"),
        (["--onnx", "a.onnx", "--weights", "other.npz"], "jaffe: no layer of other.npz is in net 'net'"),
        (["--onnx", "a.onnx", "--output", "z"], "jaffe: the net has no blob 'z'"),
        (["--stablehlo", "a", "--platforms", "cpu, gpu", "--weights", "gone"],
         "jaffe: platforms is a list of cpu, cuda, rocm, tpu; received ['cpu', 'gpu']"),
    ],
)
def test_wrong_options(arguments, message, tmp_path: Path):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "there.onnx").write_text("")
    write_weights(tmp_path / "other.npz", {"else": [np.ones(2)]})
    assert message in jaffe("export", "net.prototxt", *arguments, cwd=tmp_path, status=1)
    assert not (tmp_path / "a").exists()


def test_a_batch_in_place_of_an_inputs(tmp_path: Path):
    (tmp_path / "net.prototxt").write_text(NET)
    output = jaffe("export", "net.prototxt", "--stablehlo", "net.bin", "--platforms", "cpu, cuda", "--batch", "4",
                   "--input", "x=3,11", cwd=tmp_path)
    assert output.startswith("net.bin: StableHLO for cpu, cuda, ")
    assert output.splitlines()[1:] == ["  input   x  (4, 11)", "  output  y  (4, 5)"]
    assert "in place of the first size of --input" in " ".join(jaffe("export", "--help").split())


def test_weights_that_a_file_lacks(tmp_path: Path):
    more = NET + 'layer { name: "more" type: "PReLU" bottom: "y" top: "z" }'
    (tmp_path / "net.prototxt").write_text(more)
    write_weights(tmp_path / "w.npz", WEIGHTS)
    arguments = ("export", "net.prototxt", "--weights", "w.npz", "--onnx", "a.onnx")
    assert jaffe(*arguments, cwd=tmp_path, status=1) == "jaffe: w.npz has no weights for more of net 'net'\n"
    assert "output  y  (N, 5)" in jaffe(*arguments, "--output", "y", cwd=tmp_path)
