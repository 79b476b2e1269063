"""Data sets that are made: LMDB, HDF5 and array_record files, arrays. They are whole or not there.

What is written stands under ``PATH.partial`` until it is whole, and then gets its name at once.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing, write_file
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.dataset import Record
from jaffe.train.data.datum import encode_datum

PART_BYTES = 2**26  # of HDF5 and array_record files, about
MOST_KEY = 511  # LMDB's own limit
_PROGRESS = b"\xff\xffjaffe-progress"  # behind all keys of an LMDB that is not whole


@dataclass(frozen=True)
class Item:
    """What is written of a record.

    Attributes:
        key: in databases.
        fields: arrays by name; for databases ``data`` (C, H, W) and ``label``.
        datum: the record as a database stores it, where it was such, or an encoded image.
    """

    key: str
    fields: Record
    datum: Datum | None = None

    def as_datum(self) -> Datum:
        """As a database stores it. Raises ValueError when the fields are not those of a Datum."""
        if self.datum is not None:
            return self.datum
        label = np.asarray(self.fields.get("label", 0))
        if label.size != 1 or float(label.reshape(()).item()) != int(label.reshape(()).item()):
            raise ValueError(f"a Datum has one whole number as label; found {label.dtype} {label.shape}")
        return encode_datum(np.asarray(self.fields["data"]), int(label.item()))


class Writer(ABC):
    """Writes records, many at a time, to a data set that gets its name when all are there.

    Attributes:
        position: so many records of the source have been taken in, by an earlier, interrupted run too.
        for_datums: whether records are stored as Datum, else as arrays by name.
    """

    for_datums = True
    position = 0

    @abstractmethod
    def write(self, items: Sequence[Item], position: int) -> None:
        """Take in the records up to ``position`` of the source; those that are damaged may be missing."""

    @abstractmethod
    def finish(self) -> None:
        """Give the data set its name. Raises JaffeError when it cannot be written."""

    @abstractmethod
    def close(self) -> None:
        """End without it; what there is stays, to be gone on with."""


class _Staged(Writer):
    """A folder that is filled under another name.

    Args:
        target: the folder's name in the end.
        plan: what is being written. An interrupted run is gone on with only where it was the same.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any]):
        self.target = target
        self.folder = _begun(target)
        note = self.folder / "plan.json"
        text = json.dumps({"format": type(self).__name__, **plan}, sort_keys=True)
        if note.is_file() and note.read_text() != text:
            raise JaffeError(f"{self.folder} was begun by another command, which was interrupted: run that one again "
                             "to go on, or remove the folder to begin anew")
        try:
            self.folder.mkdir(exist_ok=True)
            for left in self.folder.glob(".*"):  # of a write that was cut off
                left.unlink()
        except OSError as error:
            raise JaffeError(f"{self.folder} cannot be written: {error}") from None
        write_file(note, text)

    def finish(self) -> None:
        self.seal()
        (self.folder / "plan.json").unlink()
        old = self.target.with_name(f".{self.target.name}.old")
        try:
            if self.target.exists():
                os.replace(self.target, old)
            os.replace(self.folder, self.target)
        except OSError as error:
            raise JaffeError(f"{self.target} cannot be written: {error}; what was made is in {self.folder}") from None
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)

    @abstractmethod
    def seal(self) -> None:
        """Write what is still to be written."""


def _begun(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


class LmdbWriter(_Staged):
    """An LMDB of Datum records. Records and how far it is are one transaction."""

    def __init__(self, target: Path, plan: Mapping[str, Any]):
        import lmdb

        super().__init__(target, plan)
        self._errors = (lmdb.Error, OSError)
        try:
            # Address space, not disk: the file is as large as what is in it.
            self._env = lmdb.open(str(self.folder), map_size=2**40)
            with self._env.begin() as transaction:
                self.position = int(transaction.get(_PROGRESS) or 0)
        except self._errors as error:
            raise JaffeError(f"{self.folder} cannot be written: {error}") from None

    def write(self, items: Sequence[Item], position: int) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                for item in items:
                    key = item.key.encode()[:MOST_KEY]
                    if not transaction.put(key, item.as_datum().SerializeToString(), overwrite=False):
                        raise JaffeError(f"{self.target}: two records have the key {item.key!r}")
                transaction.put(_PROGRESS, str(position).encode())
        except self._errors as error:
            raise JaffeError(f"{self.folder} cannot be written: {error}") from None
        self.position = position

    def seal(self) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                transaction.delete(_PROGRESS)
        except self._errors as error:
            raise JaffeError(f"{self.folder} cannot be written: {error}") from None
        self.close()
        (self.folder / "lock.mdb").unlink(missing_ok=True)

    def close(self) -> None:
        self._env.close()


class _Parted(_Staged):
    """Files of so many records each, each of them whole or not there."""

    suffix: str

    def __init__(self, target: Path, plan: Mapping[str, Any]):
        super().__init__(target, plan)
        self._waiting: list[Item] = []
        self._bytes = 0
        parts = sorted(self.folder.glob(f"*{self.suffix}"))
        # A part's name ends in the position that it goes to.
        self.position = int(parts[-1].name.removesuffix(self.suffix).rpartition("-")[2]) if parts else 0
        self._part = len(parts)

    def write(self, items: Sequence[Item], position: int) -> None:
        self._waiting += items
        self._bytes += sum(self.size(item) for item in items)
        self.position = position
        if self._bytes >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        # Named by number first, so that files are in order, and by position.
        path = self.folder / f"part-{self._part:05}-{self.position:09}{self.suffix}"
        with replacing(path) as new:
            self.write_part(new, self._waiting)
        self._waiting, self._bytes, self._part = [], 0, self._part + 1

    def seal(self) -> None:
        self._flush()

    def close(self) -> None:
        """What waits is read anew by the run that goes on."""

    @staticmethod
    @abstractmethod
    def size(item: Item) -> int: ...

    @abstractmethod
    def write_part(self, path: Path, items: Sequence[Item]) -> None: ...


class Hdf5Writer(_Parted):
    """A folder of HDF5 files and ``files.txt``, the list of them that an HDF5Data layer reads."""

    for_datums = False
    suffix = ".h5"

    @staticmethod
    def size(item: Item) -> int:
        return sum(np.asarray(value).nbytes for value in item.fields.values())

    def write_part(self, path: Path, items: Sequence[Item]) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            for name, values in _stacked(items, self.target).items():
                file[name] = values

    def seal(self) -> None:
        super().seal()
        names = sorted(part.name for part in self.folder.glob(f"*{self.suffix}"))
        write_file(self.folder / "files.txt", "".join(f"{name}\n" for name in names))


class RecordsWriter(_Parted):
    """A folder of array_record files of Datum records, for random access."""

    suffix = ".array_record"

    @staticmethod
    def size(item: Item) -> int:
        return item.as_datum().ByteSize()

    def write_part(self, path: Path, items: Sequence[Item]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")  # groups are decompressed whole for one record
        for item in items:
            writer.write(item.as_datum().SerializeToString())
        writer.close()


class NpzWriter(Writer):
    """An .npz file of arrays. All is held in memory until the end, so an interrupted run begins anew."""

    for_datums = False

    def __init__(self, target: Path, plan: Mapping[str, Any]):
        self.target = target
        self._items: list[Item] = []

    def write(self, items: Sequence[Item], position: int) -> None:
        self._items += items
        self.position = position

    def finish(self) -> None:
        arrays = _stacked(self._items, self.target)
        with replacing(self.target) as new, new.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def close(self) -> None:
        self._items = []


def _stacked(items: Sequence[Item], target: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for name in items[0].fields if items else ():
        values = [np.asarray(item.fields[name]) for item in items]
        for item, value in zip(items, values, strict=True):
            if value.shape != values[0].shape:
                raise JaffeError(f"{target}: {name} of {item.key!r} has shape {value.shape}, that of {items[0].key!r} "
                                 f"{values[0].shape}; expected one: images:LIST?size=64x80 resizes images")
        arrays[name] = np.stack(values)
    return arrays


WRITERS: dict[str, type[Writer]] = {
    "lmdb": LmdbWriter, "hdf5": Hdf5Writer, "records": RecordsWriter, "npz": NpzWriter}


def open_writer(name: str, plan: Mapping[str, Any] | None, *, force: bool = False) -> Writer:
    """What writes to ``lmdb:PATH``, ``hdf5:PATH``, ``records:PATH`` or ``npz:PATH``; a path ending in .npz does too.

    Args:
        plan: what is being written, to tell an interrupted run of the same from another; ``None``: begin anew.
        force: whether to overwrite what is there.

    Raises:
        JaffeError: the kind is unknown, or there is something and not ``force``.
    """
    kind, _, path = name.partition(":")
    if kind not in WRITERS and name.endswith(".npz"):
        kind, path = "npz", name
    if kind not in WRITERS or not path:
        raise JaffeError(f"{name!r} names no kind of data to write{suggest(kind, WRITERS) if path else ''}; expected "
                         + ", ".join(f"{one}:PATH" for one in WRITERS))
    target = Path(path)
    if target.exists() and not force:
        raise JaffeError(f"{path} is there already; --force overwrites it")
    if not target.absolute().parent.is_dir():
        raise JaffeError(f"{path} cannot be written: there is no folder {target.parent}")
    if plan is None and (begun := _begun(target)).is_dir():
        shutil.rmtree(begun)
    writer: Any = WRITERS[kind]
    return writer(target, plan or {})
