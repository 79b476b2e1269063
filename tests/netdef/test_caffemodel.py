"""Binary weights: every age and fork of the format, and what damaged files are told."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef import NetParameter, SpecError, read_weights
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.netdef.weights import array_to_blob, blob_shape, blob_size, blob_to_array, read_entries

RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.normal(size=(3, 5)).astype(np.float32)
BIAS = RANDOM.normal(size=3).astype(np.float32)


def varint(value: int) -> bytes:
    """Written here once more, from protobuf's guide, so that the reader is not tested against its own parts."""
    result = b""
    while value > 127:
        result += bytes([value % 128 + 128])
        value //= 128
    return result + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


def net(*blobs: bytes, name: bytes = b"ip") -> bytes:
    return field(100, field(1, name) + b"".join(field(7, blob) for blob in blobs))


def short(value: object) -> str:
    """A name for a test case, without the bytes of its file."""
    return value[-50:] if isinstance(value, str) else ""


def read(tmp_path: Path, content: bytes) -> dict:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    return read_weights(path)


SHAPE = field(7, field(1, b"\x03\x05"))
PACKED = field(5, WEIGHT.tobytes())


@pytest.mark.parametrize(
    "blob",
    [
        SHAPE + PACKED,
        PACKED + SHAPE,
        PACKED + field(7, b"\x08\x03\x08\x05"),  # sizes one by one
        PACKED + field(7, b"\x08\x03") + field(7, b"\x08\x05"),  # one message in two parts
        SHAPE + b"".join(b"\x2d" + value.tobytes() for value in WEIGHT.ravel()),  # numbers one by one
        SHAPE + b"".join(b"\xad\x00" + value.tobytes() for value in WEIGHT.ravel()),  # with a longer tag
        SHAPE + field(5, WEIGHT[:1].tobytes()) + field(5, WEIGHT[1:].tobytes()),
        SHAPE + field(5, WEIGHT[:1].tobytes()) + b"".join(b"\x2d" + value.tobytes() for value in WEIGHT[1:].ravel()),
        SHAPE + PACKED + field(6, RANDOM.bytes(60)) + field(9, RANDOM.bytes(120)),  # gradients
        SHAPE + field(8, b"") + PACKED,
        SHAPE + PACKED + field(77, b"of a fork") + b"\x60\x01\x65abcd\x61abcdefgh",
    ],
    ids=short,
)
def test_encodings(tmp_path, blob):
    (array,) = read(tmp_path, net(blob))["ip"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, WEIGHT)


def test_many_single_numbers(tmp_path):
    """Runs of unpacked numbers, which other fields interrupt."""
    values = RANDOM.normal(size=1009).astype(np.float32)
    singles = [b"\x2d" + value.tobytes() for value in values]
    data = b"".join([*singles[:500], field(6, b"abcd"), singles[500], field(6, b""), *singles[501:]])
    (array,) = read(tmp_path, net(data + field(7, field(1, varint(1009)))))["ip"]
    np.testing.assert_array_equal(array, values)
    doubles = values.astype(np.float64) / 3
    data = b"".join(b"\x41" + value.tobytes() for value in doubles)
    (array,) = read(tmp_path, net(data + field(7, field(1, varint(1009)))))["ip"]
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, doubles)


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2"), (3, "<i4"), (4, "<u4")])
def test_raw_data(tmp_path, kind, dtype):
    """As NVIDIA's fork writes; it counts before the other fields."""
    values = (np.abs(WEIGHT) * 100).astype(dtype)
    blob = SHAPE + b"\x50" + varint(kind) + field(12, values.tobytes())
    (array,) = read(tmp_path, net(blob + PACKED))["ip"]
    assert array.dtype == (np.float64 if dtype == "<f8" else np.float32)
    np.testing.assert_array_equal(array, values.astype(array.dtype))
    message = BlobProto.FromString(blob)
    np.testing.assert_array_equal(blob_to_array(message), array)
    assert blob_size(message) == 15


def test_double_data_counts_before_data(tmp_path):
    doubles = RANDOM.normal(size=(3, 5))
    (array,) = read(tmp_path, net(SHAPE + PACKED + field(8, doubles.tobytes())))["ip"]
    np.testing.assert_array_equal(array, doubles)


def test_old_shapes(tmp_path):
    """Four sizes; those that are not there are 0, and ``shape`` does not count beside them."""
    four = b"".join(bytes([tag, size]) for tag, size in zip(b"\x08\x10\x18\x20", (1, 1, 3, 5), strict=True))
    blobs = read(tmp_path, net(four + PACKED, SHAPE + four + PACKED, b"\x08\x03"))["ip"]
    assert [blob.shape for blob in blobs] == [(1, 1, 3, 5), (1, 1, 3, 5), (3, 0, 0, 0)]
    assert blob_shape(BlobProto.FromString(four + PACKED)) == (1, 1, 3, 5)


def test_formats_of_layers(tmp_path):
    """V2, V1 and V0 layers; V1's name and type have other numbers; several nets in one file are read by name."""
    blob = SHAPE + PACKED
    v1 = field(2, field(4, b"old") + b"\x28\x0e" + field(2, b"x") + field(3, b"y") + field(6, blob) + field(7, b"\xff"))
    v0 = field(2, field(1, field(1, b"oldest") + field(2, b"innerproduct") + field(50, blob)) + field(2, b"x"))
    weights = read(tmp_path, field(1, b"net") + v1 + v0 + net(blob, name=b"new") + net(blob + blob[:0], name=b"other"))
    assert list(weights) == ["old", "oldest", "new", "other"]
    for (array,) in weights.values():
        np.testing.assert_array_equal(array, WEIGHT)


def test_fields_of_forks(tmp_path):
    """Settings that a fork gives other numbers and types do not matter."""
    settings = field(106, b"\xff\xff\xff") + b"\x50\x07" + b"\xfd\x05abcd" + field(5, b"x") + field(100, b"\x07")
    content = field(100, settings + field(1, b"ip") + field(7, SHAPE + PACKED))
    np.testing.assert_array_equal(read(tmp_path, content)["ip"][0], WEIGHT)


def test_layers_of_one_name(tmp_path):
    """All are read; by name they can only be had where one alone has blobs."""
    other = field(7, field(1, b"\x01")) + field(5, b"\0\0\x80\x3f")
    np.testing.assert_array_equal(read(tmp_path, net() + net(other) + net())["ip"][0], [1])
    with pytest.raises(SpecError) as caught:
        read(tmp_path, net(SHAPE + PACKED) + net() + net(other))
    path = tmp_path / "net.caffemodel"
    assert str(caught.value) == f"layer 'ip' ({path}): several layers of this name have blobs"
    assert [[blob.shape for blob in entry.blobs] for entry in read_entries(path)] == [[(3, 5)], [], [(1,)]]


def test_names_of_60_bytes(tmp_path):
    """Whose length is '<', after a tag that is a line feed: the beginning of no web page."""
    content = field(1, b"n" * 60) + net(SHAPE + PACKED)
    assert content.startswith(b"\n<n")
    np.testing.assert_array_equal(read(tmp_path, content)["ip"][0], WEIGHT)


def test_layers_without_blobs(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net(SHAPE + PACKED) + net(name=b"relu"))
    assert list(read_weights(path)) == ["ip"]
    assert [entry.name for entry in read_entries(path)] == ["ip", "relu"]


def test_names_of_other_encodings(tmp_path):
    blob = SHAPE + PACKED
    assert list(read(tmp_path, net(blob, name="层".encode()) + net(blob, name=b"\xe9t\xe9"))) == ["层", "été"]


def test_scalars_and_nothing(tmp_path):
    blobs = read(tmp_path, net(field(5, b"\0\0\x80\x3f"), field(7, field(1, b"\x00"))))["ip"]
    assert [blob.shape for blob in blobs] == [(), (0,)]


BROKEN = "is not a .caffemodel, or only a part of one: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a .caffemodel: it is empty"),
        (b"\n\n<!DOCTYPE html>", "is not a .caffemodel: it is a web page; a download has failed"),
        (b"version https://git-lfs.github.com/spec/v1\n",
         "is not a .caffemodel: it is a pointer of Git LFS; `git lfs pull` fetches the file"),
        (field(1, b"net"), "is not a .caffemodel: it holds no layers"),
        (b"\x0a\xff", BROKEN + "byte 1: a number without an end"),
        (b"\x0a\x05ab", BROKEN + "byte 0: field 1 has 5 bytes; 2 are left"),
        (b"\x0a" + b"\xff" * 20, BROKEN + "byte 1: a number without an end"),
        (b"\x07", BROKEN + "byte 0: no field has the tag 7"),
        (b"\x0b", BROKEN + "byte 0: field 1 has the unknown wire type 3"),
        (b"\x0dabc", BROKEN + "byte 0: field 1 has 4 bytes; 3 are left"),
        (b"\xf8\xff\xff\xff\xff\x01\x00", BROKEN + "byte 0: no field has the tag 68719476728"),
        (net(SHAPE + PACKED)[:-1], BROKEN + "byte 0: field 100 has 74 bytes; 73 are left"),
        (field(100, field(1, b"ip") + b"\x3a\x7f"), BROKEN + "byte 7: field 7 has 127 bytes; 0 are left"),
        (field(100, field(1, b"ip") + b"\x3a\x04") + net(SHAPE + PACKED),  # into the next layer
         BROKEN + "byte 7: field 7 has 4 bytes; 0 are left"),
        (net(SHAPE + field(5, b"abcde")), BROKEN + "byte 17: 5 bytes are no whole number of 4-byte values"),
    ],
    ids=short,
)
def test_broken_files(tmp_path, content, message):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"{tmp_path / 'net.caffemodel'}: {message}"


HUGE, MINUS = varint(2**40), varint(2**64 - 1)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (SHAPE + PACKED[:-4].replace(b"\x2a\x3c", b"\x2a\x38"), "blob 1 of shape (3, 5) has 14 values; expected 15"),
        (field(7, field(1, HUGE * 2)), f"blob 1 of shape ({2**40}, {2**40}) has 0 values; expected {2**80}"),
        (field(7, field(1, varint(2**32) * 2)), f"blob 1 of shape ({2**32}, {2**32}) has 0 values; expected {2**64}"),
        (field(7, field(1, b"\x03" + MINUS)), "blob 1 has the shape (3, -1); expected sizes of 0 and above"),
        (b"\x08" + MINUS, "blob 1 has the shape (-1, 0, 0, 0); expected sizes of 0 and above"),
        (field(7, field(1, b"\x01" * 33)), "blob 1 has more than 32 axes"),
        (b"", "blob 1 of shape () has 0 values; expected 1"),
    ],
    ids=short,
)
def test_wrong_blobs(tmp_path, blob, message):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, net(SHAPE + PACKED, blob))
    assert str(caught.value) == f"layer 'ip' ({tmp_path / 'net.caffemodel'}): {message}"
    with pytest.raises(ValueError) as caught:
        blob_to_array(BlobProto.FromString(blob))
    assert str(caught.value) == message.removeprefix("blob 1 ")


def test_raw_data_of_another_type(tmp_path):
    with pytest.raises(SpecError, match=r"layer 'ip' \(.*\): blob 0 has raw_data of the unknown type 5"):
        read(tmp_path, net(SHAPE + b"\x50\x05" + field(12, b"abcd")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (field(100, b"") * 50_001, "has more than 50000 layers and blobs"),
        (net(*[b"\x08\x00"] * 50_000), "has more than 50000 layers and blobs"),
        (b"\x28\x00" * 1_000_001, BROKEN + "byte 2000000: more than 1000000 fields"),
    ],
    ids=short,
)
def test_too_many(tmp_path, content, message):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"{tmp_path / 'net.caffemodel'}: {message}"


def test_truncated_anywhere(tmp_path):
    """Every beginning of a file is refused, or is a file of fewer layers."""
    content = net(SHAPE + PACKED) + net(SHAPE + PACKED, name=b"b")
    whole = len(net(SHAPE + PACKED))
    for size in range(len(content)):
        if size == whole:
            assert list(read(tmp_path, content[:size])) == ["ip"]
        else:
            with pytest.raises(SpecError):
                read(tmp_path, content[:size])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "is not a regular file"),
        ("/nowhere/net.caffemodel", "cannot be read: No such file or directory"),
        ("/", "cannot be read: Is a directory"),
        ("a\0b", "cannot be read: embedded null byte"),
    ],
)
def test_no_files(path, message):
    with pytest.raises(SpecError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path}: {message}"


def test_blob_messages():
    """Arrays to messages and back; numbers beyond float32 become infinite."""
    for array in (WEIGHT, BIAS, np.float32(3), np.zeros((2, 0), np.float32)):
        np.testing.assert_array_equal(blob_to_array(array_to_blob(array)), array)
    blob = array_to_blob(np.array([1e300, -1e300, 1.5]))
    assert list(blob.data) == [np.inf, -np.inf, 1.5]
    assert blob_size(blob) == 3
    assert blob_to_array(BlobProto(double_data=[1 / 3], shape={"dim": [1]})) == [1 / 3]


def test_published_files(shared):
    """Against protobuf's own parser, over every published file."""
    count = 0
    for path in sorted((shared / "models" / "files").rglob("*.caffemodel")):
        if "hostile" in str(path):
            with pytest.raises(SpecError, match="it is a web page; a download has failed"):
                read_weights(path)
            continue
        weights = read_weights(path)
        message = NetParameter.FromString(path.read_bytes())
        for layer in [*message.layer, *message.layers]:
            for array, blob in zip(weights.get(layer.name, ()), layer.blobs, strict=True):
                count += 1
                assert array.shape == (tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width))
                assert array.tobytes() == struct.pack(f"<{len(blob.data)}f", *blob.data)
    assert count > 500


def test_memory_and_time(tmp_path):
    """30 MB in less than a second, with at most three times the file's size at its peak."""
    path = tmp_path / "net.caffemodel"
    values = RANDOM.normal(size=1_500_000).astype(np.float32)
    blob = field(7, field(1, varint(1_500_000))) + field(5, values.tobytes())
    path.write_bytes(b"".join(net(blob, name=b"ip%d" % i) for i in range(5)))
    code = """
import sys, time
from jaffe.netdef import read_weights
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
before, began = peak(), time.process_time()
weights = read_weights(sys.argv[1])
print(time.process_time() - began, peak() - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("/proc/self/status (peak memory of a process) is not here")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    seconds, memory = map(float, done.stdout.split())
    assert seconds < 1
    assert memory < 3 * path.stat().st_size
