"""Caffe's ``BlobProto`` as NumPy arrays, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.netdef.weights.wire import BYTES, FIXED32, FIXED64, VARINT, Field, Wire

MOST_AXES = 32  # Caffe's kMaxBlobAxes
MOST_BLOBS = 50_000  # of layers, and of blobs, in one file
MOST_INDEX = 255  # of a layer's blobs, counted from 0

_LEGACY = (1, 2, 3, 4)  # num, channels, height, width
_DATA, _SHAPE, _DOUBLE, _RAW_TYPE, _RAW = 5, 7, 8, 10, 12
_NUMBERS = {(_DATA, FIXED32), (_DATA, BYTES), (_DOUBLE, FIXED64), (_DOUBLE, BYTES), (_RAW, BYTES)}
_RAW_DTYPES = ("<f8", "<f4", "<f2", "<i4", "<u4")  # by BlobProto.Type


def blob_to_array(blob: BlobProto) -> np.ndarray:
    """A blob as an array, with the shape it states (four axes in files of 2014 and before).

    Returns:
        float64 where the blob holds ``double_data``; else float32 (from NVIDIA's half-precision bytes too).

    Raises:
        ValueError: the number of values is not the product of the shape.
    """
    content = blob.SerializeToString()
    return parse_blob(Wire(content), 0, len(content)).array


class Parsed(NamedTuple):
    """A blob that was read, and whether its shape is num, channels, height, width, as in files of 2014 and before."""

    array: np.ndarray
    legacy: bool


def parse_blob(wire: Wire, start: int, stop: int) -> Parsed:
    """A blob in wire format as an array of its own; see ``blob_to_array``. Gradients (``diff``) are stepped over.

    Raises:
        WireError: the bytes are not a blob.
        ValueError: a negative size, or the number of values is not the product of the shape.
    """
    legacy: dict[int, int] = {}
    dims: list[int] = []
    parts: dict[int, list[Field]] = {_DATA: [], _DOUBLE: [], _RAW: []}
    raw_type = 0
    for field in wire.fields(start, stop):
        number, kind = field.number, field.kind
        if number in _LEGACY and kind == VARINT:
            legacy[number] = _int32(field.value)
        elif number == _SHAPE and kind == BYTES:
            for dim in wire.fields(field.start, field.stop):
                if dim.number == 1 and dim.kind in (BYTES, VARINT):
                    dims.extend(wire.varints(dim, MOST_AXES + 1 - len(dims)))
                if len(dims) > MOST_AXES:
                    raise ValueError(f"has more than {MOST_AXES} axes")
        elif number == _RAW_TYPE and kind == VARINT:
            raw_type = field.value
        elif (number, kind) in _NUMBERS and field.stop > field.start:
            parts[number].append(field)
    shape = tuple(legacy.get(number, 0) for number in _LEGACY) if legacy else tuple(dims)
    if any(size < 0 for size in shape):
        raise ValueError(f"has the shape {shape}; expected sizes of 0 and above")
    if parts[_RAW]:
        if raw_type >= len(_RAW_DTYPES):
            raise ValueError(f"has raw_data of the unknown type {raw_type}")
        chosen, dtype = parts[_RAW][-1:], _RAW_DTYPES[raw_type]
    else:
        chosen, dtype = (parts[_DOUBLE], "<f8") if parts[_DOUBLE] else (parts[_DATA], "<f4")
    views = [wire.numbers(field, dtype) for field in chosen]
    count = sum(len(view) for view in views)
    if count != math.prod(shape):
        raise ValueError(f"of shape {shape} has {count} values; expected {math.prod(shape)}")
    result = np.float64 if dtype == "<f8" else np.float32
    array = views[0].astype(result) if len(views) == 1 else np.concatenate([np.empty(0, result), *views], dtype=result)
    return Parsed(array.reshape(shape), bool(legacy))


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def blob_shape(blob: BlobProto) -> tuple[int, ...]:
    """The blob's shape: num, channels, height, width when any of them is present, else ``shape``."""
    legacy = ("num", "channels", "height", "width")
    if any(blob.HasField(name) for name in legacy):
        return tuple(getattr(blob, name) for name in legacy)
    return tuple(blob.shape.dim)


def blob_size(blob: BlobProto) -> int:
    """How many values the blob holds, in whichever of its fields."""
    if blob.raw_data:
        known = blob.raw_data_type < len(_RAW_DTYPES)
        return len(blob.raw_data) // np.dtype(_RAW_DTYPES[blob.raw_data_type]).itemsize if known else 0
    return len(blob.double_data or blob.data)


def numbers(array: Any) -> np.ndarray:
    """The array; what is none, or not of real numbers, raises ValueError."""
    try:
        result = np.asarray(array)
    except (TypeError, ValueError):
        raise ValueError("is no array of numbers") from None
    if result.dtype.kind in "USOMmc":
        raise ValueError(f"is of dtype {result.dtype}; expected numbers")
    return result


def same_values(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal shapes; or Caffe's old four-axis form of one, with ones in front: (N) as (1, 1, 1, N)."""
    return found == expected or (
        len(found) == 4 and len(expected) < 4 and found == (1,) * (4 - len(expected)) + expected
    )


def blob_index(text: str) -> int | None:
    """The index of a blob in its layer as HDF5 and the formats of interchange write it; None for another name."""
    if text.isascii() and text.isdecimal() and len(text) <= 3 and str(int(text)) == text and int(text) <= MOST_INDEX:
        return int(text)
    return None


def in_order(arrays: Mapping[int, np.ndarray]) -> list[np.ndarray | None]:
    """Blobs by index as a list, with ``None`` in the gaps."""
    return [arrays.get(i) for i in range(max(arrays) + 1)] if arrays else []


def array_to_blob(array: np.ndarray) -> BlobProto:
    """An array as a blob of float32, shape in the current format."""
    return BlobProto.FromString(b"".join(blob_parts(array)))


def blob_parts(array: np.ndarray) -> tuple[bytes, bytes | memoryview]:
    """A blob in wire format: what stands before the numbers, and the numbers as float32."""
    blob = BlobProto()
    blob.shape.dim.extend(np.shape(array))
    with np.errstate(over="ignore"):  # beyond float32: infinity, as in Caffe
        data = np.ascontiguousarray(array, "<f4").reshape(-1)
    head = blob.SerializeToString() if np.ndim(array) else b""
    if data.size:
        head += tag(_DATA) + varint(data.nbytes)
    return head, data.view(np.uint8).data if data.size else b""


def tag(number: int) -> bytes:
    """What a field of bytes of that number begins with."""
    return varint(number << 3 | BYTES)


def varint(value: int) -> bytes:
    """A number of 0 or above in protobuf's variable length."""
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])

