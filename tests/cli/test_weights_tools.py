"""``jaffe convert`` and ``jaffe diff``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef import NetParameter, read_weights
from jaffe.netdef.jaffe_pb2 import LayerParameter, V1LayerParameter
from jaffe.netdef.weights import array_to_blob, write_weights
from tests.cli.test_cli import jaffe

RANDOM = np.random.default_rng(2)
WEIGHTS = {"ip1": [RANDOM.normal(size=(5, 7)), RANDOM.normal(size=5)], "a/b": [RANDOM.normal(size=3)]}
NET = """name: "net"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 7 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5 } }
"""


def test_convert_and_diff(tmp_path: Path):
    write_weights(tmp_path / "a.npz", WEIGHTS)
    assert jaffe("convert", "a.npz", "b.caffemodel", cwd=tmp_path).startswith("b.caffemodel: ")
    assert jaffe("convert", "b.caffemodel", "c.safetensors", cwd=tmp_path).startswith("c.safetensors: ")
    assert jaffe("diff", "a.npz", "c.safetensors", cwd=tmp_path) == "equal: 2 layers, 3 blobs\n"
    assert jaffe("convert", "a.npz", "b.caffemodel", cwd=tmp_path, status=1) == (
        "jaffe: b.caffemodel is there already; --force overwrites it\n")
    jaffe("convert", "a.npz", "b.caffemodel", "--force", cwd=tmp_path)
    assert jaffe("convert", "a.npz", "b.h5", cwd=tmp_path, status=1) == (
        "jaffe: layer 'a/b' (b.h5): Caffe's HDF5 files cannot hold a layer of this name; expected another format, "
        "such as .caffemodel\n")
    assert jaffe("convert", "a.npz", "b.pt", cwd=tmp_path, status=1).startswith("jaffe: b.pt: expected a name")
    assert jaffe("convert", "gone", "b.npz", cwd=tmp_path, status=1) == (
        "jaffe: gone: cannot be read: No such file or directory\n")


def test_diff_of_what_differs(tmp_path: Path):
    write_weights(tmp_path / "a.npz", {"[red]": [np.array([1, 2, 3.0])], "ip": [np.zeros((3, 2)), np.zeros(2)],
                                       "gone": [np.ones(1)], "same": [np.array([np.nan, 1])], "old": [np.ones(3)]})
    write_weights(tmp_path / "b.npz", {"[red]": [np.array([1, 2.5, -3.0])], "ip": [np.zeros((2, 3))],
                                       "same": [np.array([np.nan, 1])], "new": [np.ones(1)],
                                       "old": [np.ones((1, 1, 1, 3))]})
    output = jaffe_that_differs("diff", "a.npz", "b.npz", cwd=tmp_path)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    assert rows == [
        ["[red]", "0", "", "2", "6", "2"],
        ["ip", "0", "(3, 2) and (2, 3)", "", "", ""],
        ["ip", "1", "only in A", "", "", ""],
        ["gone", "", "only in A", "", "", ""],
        ["new", "", "only in B", "", "", ""],
    ]
    assert "A is a.npz, B is b.npz; 2 of 4 layers in both are equal" in output


def jaffe_that_differs(*arguments: str, cwd: Path) -> str:
    """What the command prints where it ends with status 1 and no error."""
    import os
    import subprocess

    from tests.cli.test_cli import COMMAND

    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


@pytest.mark.parametrize("what", ["infinite", "nan"])
def test_diff_of_numbers_that_are_none(tmp_path: Path, what: str):
    write_weights(tmp_path / "a.npz", {"l": [np.array([1.0, np.inf])]})
    write_weights(tmp_path / "b.npz", {"l": [np.array([np.nan if what == "nan" else -np.inf, np.inf])]})
    assert "inf" in jaffe_that_differs("diff", "a.npz", "b.npz", cwd=tmp_path)


def test_convert_with_a_net(tmp_path: Path):
    """Old shapes take the net's; .caffemodel holds the declaration; layers must be there."""
    (tmp_path / "net.prototxt").write_text(NET)
    old = NetParameter()
    layer = old.layers.add(name="ip1")
    for array in (WEIGHTS["ip1"][0].reshape(1, 1, 5, 7), WEIGHTS["ip1"][1].reshape(1, 1, 1, 5)):
        blob = array_to_blob(array)
        blob.num, blob.channels, blob.height, blob.width = array.shape
        layer.blobs.append(blob)
    old.layers.add(name="elsewhere").blobs.append(blob)
    (tmp_path / "old.caffemodel").write_bytes(old.SerializeToString())
    assert jaffe("convert", "old.caffemodel", "new.h5", cwd=tmp_path, status=1) == (
        "jaffe: old.caffemodel has blobs of four axes, as in files of 2014: expected --net, for the shapes that "
        "Caffe's later formats have\n")
    output = jaffe("convert", "old.caffemodel", "new.caffemodel", "--net", "net.prototxt", cwd=tmp_path)
    assert output.startswith("left out, for the net has no such layers: elsewhere\nnew.caffemodel: ")
    net = NetParameter.FromString((tmp_path / "new.caffemodel").read_bytes())
    assert (net.layer[1].type, list(net.layer[1].blobs[0].shape.dim)) == ("InnerProduct", [5, 7])
    assert jaffe("diff", "old.caffemodel", "new.caffemodel", cwd=tmp_path, status=1) == ""
    (tmp_path / "more.prototxt").write_text(NET + NET.splitlines()[2].replace("ip1", "ip2").replace('"y"', '"z"'))
    assert jaffe("convert", "old.caffemodel", "more.npz", "--net", "more.prototxt", cwd=tmp_path, status=1) == (
        "jaffe: old.caffemodel has no weights for ip2 of net 'net'\n")


@pytest.mark.parametrize("count", [1, 2])
def test_convert_of_a_file_with_an_old_blob(tmp_path: Path, count: int):
    """Its shape is not the true one, whatever the others are; that of a convolution is."""
    def file(shape: tuple[int, ...]) -> None:
        blobs = [array_to_blob(np.ones(6)) for _ in range(count)]
        blobs[0].num, blobs[0].channels, blobs[0].height, blobs[0].width = shape
        (tmp_path / "a.caffemodel").write_bytes(
            NetParameter(layers=[V1LayerParameter(name="l", blobs=blobs)]).SerializeToString())

    file((1, 1, 2, 3))
    assert "has blobs of four axes, as in files of 2014: expected --net" in jaffe(
        "convert", "a.caffemodel", "b.h5", cwd=tmp_path, status=1)
    file((2, 3, 1, 1))
    jaffe("convert", "a.caffemodel", "b.h5", cwd=tmp_path)


def test_layers_of_one_name(tmp_path: Path):
    layer = LayerParameter(name="l", blobs=[array_to_blob(np.ones(6))])
    (tmp_path / "a.caffemodel").write_bytes(NetParameter(layer=[layer, layer]).SerializeToString())
    for command in ("convert", "diff"):
        assert jaffe(command, "a.caffemodel", "b.h5", cwd=tmp_path, status=1) == (
            "jaffe: layer 'l' (a.caffemodel): several layers of this name have blobs\n")


def test_convert_what_shares(tmp_path: Path):
    write_weights(tmp_path / "a.npz", {"one": [np.ones((2, 2)), np.ones(2)], "two": [None, np.ones(2)]})
    assert jaffe("convert", "a.npz", "b.caffemodel", cwd=tmp_path, status=1) == (
        "jaffe: a.npz leaves out blobs of layer 'two', which shares them with an earlier one: expected --net, which "
        "says with which\n")
    jaffe("convert", "a.npz", "b.h5", cwd=tmp_path)
    assert jaffe("diff", "a.npz", "b.h5", cwd=tmp_path) == "equal: 2 layers, 4 blobs\n"


def test_convert_a_snapshot(tmp_path: Path):
    import jax

    from jaffe import compile_net, zoo
    from jaffe.train.snapshots import save_variables

    net = compile_net(zoo.logreg())
    variables = net.init(jax.random.key(3))
    save_variables(tmp_path / "iter_5", variables)
    assert jaffe("convert", "iter_5", "net.h5", cwd=tmp_path, status=1) == (
        "jaffe: iter_5 is a folder: expected --net, the net whose snapshot it is\n")
    jaffe("convert", "iter_5", "net.h5", "--net", "logreg", cwd=tmp_path)
    weight, bias = read_weights(tmp_path / "net.h5")["scores"]
    np.testing.assert_array_equal(weight, variables["params"]["scores"]["weight"])
    np.testing.assert_array_equal(bias, variables["params"]["scores"]["bias"])


def test_convert_a_run_for_caffe(tmp_path: Path):
    """A run goes on from the .solverstate as from the snapshot that it was made of."""
    from jaffe import Solver, zoo

    def run(**settings):
        return Solver(zoo.recipe("logreg"), test_iter=[], **settings)

    run(max_iter=5, snapshot_prefix=str(tmp_path / "run")).run()
    snapshot = tmp_path / "run_snapshots" / "iter_5"
    output = jaffe("convert", str(snapshot), "a.solverstate", "--net", "logreg", cwd=tmp_path)
    assert "a.caffemodel: the weights that it names" in output
    one, other = run(), run()
    one.restore(snapshot)
    other.restore(tmp_path / "a.solverstate")
    np.testing.assert_array_equal(one.step(3), other.step(3))
    assert jaffe("convert", str(snapshot), "b.solverstate", cwd=tmp_path, status=1) == (
        "jaffe: b.solverstate: expected a snapshot and --net, the net that was trained\n")
    jaffe("convert", "a.caffemodel", "iter_0", "--net", "logreg", cwd=tmp_path)
    told = jaffe("convert", "iter_0", "b.solverstate", "--net", "logreg", cwd=tmp_path, status=1)
    assert "or holds weights only" in told


def test_convert_to_a_snapshot(tmp_path: Path):
    (tmp_path / "net.prototxt").write_text(NET)
    write_weights(tmp_path / "a.npz", {"ip1": WEIGHTS["ip1"]})
    assert jaffe("convert", "a.npz", "iter_0", cwd=tmp_path, status=1) == (
        "jaffe: iter_0: a snapshot has a net's own names: expected --net\n")
    assert jaffe("convert", "a.npz", "iter_x", "--net", "net.prototxt", cwd=tmp_path, status=1) == (
        "jaffe: iter_x: a snapshot is a folder called iter_N, such as iter_0\n")
    assert jaffe("convert", "a.npz", "iter_0", "--net", "net.prototxt", cwd=tmp_path).startswith("iter_0: ")
    for name in ("iter_10000.npz", "iter_10000.caffemodel"):
        assert jaffe("convert", "a.npz", name, cwd=tmp_path).startswith(f"{name}: ")
        assert jaffe("convert", "a.npz", name, "--force", "--net", "net.prototxt", cwd=tmp_path).startswith(f"{name}: ")
        assert jaffe("diff", "a.npz", name, cwd=tmp_path) == "equal: 1 layers, 2 blobs\n"
    assert "iter_5.pt: expected a name" in jaffe("convert", "a.npz", "iter_5.pt", cwd=tmp_path, status=1)
    jaffe("convert", "iter_0", "b.npz", "--net", "net.prototxt", cwd=tmp_path)
    assert jaffe("diff", "a.npz", "b.npz", cwd=tmp_path) == "equal: 1 layers, 2 blobs\n"
