"""Means of images, and other blobs by themselves, as NumPy arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaffe.netdef.errors import SpecError
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights.blob import MOST_BLOBS, parse_blob
from jaffe.netdef.weights.files import check_kind, check_regular
from jaffe.netdef.weights.interchange import parse_npy
from jaffe.netdef.weights.wire import BYTES, Wire, WireError


def read_mean(path: str | os.PathLike[str]) -> np.ndarray:
    """The mean of images, float32: (C, H, W), or (C,) where a file has one value a channel.

    Args:
        path: a ``BlobProto`` of shape (1, C, H, W) or (C, H, W), as Caffe's ``compute_image_mean`` writes to
            ``.binaryproto`` files (channels BGR where OpenCV read the images); or an ``.npy`` file.

    Raises:
        SpecError: the file is missing, damaged, or not a mean.
    """
    path = Path(path)
    content = _content(path, "a mean file")
    if content.startswith(b"\x93NUMPY"):
        mean = parse_npy(content, path)
    else:
        wire = Wire(content)
        try:
            mean = parse_blob(wire, 0, len(content)).array
        except WireError as error:
            raise SpecError(f"is not a mean file: {error}", location=str(path)) from None
        except ValueError as error:
            raise SpecError(f"is not a mean file: its blob {error}", location=str(path)) from None
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim not in (1, 3) or not mean.size:
        raise SpecError(f"is not a mean file: it has the shape {mean.shape}; expected (C, H, W), (1, C, H, W) or (C,)",
                        location=str(path))
    with np.errstate(over="ignore"):
        return mean.astype(np.float32)


def read_blobs(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """The arrays of a ``BlobProtoVector``, float32 or float64, as pycaffe's functions write them.

    Raises:
        SpecError: the file is missing, damaged, or not a vector of blobs.
    """
    path = Path(path)
    content = _content(path, "a BlobProtoVector")
    wire = Wire(content)
    arrays: list[np.ndarray] = []
    try:
        for field in wire.fields():
            if (field.number, field.kind) != (1, BYTES):
                raise ValueError(f"field {field.number} is none of its own")
            if len(arrays) == MOST_BLOBS:
                raise ValueError(f"more than {MOST_BLOBS} blobs")
            try:
                arrays.append(parse_blob(wire, field.start, field.stop).array)
            except WireError:
                raise
            except ValueError as error:
                raise ValueError(f"blob {len(arrays)} {error}") from None
    except ValueError as error:
        raise SpecError(f"is not a BlobProtoVector: {error}", location=str(path)) from None
    return arrays


def _content(path: Path, expected: str) -> bytes:
    check_regular(path)
    content = read_bytes(path)
    check_kind(content, path, expected)
    return content
