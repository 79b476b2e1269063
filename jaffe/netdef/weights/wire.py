"""Protobuf's wire format, walked without a schema and without copying: for files with hundreds of megabytes of numbers.

Only the fields that the caller asks for count; all others are stepped over whatever they hold, so that files of
Caffe's forks, whose layers give the same numbers to other fields, read like Caffe's own.
Source: protobuf's encoding guide (varints, tags, packed and unpacked repeated fields).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}
_MOST_FIELDS = 1_000_000  # of one file; a run of unpacked numbers counts once


class WireError(ValueError):
    """The bytes are not protobuf's wire format; the message says at which byte."""


class Field(NamedTuple):
    """One field of a message, or a run of unpacked numbers of one field.

    Attributes:
        number: the field's number.
        kind: its wire type.
        value: of a varint; 0 for others.
        start, stop: where its bytes lie; of a run, from the first number to the end of the last.
        stride: bytes from one number of a run to the next; 0 for what is no run.
    """

    number: int
    kind: int
    value: int
    start: int
    stop: int
    stride: int = 0


class Wire:
    """Bytes in protobuf's wire format."""

    def __init__(self, content: bytes):
        self.content = content
        self._array = np.frombuffer(content, np.uint8)
        self._left = _MOST_FIELDS

    def fields(self, start: int = 0, stop: int | None = None) -> Iterator[Field]:
        """The fields of the message between two offsets, in the order of the file.

        Raises:
            WireError: a field runs past the end of its message, or is none.
        """
        end = len(self.content) if stop is None else stop
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise WireError(f"byte {at}: more than {_MOST_FIELDS} fields")
            tag, begin = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if number == 0 or tag >> 32:
                raise WireError(f"byte {at}: no field has the tag {tag}")
            if kind == VARINT:
                value, stop_at = self._varint(begin, end)
                yield Field(number, kind, value, begin, stop_at)
            elif kind == BYTES:
                length, begin = self._varint(begin, end)
                stop_at = begin + length
                if stop_at > end:
                    raise WireError(f"byte {at}: field {number} has {length} bytes; {end - begin} are left")
                yield Field(number, kind, 0, begin, stop_at)
            elif kind in _WIDTH:
                width = _WIDTH[kind]
                if begin + width > end:
                    raise WireError(f"byte {at}: field {number} has {width} bytes; {end - begin} are left")
                stride = begin - at + width
                stop_at = at + stride * self._run(at, begin, stride, end)
                yield Field(number, kind, 0, begin, stop_at, stride)
            else:
                raise WireError(f"byte {at}: field {number} has the unknown wire type {kind}")
            at = stop_at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at an offset, and the offset after it."""
        if at < end and self.content[at] < 128:  # nearly always
            return self.content[at], at + 1
        value = 0
        for i, byte in enumerate(self.content[at : min(at + 10, end)]):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value & (1 << 64) - 1, at + i + 1
        raise WireError(f"byte {at}: a number without an end")

    def _run(self, at: int, begin: int, stride: int, end: int) -> int:
        """How many fields of the same tag and width follow one another."""
        tag = self.content[at:begin]
        found, block = 1, 64
        while found < (end - at) // stride:
            count = min(block, (end - at) // stride - found)
            first = at + found * stride
            rows = self._array[first : first + count * stride].reshape(count, stride)[:, : len(tag)]
            same = (rows == np.frombuffer(tag, np.uint8)).all(axis=1)
            if not same.all():
                return found + int(same.argmin())
            found, block = found + count, block * 2
        return found

    def numbers(self, field: Field, dtype: str) -> np.ndarray:
        """The numbers of a packed field or of a run, of a little-endian dtype; a view of the content.

        Raises:
            WireError: a packed field ends within a number.
        """
        width = np.dtype(dtype).itemsize
        if field.kind != BYTES:
            count = (field.stop - field.start + field.stride - width) // field.stride
            return np.ndarray((count,), dtype, self.content, field.start, (field.stride,))
        length = field.stop - field.start
        if length % width:
            raise WireError(f"byte {field.start}: {length} bytes are no whole number of {width}-byte values")
        return np.frombuffer(self.content, dtype, length // width, field.start)

    def varints(self, field: Field, most: int) -> list[int]:
        """The numbers of a packed or single field of varints, as signed 64-bit; not more than ``most``."""
        values: list[int] = []
        at = field.start
        while at < field.stop and len(values) < most:
            value, at = self._varint(at, field.stop)
            values.append(value - (1 << 64) if value >> 63 else value)
        return values

    def text(self, field: Field) -> str:
        """A string: UTF-8, or in files of other editors any one-byte encoding."""
        content = self.content[field.start : field.stop]
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return content.decode("latin-1")
