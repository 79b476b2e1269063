"""Caffe's .solverstate, binary and HDF5: what Caffe writes is read, what is written Caffe reads, and damaged files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef import SpecError
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.netdef.jaffe_pb2 import SolverState as Message
from jaffe.netdef.solverstate import SolverState, read_solver_state, write_solver_state

h5py = pytest.importorskip("h5py")

RANDOM = np.random.default_rng(11)
# More than ten blobs: in the order of their names, 10 comes before 2.
HISTORY = tuple(RANDOM.normal(size=(2, 3 + i)).astype(np.float32) for i in range(12))
STATE = SolverState(70_000, "train/réseau_iter_70000.caffemodel", HISTORY, 3)


def message(*blobs: BlobProto, **fields: object) -> bytes:
    return Message(**{"iter": 7, "learned_net": "a.caffemodel", **fields}, history=blobs).SerializeToString()


def blob(array: np.ndarray) -> BlobProto:
    return BlobProto(shape={"dim": array.shape}, data=array.ravel())


def read(tmp_path: Path, content: bytes) -> SolverState:
    path = tmp_path / "x.solverstate"
    path.write_bytes(content)
    return read_solver_state(path)


def same(found: SolverState, expected: SolverState) -> None:
    assert found._replace(history=()) == expected._replace(history=())
    assert len(found.history) == len(expected.history)
    for one, other in zip(found.history, expected.history, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_binary(tmp_path):
    content = message(*map(blob, HISTORY), iter=70_000, learned_net=STATE.learned_net, current_step=3)
    same(read(tmp_path, content), STATE)


def test_binary_of_2014_and_of_double_builds(tmp_path):
    old = BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    double = BlobProto(shape={"dim": [2]}, double_data=[1e300, 0.1])
    found = read(tmp_path, message(old, double))
    same(found, SolverState(7, "a.caffemodel", (np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3),
                                                np.array([1e300, 0.1]))))


def test_hdf5(tmp_path):
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:  # as Caffe does, with H5LTmake_dataset
        file.create_dataset("iter", data=np.array([70_000], np.int32))
        name = STATE.learned_net.encode()
        file.create_dataset("learned_net", data=np.array(name, f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([3], np.int32))
        for i, array in enumerate(HISTORY):
            file.create_dataset(f"history/{i}", data=array)
    same(read_solver_state(path), STATE)


@pytest.mark.parametrize("name", ["x.solverstate", "x.solverstate.h5"])
@pytest.mark.parametrize("state", [STATE, SolverState(0, "", ())], ids=["full", "empty"])
def test_round_trip(tmp_path, name, state):
    write_solver_state(tmp_path / name, state)
    same(read_solver_state(tmp_path / name), state)


def test_what_is_written_is_what_caffe_reads(tmp_path):
    write_solver_state(tmp_path / "x.solverstate", STATE)
    found = Message.FromString((tmp_path / "x.solverstate").read_bytes())
    assert (found.iter, found.learned_net, found.current_step) == STATE[:2] + STATE[3:]
    assert [tuple(one.shape.dim) for one in found.history] == [array.shape for array in HISTORY]
    np.testing.assert_array_equal(found.history[10].data, HISTORY[10].ravel())
    write_solver_state(tmp_path / "x.solverstate.h5", STATE)
    with h5py.File(tmp_path / "x.solverstate.h5") as file:
        assert (file["iter"].shape, file["iter"].dtype) == ((1,), np.int32)
        kind = file["learned_net"].dtype
        assert kind.kind == "S"
        assert kind.itemsize == len(STATE.learned_net.encode()) + 1  # Caffe's buffer must end in a zero byte


def test_no_room(tmp_path):
    with pytest.raises(SpecError, match=r"gone/x\.solverstate: cannot be written: No such file or directory$"):
        write_solver_state(tmp_path / "gone" / "x.solverstate", STATE)


WEIGHTS_ONLY = ("{}: holds weights, and not the state of a solver; expected the .solverstate that Caffe writes beside "
                "it (weights alone can be taken as such: --weights)")
CAFFEMODEL = b"\x0a\x01n\xa2\x06\x04\x0a\x02ip"  # a name, and a layer with one
PART = "{}: is not a .solverstate, or only a part of one: "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "{}: is not a .solverstate: it is empty"),
        (b"<!DOCTYPE html>", "{}: is not a .solverstate: it is a web page; a download has failed"),
        (b"version https://git-lfs.github.com/spec/v1",
         "{}: is not a .solverstate: it is a pointer of Git LFS; `git lfs pull` fetches the file"),
        (CAFFEMODEL, WEIGHTS_ONLY),  # BVLC/caffe#4181, #1086
        (CAFFEMODEL[3:], WEIGHTS_ONLY),
        (b"\x20\x05", "{}: is not a .solverstate: it holds neither iter nor history"),
        (b'type: "SGD"', PART + "byte 0: field 14 has the unknown wire type 4"),
        (message(blob(HISTORY[0]))[:-5], PART + "byte 16: field 3 has 32 bytes; 27 are left"),
        (message(iter=-1), "{}: iter is from 0 to 2147483647; found -1"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "{}: iter is from 0 to 2147483647; found 9223372036854775807"),
        (message(current_step=-5), "{}: current_step is from 0 to 2147483647; found -5"),
        (message(learned_net="a" * 4097), "{}: learned_net, a path, has 4097 bytes; expected at most 4096"),
        (message(BlobProto(shape={"dim": [2**40, 2**40]}, data=[1])),
         "{}: history 0 of shape (1099511627776, 1099511627776) has 1 values; expected 1208925819614629174706176"),
        (message(blob(HISTORY[0]), BlobProto(shape={"dim": [-1]})),
         "{}: history 1 has the shape (-1,); expected sizes of 0 and above"),
        (message() + b"\x1a\x00" * 50_001, "{}: has more than 50000 blobs of history"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "",
)
def test_hostile_binary(tmp_path, content, expected):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == expected.format(tmp_path / "x.solverstate")


def test_truncated_anywhere(tmp_path):
    """Cut at any byte: refused, or between two fields, which only the number of blobs can tell."""
    content = message(*map(blob, HISTORY[:3]), current_step=3)
    whole = 0
    for length in range(1, len(content)):
        try:
            found = read(tmp_path, content[:length])
        except SpecError:
            continue
        whole += 1
        for one, other in zip(found.history, HISTORY, strict=False):
            np.testing.assert_array_equal(one, other)
    assert whole == 5


def test_missing(tmp_path):
    with pytest.raises(SpecError, match=r"no\.solverstate: cannot be read: No such file or directory$"):
        read_solver_state(tmp_path / "no.solverstate")
    with pytest.raises(SpecError, match=r"/dev/zero: is not a regular file$"):
        read_solver_state("/dev/zero")


def good(file: h5py.File) -> h5py.Group:
    file["iter"] = np.array([7], np.int32)
    file["learned_net"] = np.array(b"a.caffemodel", "S13")
    file["current_step"] = np.array([0], np.int32)
    return file.create_group("history")


def replaced(file: h5py.File, name: str, value: object) -> None:
    good(file)
    del file[name]
    file[name] = value


def made(name: str, *args: object, **kwargs: object) -> object:
    return lambda file: good(file).create_dataset(name, *args, **kwargs)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda file: file.create_group("data"), WEIGHTS_ONLY),
        (lambda file: file.create_group("other"),
         "{}: is not a .solverstate.h5; expected a dataset 'iter' and a group 'history'"),
        (lambda file: replaced(file, "iter", 1.5), "{}: iter is of dtype float64, shape (); expected one whole number"),
        (lambda file: replaced(file, "iter", [1, 2]),
         "{}: iter is of dtype int64, shape (2,); expected one whole number"),
        (lambda file: replaced(file, "iter", -3), "{}: iter is from 0 to 2147483647; found -3"),
        (lambda file: replaced(file, "learned_net", "of any length"),
         "{}: learned_net is of dtype object, shape (); expected one text of fixed length"),
        (lambda file: replaced(file, "learned_net", h5py.ExternalLink("/etc/passwd", "/data")),
         "{}: 'learned_net' is a link to elsewhere; expected plain groups and datasets"),
        (made("00", data=HISTORY[0]),
         "{}: history: holds 1 members; expected datasets 0, 1, ... without gaps; found none called 0"),
        (lambda file: good(file).update({"0": HISTORY[0], "2": HISTORY[1]}),
         "{}: history: holds 2 members; expected datasets 0, 1, ... without gaps; found none called 1"),
        (made("0", data=np.arange(3)), "{}: history: blob 0 is of dtype int64; expected float32 or float64"),
        (made("0", (2**40, 2**20), np.float32, chunks=(1024, 1)), None),
        (made("0", (100,), np.float32), "{}: history: blob 0 of shape (100,) has 0 bytes stored; expected 400"),
        (made("0", data=np.zeros(2**20, np.float32), compression="gzip"), None),
        (made("0", (3,), np.float32, external=[("other.bin", 0, 12)]),
         "{}: history: blob 0 lies in another file; expected a plain dataset"),
    ],
)
def test_hostile_hdf5(tmp_path, build, expected):
    path = tmp_path / "x.solverstate.h5"
    with h5py.File(path, "w") as file:
        build(file)
    with pytest.raises(SpecError) as caught:
        read_solver_state(path)
    if expected is None:
        assert re.search(rf"declares more than {path.stat().st_size} bytes of data$", str(caught.value))
    else:
        assert str(caught.value) == expected.format(path)


def test_damaged_hdf5(tmp_path):
    """Any one byte of another value: read or refused, never anything else."""
    path = tmp_path / "x.solverstate.h5"
    write_solver_state(path, STATE._replace(history=HISTORY[:2]))
    content = path.read_bytes()
    refused = 0
    for at in RANDOM.integers(8, len(content), 300):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            read_solver_state(path)
        except SpecError:
            refused += 1
    for length in range(8, len(content) - 1, 97):
        path.write_bytes(content[:length])
        with pytest.raises(SpecError):
            read_solver_state(path)
    assert refused > 30


def test_published(shared):
    folder = shared / "models/files/cifar10_hdf5_and_binary/examples/cifar10/model"
    shapes = [(32, 3, 5, 5), (32,), (32, 32, 5, 5), (32,), (64, 32, 5, 5), (64,), (10, 1024), (10,)]
    for name, weights in (("solverstate", "caffemodel"), ("solverstate.h5", "caffemodel.h5")):
        found = read_solver_state(folder / f"cifar10_full_iter_70000.{name}")
        assert found.iteration == 70_000
        assert found.learned_net == f"examples/cifar10/model/cifar10_full_iter_70000.{weights}"
        assert [array.shape for array in found.history] == shapes
        assert all(np.isfinite(array).all() and array.any() for array in found.history)
