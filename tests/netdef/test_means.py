"""Mean files and vectors of blobs."""

from __future__ import annotations

import io

import numpy as np
import pytest

from jaffe.netdef import SpecError
from jaffe.netdef.jaffe_pb2 import BlobProto, BlobProtoVector
from jaffe.netdef.means import read_blobs, read_mean
from jaffe.netdef.weights import array_to_blob

MEAN = np.random.default_rng(7).uniform(0, 255, (3, 5, 7)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        BlobProto(num=1, channels=3, height=5, width=7, data=MEAN.ravel()).SerializeToString(),
        BlobProto(num=1, channels=3, height=5, width=7, double_data=MEAN.ravel()).SerializeToString(),
        array_to_blob(MEAN).SerializeToString(),
        array_to_blob(MEAN[None]).SerializeToString(),
        npy(MEAN),
        npy(MEAN[None].astype(">f8")),
        npy(np.asfortranarray(MEAN)),
    ],
)
def test_means(tmp_path, content):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(content)
    mean = read_mean(path)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, MEAN)


def test_a_value_for_each_channel(tmp_path):
    path = tmp_path / "mean.npy"
    path.write_bytes(npy(np.array([104, 117, 123])))
    np.testing.assert_array_equal(read_mean(path), np.array([104, 117, 123], np.float32))


def test_a_file_of_python_2(tmp_path):
    """Its sizes are long integers, as in the mean that Caffe's examples download."""
    path = tmp_path / "mean.npy"
    path.write_bytes(npy(MEAN).replace(b"(3, 5, 7), }   ", b"(3L, 5L, 7L), }"))
    assert b"3L" in path.read_bytes()
    np.testing.assert_array_equal(read_mean(path), MEAN)


SHAPES = "expected (C, H, W), (1, C, H, W) or (C,)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a mean file: it is empty"),
        (b" <html>", "is not a mean file: it is a web page; a download has failed"),
        (b"\x2a\x05", "is not a mean file: byte 0: field 5 has 5 bytes; 0 are left"),
        (b"\x08\x03", f"is not a mean file: it has the shape (3, 0, 0, 0); {SHAPES}"),
        (array_to_blob(MEAN[0]).SerializeToString(), f"is not a mean file: it has the shape (5, 7); {SHAPES}"),
        (array_to_blob(np.stack([MEAN, MEAN])).SerializeToString(),
         f"is not a mean file: it has the shape (2, 3, 5, 7); {SHAPES}"),
        (BlobProto(num=1, channels=3, height=5, width=7, data=[1]).SerializeToString(),
         "is not a mean file: its blob of shape (1, 3, 5, 7) has 1 values; expected 105"),
        (BlobProto(num=2**31 - 1, channels=2**31 - 1, height=5, width=7).SerializeToString(),
         f"is not a mean file: its blob of shape ({2**31 - 1}, {2**31 - 1}, 5, 7) has 0 values; "
         f"expected {35 * (2**31 - 1) ** 2}"),
        (npy(MEAN)[:-1], "holds an array of shape (3, 5, 7) and dtype float32 in 419 bytes; expected 420"),
        (npy(np.array([1j])), "holds an array of dtype complex128; expected numbers"),
    ],
)
def test_wrong_means(tmp_path, content, message):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_mean(path)
    assert str(caught.value) == f"{path}: {message}"


def test_vectors_of_blobs(tmp_path):
    path = tmp_path / "blobs.binaryproto"
    vector = BlobProtoVector(blobs=[array_to_blob(MEAN), array_to_blob(MEAN[0, 0]), BlobProto(double_data=[1 / 3])])
    path.write_bytes(vector.SerializeToString())
    first, second, third = read_blobs(path)
    np.testing.assert_array_equal(first, MEAN)
    np.testing.assert_array_equal(second, MEAN[0, 0])
    assert third == 1 / 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x0a\x05", "byte 0: field 1 has 5 bytes; 0 are left"),
        (b"\x12\x00", "field 2 is none of its own"),
        (b"\x0a\x02\x08\x00\x0a\x02\x08\xff", "byte 7: a number without an end"),
        (b"\x0a\x02\x08\x00\x0a\x08\x08\x01\x10\x01\x18\x01\x20\x01",
         "blob 1 of shape (1, 1, 1, 1) has 0 values; expected 1"),
        (b"\x0a\x00", "blob 0 of shape () has 0 values; expected 1"),
        (b"\x0a\x02\x08\x00" * 50_001, "more than 50000 blobs"),
    ],
    ids=range(7),
)
def test_wrong_vectors(tmp_path, content, message):
    path = tmp_path / "blobs.binaryproto"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_blobs(path)
    assert str(caught.value) == f"{path}: is not a BlobProtoVector: {message}"


def test_a_vector_whose_first_blob_has_60_bytes(tmp_path):
    path = tmp_path / "blobs.binaryproto"
    vector = BlobProtoVector(blobs=[array_to_blob(np.arange(13).reshape(1, 13))])
    path.write_bytes(vector.SerializeToString())
    assert path.read_bytes()[:2] == b"\n<"
    np.testing.assert_array_equal(read_blobs(path)[0], np.arange(13).reshape(1, 13))


def test_published_mean(shared):
    path = shared / "models/files/cifar10_hdf5_and_binary/examples/cifar10/mean.binaryproto"
    blob = BlobProto.FromString(path.read_bytes())
    mean = read_mean(path)
    assert mean.shape == (3, 32, 32)
    assert mean.ravel().tolist() == list(blob.data)
