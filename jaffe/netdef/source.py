"""A net declaration and where its layers stand: read from a file, a text, a message or a NetSpec."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from google.protobuf.message import DecodeError, Message

from jaffe.netdef.atomic import write_file
from jaffe.netdef.errors import SpecError
from jaffe.netdef.jaffe_pb2 import BlobProto, NetParameter
from jaffe.netdef.text import format_text, layer_lines, parse_text
from jaffe.netdef.upgrade import upgrade

_BINARY_SUFFIXES = {".caffemodel", ".binaryproto", ".pb"}


@dataclass(frozen=True)
class NetSource:
    """A ``NetParameter`` and where it comes from.

    Attributes:
        net: the declaration.
        locations: for each of its layers ``file:line``, or ``""``.
        filename: name of the file, or ``""``.
        directory: folder of the file, where relative paths in it are looked for.
    """

    net: NetParameter
    locations: tuple[str, ...] = ()
    filename: str = ""
    directory: Path = Path()

    def location(self, layer: int) -> str:
        return self.locations[layer] if layer < len(self.locations) else self.filename


@runtime_checkable
class HasSource(Protocol):
    """Anything that can be made into a net: ``NetSpec`` is one."""

    def source(self) -> NetSource: ...


Spec: TypeAlias = str | os.PathLike[str] | NetParameter | NetSource | HasSource


def load(spec: Spec) -> NetSource:
    """Read a net declaration, whatever form it comes in, and bring it to the current format (``upgrade``).

    Args:
        spec: path of a ``.prototxt`` (text) or ``.caffemodel``/``.binaryproto``/``.pb`` (binary) file;
            prototxt itself (a string with a brace or a newline); a ``NetParameter``; a ``NetSpec``.

    Raises:
        SpecError: the file is missing or is not a net; the message has file, line and column. An old net cannot be
            upgraded; the message has layer, file and line.
        TypeError: ``spec`` is of another type.
    """
    source = _read(spec)
    upgraded = upgrade(source.net, source.location, source.filename)
    if upgraded.net is source.net:
        return source
    locations = tuple(source.filename if i is None else source.location(i) for i in upgraded.origins)
    return replace(source, net=upgraded.net, locations=locations)


def _read(spec: Spec) -> NetSource:
    if isinstance(spec, NetSource):
        return spec
    if isinstance(spec, NetParameter):
        return NetSource(spec)
    if isinstance(spec, HasSource):
        return spec.source()
    if isinstance(spec, str) and ("{" in spec or "\n" in spec):
        return from_text(spec)
    if isinstance(spec, (str, os.PathLike)):
        return from_file(Path(spec))
    raise TypeError(
        f"a net is a path, prototxt, a NetParameter or a NetSpec; received {type(spec).__name__}"
    )


def from_text(text: str, filename: str = "<text>", directory: Path = Path()) -> NetSource:
    """Parse a net from prototxt, as it is written: old formats stay. Raises SpecError as ``load`` does."""
    net = parse_text(text, NetParameter, filename)
    lines = layer_lines(text, "layers" if net.layers else "layer")
    return NetSource(net, tuple(f"{filename}:{line}" for line in lines), filename, directory)


def from_file(path: Path) -> NetSource:
    """Read a net from a text or binary file, chosen by its suffix; old formats stay. Raises SpecError as ``load``."""
    content = read_bytes(path)
    if not content:
        raise SpecError("is not a net: it is empty", location=str(path))
    if is_binary(path):
        try:
            net = NetParameter.FromString(content)
        except DecodeError:
            raise SpecError("is not a binary NetParameter (truncated, or text?)", location=str(path)) from None
        _check_strings(net, path)
        if not net.layer and not net.layers:
            raise SpecError("is not a net: it holds no layers" + (", but a mean, or another blob" if _is_blob(content)
                            else ""), location=str(path))
        return NetSource(net, filename=path.name, directory=path.parent)
    return from_text(decode(content, path), path.name, path.parent)


def _is_blob(content: bytes) -> bool:
    try:
        blob = BlobProto.FromString(content)
    except DecodeError:
        return False
    return bool(blob.data or blob.double_data)


def _check_strings(message: Message, path: Path) -> None:
    """Raises SpecError for a string that is not UTF-8: protobuf lets those of binary files pass, as bytes."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type is not None and field.message_type.name != "BlobProto":
            for one in values:
                _check_strings(one, path)
        elif field.type == field.TYPE_STRING and any(isinstance(one, bytes) for one in values):
            raise SpecError(f"is not a net that can be read: its {message.DESCRIPTOR.name}.{field.name} is not UTF-8",
                            location=str(path))


def is_binary(path: Path) -> bool:
    """Whether a file of this name holds a net in protobuf's wire format."""
    return path.suffix in _BINARY_SUFFIXES


def decode(content: bytes, path: Path) -> str:
    """A text file's content: UTF-8 with or without a mark, or, in old files, any one-byte encoding (comments).

    Raises:
        SpecError: it holds zero bytes, and so is no text.
    """
    if b"\0" in content:
        raise SpecError("is not text; a binary net ends in .caffemodel, .binaryproto or .pb", location=str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_bytes(path: Path) -> bytes:
    """The content of a file or pipe. Raises SpecError when it cannot be read, or is a device, which may have no end."""
    if path.is_char_device() or path.is_block_device():
        raise SpecError("is not a regular file", location=str(path))
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"cannot be read: {problem}", location=str(path)) from None


def find(path: str, base: Path, where: str | None = None) -> Path:
    """A path of a declaration: relative to the current folder, as in Caffe, or to the declaring file.

    Raises:
        SpecError: it is in neither place.
    """
    for candidate in (Path(path), base / path):
        if candidate.exists():
            return candidate
    places = str(Path(path).absolute()) if Path(path).is_absolute() else f"{Path.cwd()} and {base.absolute()}"
    raise SpecError(f"{path!r} is not found; looked in {places}", location=where)


def write_text(net: NetParameter, path: str | os.PathLike[str]) -> None:
    """Write a net as prototxt. Raises SpecError when it cannot; what was there stays."""
    write_file(Path(path), format_text(net))


def write_binary(net: NetParameter, path: str | os.PathLike[str]) -> None:
    """Write a net in protobuf's wire format, as Caffe's ``.caffemodel`` files are. Raises SpecError when it cannot."""
    write_file(Path(path), net.SerializeToString())
