"""Weights written in every format and read back, and what damaged or hostile files are told."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef import NetParameter, SpecError, read_weights, resolve
from jaffe.netdef.weights import differences, read_entries, write_weights

h5py = pytest.importorskip("h5py")
pytest.importorskip("safetensors")

RANDOM = np.random.default_rng(5)
WEIGHTS = {
    "conv": [RANDOM.normal(size=(2, 3, 5, 7)).astype(np.float32), RANDOM.normal(size=2).astype(np.float32)],
    "scalar": [np.float32(3.5).reshape(()), np.zeros((0, 3), np.float32)],
    "層 été": [np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)],
}
SUFFIXES = (".caffemodel", ".caffemodel.h5", ".h5", ".hdf5", ".safetensors", ".npz")
NET = """
name: "pair"
layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } param { name: "one" }
        inner_product_param { num_output: 3 } include { phase: TEST } }
layer { name: "two" type: "InnerProduct" bottom: "b" top: "b2" param { name: "w" } param { }
        inner_product_param { num_output: 3 } }
layer { name: "three" type: "InnerProduct" bottom: "b2" top: "c" param { name: "w" } param { name: "one" }
        inner_product_param { num_output: 3 } }
"""
W, B1, B2 = (RANDOM.normal(size=size).astype(np.float32) for size in ((3, 3), 3, 3))
SHARED = {"one": [W, B1], "two": [W, B2], "three": [W, B1]}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    write_weights(path, WEIGHTS)
    weights = read_weights(path)
    assert set(weights) == set(WEIGHTS)
    for layer, blobs in WEIGHTS.items():
        for found, blob in zip(weights[layer], blobs, strict=True):
            assert found.dtype == np.float32
            assert found.shape == blob.shape
            assert found.tobytes() == blob.tobytes()
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside it
    content = path.read_bytes()
    write_weights(path, weights)
    assert path.read_bytes() == content


def test_layer_names_with_slashes(tmp_path):
    """Many nets have them; Caffe fails to store them in HDF5."""
    weights = {"conv2/3x3": [W], "conv2/3x3/0": [B1], "/": [B2], "": [B1]}
    for suffix in (".caffemodel", ".safetensors", ".npz"):
        path = tmp_path / f"net{suffix}"
        write_weights(path, weights)
        assert not differences(read_weights(path), weights)
    with pytest.raises(SpecError) as caught:
        write_weights(tmp_path / "net.h5", weights)
    assert str(caught.value) == (f"layer 'conv2/3x3' ({tmp_path / 'net.h5'}): Caffe's HDF5 files cannot hold a layer "
                                 "of this name; expected another format, such as .caffemodel")
    assert not (tmp_path / "net.h5").exists()


@pytest.mark.parametrize("name", ["a\0b", "x" * 100_000], ids=["zero", "long"])
def test_layer_names_that_zip_files_cannot_hold(tmp_path, name):
    with pytest.raises(SpecError) as caught:
        write_weights(tmp_path / "net.npz", {name: [W]})
    assert str(caught.value) == (f"layer {name[:100]!r} ({tmp_path / 'net.npz'}): an .npz file cannot hold a layer of "
                                 f"this name ({len(name)} characters)")
    for suffix in (".caffemodel", ".safetensors"):
        write_weights(tmp_path / f"net{suffix}", {name: [W]})
        assert list(read_weights(tmp_path / f"net{suffix}")) == [name]


def test_caffemodel_holds_the_net(tmp_path):
    path = tmp_path / "net.caffemodel"
    write_weights(path, SHARED, resolve(NET))
    net = NetParameter.FromString(path.read_bytes())
    assert net.name == "pair"
    assert [layer.type for layer in net.layer] == ["Input", *["InnerProduct"] * 3]
    assert (list(net.layer[1].bottom), list(net.layer[1].top)) == (["a"], ["b"])
    assert net.layer[1].inner_product_param.num_output == 3
    assert net.layer[1].phase == 1
    assert list(net.layer[3].blobs[1].data) == B1.tolist()
    assert list(net.layer[3].blobs[0].shape.dim) == [3, 3]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_shared_blobs_stand_once(tmp_path, suffix):
    """But in .caffemodel, which has them under every layer, as Caffe does; from each the other is made."""
    graph = resolve(NET)
    once, each = tmp_path / f"once{suffix}", tmp_path / "each.caffemodel"
    write_weights(once, SHARED, graph)
    found = read_weights(once)
    assert found["two"][0] is None
    assert "three" not in found
    assert ("three" in [entry.name for entry in read_entries(once)]) == (suffix in (".caffemodel.h5", ".h5", ".hdf5"))
    write_weights(each, found, graph)
    assert not differences(read_weights(each), SHARED)
    with pytest.raises(SpecError) as caught:
        write_weights(each, found)
    assert str(caught.value) == (f"layer 'two' ({each}): a blob that the net shares with an earlier layer is left out; "
                                 "expected the net, to tell which it is")


def test_layout_of_hdf5(tmp_path):
    path = tmp_path / "net.h5"
    write_weights(path, SHARED, resolve(NET))
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        assert names == ["data", "data/in", "data/one", "data/one/0", "data/one/1", "data/three", "data/two",
                         "data/two/1"]
        assert file["data/one/0"].dtype == np.float32


def test_names_in_interchange_formats(tmp_path):
    write_weights(tmp_path / "net.npz", WEIGHTS)
    with np.load(tmp_path / "net.npz") as file:
        assert file.files == ["conv/0", "conv/1", "scalar/0", "scalar/1", "層 été/0"]
        np.testing.assert_array_equal(file["conv/0"], WEIGHTS["conv"][0])
    write_weights(tmp_path / "net.safetensors", WEIGHTS)
    content = (tmp_path / "net.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert header["conv/0"]["shape"] == [2, 3, 5, 7]


def test_types_that_files_hold(tmp_path):
    """Halves become float32, doubles stay, whatever the byte order."""
    half, double = W.astype(np.float16), W.astype(np.float64) / 3
    np.savez_compressed(tmp_path / "a.npz", **{"l/0": half, "l/1": double.astype(">f8"), "l/2": np.asfortranarray(W)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layer = file.create_group("data/l")
        layer["0"] = W.astype(">f4")
        layer.create_dataset("1", data=double, compression="gzip", shuffle=True, fletcher32=True)
        layer["2"] = W
    for name, first in (("a.npz", half.astype(np.float32)), ("a.h5", W)):
        found = read_weights(tmp_path / name)["l"]
        assert [blob.dtype for blob in found] == [np.float32, np.float64, np.float32]
        for blob, expected in zip(found, (first, double, W), strict=True):
            np.testing.assert_array_equal(blob, expected)
    write_weights(tmp_path / "b.npz", {"l": [np.array([1e300, 0.5])]})  # beyond float32
    np.testing.assert_array_equal(read_weights(tmp_path / "b.npz")["l"][0], [np.inf, 0.5])


def test_hdf5_is_known_by_its_signature(tmp_path):
    write_weights(tmp_path / "net.h5", SHARED)
    (tmp_path / "net.h5").rename(tmp_path / "net.caffemodel")
    assert not differences(read_weights(tmp_path / "net.caffemodel"), SHARED)


def test_hdf5_with_groups_in_groups(tmp_path):
    """As h5py makes of layer names with slashes."""
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["data/conv2/3x3/0"] = W
        file["data/conv2/1x1/0"] = B1
        file["data/conv2/0"] = B2
    assert not differences(read_weights(tmp_path / "net.h5"), {"conv2": [B2], "conv2/1x1": [B1], "conv2/3x3": [W]})


def test_writing_what_cannot_be_written(tmp_path):
    suffixes = ".caffemodel, .caffemodel.h5, .h5, .hdf5, .safetensors or .npz"
    (tmp_path / "folder.npz").mkdir()
    for name, message in [
        ("net.pt", f"expected a name that ends in {suffixes}"),
        ("gone/net.npz", "cannot be written: No such file or directory"),
        ("folder.npz", "cannot be written: Is a directory"),
    ]:
        with pytest.raises(SpecError) as caught:
            write_weights(tmp_path / name, SHARED)
        assert str(caught.value) == f"{tmp_path / name}: {message}"
    with pytest.raises(SpecError, match=r"gone/net\.h5: cannot be written: "):
        write_weights(tmp_path / "gone" / "net.h5", SHARED)
    with pytest.raises(SpecError, match="the net has no layer 'conv'"):
        write_weights(tmp_path / "net.npz", WEIGHTS, resolve(NET))
    assert sorted(os.listdir(tmp_path)) == ["folder.npz"]


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([W, np.array(["a"])], "blob 1 is of dtype <U1; expected numbers"),
        ([[[1.0, 2.0], [3.0]]], "blob 0 is no array of numbers"),
        ([np.array([1j])], "blob 0 is of dtype complex128; expected numbers"),
        ([np.zeros((1,) * 33)], "blob 0 has 33 axes; expected at most 32"),
        ([B1] * 257, "has 257 blobs; expected at most 256"),
    ],
    ids=range(5),
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, blobs, message):
    for suffix in SUFFIXES:
        path = tmp_path / f"net{suffix}"
        if suffix == ".caffemodel" and "256" in message:
            write_weights(path, {"l": blobs})
            assert len(read_weights(path)["l"]) == 257
            path.unlink()
            continue
        with pytest.raises(SpecError) as caught:
            write_weights(path, {"l": blobs})
        assert str(caught.value) == f"layer 'l' ({path}): {message}"
    with pytest.raises(SpecError, match="would have more than 50000 layers and blobs"):
        write_weights(tmp_path / "net.npz", {str(i): [B1] for i in range(25_001)})
    assert not list(tmp_path.iterdir())


def test_names_of_hdf5_that_are_not_utf8(tmp_path):
    """As old editors wrote them: shown in the encoding that has a letter for every byte."""
    with h5py.File(tmp_path / "net.h5", "w") as file:
        layer = file.create_group("data").id
        group = h5py.h5g.create(layer, b"\xe9t\xe9")
        h5py.Group(group)["0"] = W
    assert not differences(read_weights(tmp_path / "net.h5"), {"été": [W]})


def test_two_arrays_of_one_name(tmp_path):
    file = io.BytesIO()
    np.save(file, B1)
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("l/0.npy", file.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("l/0.npy", file.getvalue())
    with pytest.raises(SpecError, match=r"net\.npz: holds two arrays 'l/0'$"):
        read_weights(tmp_path / "net.npz")


def test_too_large_for_caffe(tmp_path):
    huge = np.broadcast_to(np.float32(0), (2**15, 2**14))
    with pytest.raises(SpecError) as caught:
        write_weights(tmp_path / "net.caffemodel", {"l": [huge]})
    assert str(caught.value) == (f"{tmp_path / 'net.caffemodel'}: would hold 2147483648 bytes of numbers; Caffe "
                                 "reads files of at most 2147483647 (.safetensors has no limit)")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    for suffix in SUFFIXES:
        path = tmp_path / f"net{suffix}"
        write_weights(path, SHARED)
        content = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(SpecError) as caught:
                write_weights(path, WEIGHTS)
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
        assert path.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == sorted(f"net{suffix}" for suffix in SUFFIXES)


def hdf5(path: Path, case: str) -> None:
    """A file of HDF5 that is not Caffe's, or hostile."""
    with h5py.File(path, "w") as file:
        layer = file.create_group("data/l") if case != "nothing" else None
        match case:
            case "nothing":
                file["iter"] = 1
            case "array":
                file["data/a"] = W
            case "name":
                layer["weight"] = W
            case "index":
                layer["00"] = W
            case "integers":
                layer["0"] = np.arange(3)
            case "text":
                layer["0"] = "text"
            case "reference":
                layer.create_dataset("0", (1,), h5py.ref_dtype)[0] = layer.ref
            case "soft":
                layer["0"] = h5py.SoftLink("/data")
            case "external":
                layer["0"] = h5py.ExternalLink("/etc/passwd", "/data")
            case "data":
                del file["data"]
                file["data"] = h5py.ExternalLink("other.h5", "/data")
            case "outside":
                layer.create_dataset("0", (3,), np.float32, external=[("other.bin", 0, 12)])
            case "virtual":
                layout = h5py.VirtualLayout((3,), np.float32)
                layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
                layer.create_virtual_dataset("0", layout)
            case "huge":
                layer.create_dataset("0", (2**40, 2**20), np.float32, chunks=(1024, 1))
            case "never":
                layer.create_dataset("0", (1000,), np.float32)
            case "bomb":
                layer.create_dataset("0", data=np.zeros((5 * 2**20,), np.float32), compression="gzip")
            case "filter":
                layer.create_dataset("0", data=W, compression="lzf")
            case "null":
                layer["0"] = h5py.Empty(np.float32)
            case "cycle":
                layer["l"] = layer


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "{}: has no group 'data'; expected Caffe's weights: /data/<layer>/0, 1, ..."),
        ("array", "{}: found 'a'; expected a group for each layer"),
        ("name", "layer 'l' ({}): found 'weight'; expected datasets 0, 1, ..."),
        ("index", "layer 'l' ({}): found '00'; expected datasets 0, 1, ..."),
        ("integers", "layer 'l' ({}): blob 0 is of dtype int64; expected float32 or float64"),
        ("text", "layer 'l' ({}): blob 0 is of dtype object; expected float32 or float64"),
        ("reference", "layer 'l' ({}): blob 0 is of dtype object; expected float32 or float64"),
        ("soft", "layer 'l' ({}): '0' is a link to elsewhere; expected plain groups and datasets"),
        ("external", "layer 'l' ({}): '0' is a link to elsewhere; expected plain groups and datasets"),
        ("data", "{}: 'data' is a link to elsewhere; expected plain groups and datasets"),
        ("outside", "layer 'l' ({}): blob 0 lies in another file; expected a plain dataset"),
        ("virtual", "layer 'l' ({}): blob 0 lies in another file; expected a plain dataset"),
        ("huge", "layer 'l' ({}): blob 0 of shape (1099511627776, 1048576): the file declares more than 16777216 bytes "
                 "of data"),
        ("never", "layer 'l' ({}): blob 0 of shape (1000,) has 0 bytes stored; expected 4000"),
        ("bomb", "layer 'l' ({}): blob 0 of shape (5242880,): the file declares more than 16777216 bytes of data"),
        ("filter", "layer 'l' ({}): blob 0 is compressed with filters [32000]; expected deflate or none"),
        ("null", "layer 'l' ({}): blob 0 has no shape of at most 32 axes"),
        ("cycle", "layer 'l/l/l/l/l/l/l/l' ({}): found 'l'; expected datasets 0, 1, ..."),
    ],
)
def test_hostile_hdf5(tmp_path, case, message):
    path = tmp_path / "net.h5"
    hdf5(path, case)
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors", ".npz"])
def test_damaged_files(tmp_path, suffix):
    """Cut off, empty, of another format, or not there."""
    path = tmp_path / f"net{suffix}"
    kind = {".h5": "an HDF5 file", ".safetensors": "a .safetensors file", ".npz": "an .npz file"}[suffix]
    write_weights(path, SHARED)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"<html>", content[:9]):
        path.write_bytes(damaged)
        with pytest.raises(SpecError) as caught:
            read_weights(path)
        assert str(caught.value).startswith(f"{path}: is not {kind}, or damaged: ")
    path.unlink()
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"
    path.mkdir()
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path}: cannot be read: Is a directory"


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


def numbers(shape: str, dtype: str = "'<f4'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l/0", npy(numbers("(1000000000000,)"), b"abcd"),
         "holds an array of shape (1000000000000,) and dtype float32 in 4 bytes; expected 4000000000000"),
        ("l/0", npy(numbers("(-1,)"), b"abcd"),
         "holds an array of the shape (-1,); expected at most 32 sizes of 0 and above"),
        ("l/0", npy(numbers("(1,)", "'|O'"), b"cos\nsystem"), "holds an array of dtype object; expected numbers"),
        ("l/0", npy(numbers("(1,)", "[('a', '<f4')]"), b"abcd"),
         "holds an array of dtype [('a', '<f4')]; expected numbers"),
        ("l/0", npy(numbers("(1,)"), b"abcd", b"\x09\x00"), "is not an .npy file, or damaged: (9, 0)"),
        ("l/0", b"abcd", "is not an .npy file, or damaged: EOF: reading magic string, expected 8 bytes got 4"),
        ("weight", npy(numbers("(1,)"), b"abcd"), "holds an array 'weight'; expected names such as conv1/0"),
        ("l/999999999", npy(numbers("(1,)"), b"abcd"), "holds an array 'l/999999999'; expected names such as conv1/0"),
        ("l/256", npy(numbers("(1,)"), b"abcd"), "holds an array 'l/256'; expected names such as conv1/0"),
    ],
)
def test_hostile_npz(tmp_path, name, content, message):
    path = tmp_path / "net.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.npy", content)
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path}: {message}"


def test_npz_of_another_dtype(tmp_path):
    np.savez(tmp_path / "net.npz", **{"l/0": np.arange(3)})
    with pytest.raises(SpecError, match=r"layer 'l' .*: blob 0 is of dtype int64; expected float16, float32 or"):
        read_weights(tmp_path / "net.npz")


def test_zip_bomb(tmp_path):
    path = tmp_path / "net.npz"
    content = io.BytesIO()
    np.save(content, np.zeros(5 * 2**20, np.float32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("l/0.npy", content.getvalue())
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path}: declares more than 64 times its size"


def safetensors(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"l/0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"abcd"),
        safetensors({"l/0": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"abcd"),
        safetensors({"l/0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}, b"abcd"),
        safetensors({"l/0": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"abcd"),
        struct.pack("<Q", 2**60) + b"{}",
    ],
)
def test_hostile_safetensors(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: is not a .safetensors file, or damaged: ")


def test_published_hdf5(shared):
    """What the original wrote in both formats, after one run (twice trained, so shapes only)."""
    folder = shared / "models/files/cifar10_hdf5_and_binary/examples/cifar10/model"
    binary = read_weights(folder / "cifar10_full_iter_70000.caffemodel")
    found = read_weights(folder / "cifar10_full_iter_70000.caffemodel.h5")
    assert {k: [b.shape for b in v] for k, v in found.items()} == {k: [b.shape for b in v] for k, v in binary.items()}
    with h5py.File(folder / "cifar10_full_iter_70000.caffemodel.h5") as file:
        for layer, blobs in found.items():
            for i, blob in enumerate(blobs):
                np.testing.assert_array_equal(blob, file[f"data/{layer}/{i}"][()])
    with pytest.raises(SpecError, match="has no group 'data'; expected Caffe's weights"):
        read_weights(folder / "cifar10_full_iter_70000.solverstate.h5")
