"""Data sets that are made: LMDB, HDF5 and array_record files, arrays. They are whole or not there.

What is written stands under ``PATH.partial`` until it is whole, and then gets its name at once.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing, write_file
from jaffe.netdef.errors import JaffeError, listed, suggest
from jaffe.train.data.dataset import Record

PART_BYTES = 2**26  # of HDF5 and array_record files, about
MOST_KEY = 511  # LMDB's own limit
_PROGRESS = b"\xff\xffjaffe-progress"  # behind all keys of an LMDB that is not whole
# What writers put into folders; a folder with anything else is never removed. Names with a dot are of cut-off writes.
_OURS = ("data.mdb", "lock.mdb", "files.txt", "part-*.h5", "part-*.array_record", "plan.json",
         ".plan.json.*", ".files.txt.*", ".part-*")


@dataclass(frozen=True)
class Item:
    """What is written of a record.

    Attributes:
        key: in databases. Bytes that are not UTF-8 are surrogates, as in names of files.
        fields: arrays by name, for files of arrays.
        stored: a serialized Datum, for databases.
    """

    key: str
    fields: Record = field(default_factory=dict)
    stored: bytes = b""


class Writer(ABC):
    """Writes records, many at a time, to a data set that gets its name when all are there.

    Args:
        target: the data set's name in the end.
        plan: what is being written, ``records`` of them; ``None``: begin anew.
        force: whether to overwrite a data set of the kind.

    Attributes:
        position: so many records of the source have been taken in, by an earlier, interrupted run too.
        for_datums: whether records are stored as Datum, else as arrays by name.
        form: what a data set is on disk.
    """

    for_datums = True
    position = 0
    form = "a regular file"

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        self.target = target
        self.force = force

    @classmethod
    def holds(cls, path: Path) -> bool:
        """Whether there is a data set of this kind, and nothing else."""
        return path.is_file()

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
    """A folder that is filled under another name. An interrupted run is gone on with where the plan was the same."""

    needed: tuple[str, ...]
    further: tuple[str, ...] = ()

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        super().__init__(target, plan, force)
        self.folder = target.with_name(f"{target.name}.partial")
        note = self.folder / "plan.json"
        text = json.dumps({"format": type(self).__name__, **(plan or {})}, sort_keys=True)
        with self._told():
            if plan is not None and note.is_file():
                if note.read_bytes() != text.encode():
                    raise JaffeError(f"{self.folder} was begun by another command, which was interrupted: run that "
                                     "one again to go on, or remove the folder to begin anew")
            elif self.folder.is_dir():  # without a plan the run ended between the last record and the name
                _remove(self.folder)
            self.folder.mkdir(exist_ok=True)
            for left in self.folder.glob(".*"):  # of a write that was cut off
                left.unlink()
            write_file(note, text)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the system and of LMDB as JaffeErrors."""
        import lmdb

        try:
            yield
        except (OSError, lmdb.Error) as error:
            problem = (isinstance(error, OSError) and error.strerror) or error
            raise JaffeError(f"{self.folder} cannot be written: {problem}") from None

    @classmethod
    def holds(cls, path: Path) -> bool:
        return _only(path, (*cls.needed, *cls.further)) and all(any(path.glob(name)) for name in cls.needed)

    def finish(self) -> None:
        self.seal()
        old = self.target.with_name(f".{self.target.name}.old")
        try:
            check_path(str(self.target), self, force=self.force)  # others may have written there meanwhile
            (self.folder / "plan.json").unlink()
            if self.target.exists():
                if old.is_dir():  # a run was killed while it removed it
                    _remove(old)
                os.replace(self.target, old)
            os.replace(self.folder, self.target)
            if old.is_dir():
                _remove(old)
        except (OSError, JaffeError) as error:
            raise JaffeError(f"{self.target} cannot be written: {error}; what was made is in {self.folder}") from None

    @abstractmethod
    def seal(self) -> None:
        """Write what is still to be written."""


def _only(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder holds files of such names alone."""
    return folder.is_dir() and all(entry.is_file() and any(fnmatchcase(entry.name, name) for name in names)
                                   for entry in folder.iterdir())


def _remove(folder: Path) -> None:
    """Remove a folder that a writer made. Raises JaffeError when it holds anything else."""
    if folder.is_symlink() or not _only(folder, _OURS):
        raise JaffeError(f"{folder} is in the way: expected what an interrupted run left; found {_found(folder)}")
    shutil.rmtree(folder)


def _found(path: Path) -> str:
    if not path.is_dir():
        return "a file" if path.is_file() else "neither a file nor a folder"
    return listed(sorted(entry.name for entry in path.iterdir()), 4) or "an empty folder"


class LmdbWriter(_Staged):
    """An LMDB of Datum records. Records and how far it is are one transaction."""

    form = "an LMDB: data.mdb, and lock.mdb or not"
    needed = ("data.mdb",)
    further = ("lock.mdb",)

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        import lmdb

        super().__init__(target, plan, force)
        with self._told():
            # Address space, not disk: the file is as large as what is in it. As bytes, names need not be UTF-8.
            self._env = lmdb.open(os.fsencode(self.folder), map_size=2**40)
            with self._env.begin() as transaction:
                progress = transaction.get(_PROGRESS)
            if progress is None and plan and self._env.stat()["entries"]:  # the run ended just after it had sealed it
                progress = plan["records"]
            self.position = int(progress or 0)

    def write(self, items: Sequence[Item], position: int) -> None:
        with self._told(), self._env.begin(write=True) as transaction:
            for item in items:
                key = item.key.encode(errors="surrogateescape")[:MOST_KEY]
                if not transaction.put(key, item.stored, overwrite=False):
                    raise JaffeError(f"{self.target}: two records have the key {item.key!r}")
            transaction.put(_PROGRESS, str(position).encode())
        self.position = position

    def seal(self) -> None:
        with self._told():
            with self._env.begin(write=True) as transaction:
                transaction.delete(_PROGRESS)
            self.close()
            (self.folder / "lock.mdb").unlink(missing_ok=True)

    def close(self) -> None:
        self._env.close()


class _Parted(_Staged):
    """Files of so many records each, each of them whole or not there."""

    suffix: str

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        super().__init__(target, plan, force)
        self._waiting: list[Item] = []
        self._bytes = 0
        self.parts = sorted(self.folder.glob(f"*{self.suffix}"))
        # A part's name ends in the position that it goes to.
        self.position = int(self.parts[-1].stem.rpartition("-")[2]) if self.parts else 0

    def write(self, items: Sequence[Item], position: int) -> None:
        self._waiting += items
        self._bytes += sum(self.size(item) for item in items)
        self.position = position
        if self._bytes >= PART_BYTES:
            self.seal()

    def seal(self) -> None:
        if not self._waiting:
            return
        # Named by number first, so that files are in order, and by position.
        path = self.folder / f"part-{len(self.parts):05}-{self.position:09}{self.suffix}"
        with replacing(path) as new:
            self.write_part(new, self._waiting)
        self._waiting, self._bytes = [], 0
        self.parts.append(path)

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
    form = "files.txt and part-*.h5"
    needed = ("files.txt", "part-*.h5")
    suffix = ".h5"

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        import h5py

        super().__init__(target, plan, force)
        self._first: Item | None = None
        for part in self.parts[:1]:
            with self._told(), h5py.File(part) as file:
                names: list[str] = []
                file.visit(names.append)
                self._first = Item(part.name, {name: np.asarray(file[name][0]) for name in names
                                               if isinstance(file[name], h5py.Dataset)})

    def write(self, items: Sequence[Item], position: int) -> None:
        for item in items:
            self._first = self._first or item
            _check_fits(item, self._first, self.target, dtypes=True)
        super().write(items, position)

    @staticmethod
    def size(item: Item) -> int:
        return sum(np.asarray(value).nbytes for value in item.fields.values())

    def write_part(self, path: Path, items: Sequence[Item]) -> None:
        import h5py

        first = self._first or items[0]
        with h5py.File(path, "w") as file:
            for name, value in first.fields.items():
                file[name] = np.stack([item.fields[name] for item in items], dtype=np.asarray(value).dtype)

    def finish(self) -> None:
        self.seal()
        write_file(self.folder / "files.txt", "".join(f"{part.name}\n" for part in self.parts))
        super().finish()


def _check_fits(item: Item, first: Item, target: Path, *, dtypes: bool) -> None:
    """Raises JaffeError when a record cannot be a row of the arrays that ``first`` begins."""
    for name, value in first.fields.items():
        found, expected = np.asarray(item.fields[name]), np.asarray(value)
        if found.shape != expected.shape:
            raise JaffeError(f"{target}: {name} of {item.key!r} has shape {found.shape}, that of {first.key!r} "
                             f"{expected.shape}; expected one: images:LIST?size=64x80 resizes images")
        if dtypes and not np.can_cast(found.dtype, expected.dtype):
            raise JaffeError(f"{target}: {name} of {item.key!r} is {found.dtype}; expected {expected.dtype}, as that "
                             f"of {first.key!r}")


class RecordsWriter(_Parted):
    """A folder of array_record files of Datum records, for random access."""

    form = "part-*.array_record"
    needed = ("part-*.array_record",)
    suffix = ".array_record"

    @staticmethod
    def size(item: Item) -> int:
        return len(item.stored)

    def write_part(self, path: Path, items: Sequence[Item]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(os.fsencode(path), "group_size:1")  # groups are decompressed whole for one record
        for item in items:
            writer.write(item.stored)
        writer.close()


class NpzWriter(Writer):
    """An .npz file of arrays. All is held in memory until the end, so an interrupted run begins anew."""

    for_datums = False

    def __init__(self, target: Path, plan: Mapping[str, Any] | None, force: bool):
        super().__init__(target, plan, force)
        self._items: list[Item] = []

    def write(self, items: Sequence[Item], position: int) -> None:
        self._items += items
        self.position = position
        for item in items:
            _check_fits(item, self._items[0], self.target, dtypes=False)

    def finish(self) -> None:
        check_path(str(self.target), self, force=self.force)
        # As numpy.savez, which does not take every name: not "file".
        with replacing(self.target) as new, zipfile.ZipFile(new, "w") as archive:
            for name in self._items[0].fields if self._items else ():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    values = np.stack([item.fields[name] for item in self._items])
                    np.lib.format.write_array(member, values, allow_pickle=False)

    def close(self) -> None:
        self._items = []


WRITERS: dict[str, type[Writer]] = {
    "lmdb": LmdbWriter, "hdf5": Hdf5Writer, "records": RecordsWriter, "npz": NpzWriter}


def check_path(path: str, writer: Writer | type[Writer], *, force: bool) -> Path:
    """The path, links followed, where data of a kind can be written. Raises JaffeError when they cannot."""
    target = Path(path)
    try:
        if target.name in ("", ".."):
            raise JaffeError(f"{path!r} cannot be written: expected a path that ends in a name")
        if target.is_symlink():
            target = target.resolve()
        if target.exists() and not force:
            raise JaffeError(f"{path} is there already; --force overwrites it")
        if target.exists() and not writer.holds(target):
            raise JaffeError(f"{path} is there already, and --force overwrites only its like: expected {writer.form}; "
                             f"found {_found(target)}")
        if not target.absolute().parent.is_dir():
            raise JaffeError(f"{path} cannot be written: there is no folder {target.parent}")
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round
        raise JaffeError(f"{path} cannot be written: {getattr(error, 'strerror', '') or error}") from None
    return target


def check_target(name: str, *, force: bool) -> tuple[type[Writer], Path]:
    """What writes to ``lmdb:PATH``, ... and the path. Raises JaffeError as ``open_writer`` does."""
    kind, _, path = name.partition(":")
    if kind not in WRITERS and name.endswith(".npz"):
        kind, path = "npz", name
    if kind not in WRITERS or not path:
        raise JaffeError(f"{name!r} names no kind of data to write{suggest(kind, WRITERS) if path else ''}; expected "
                         + ", ".join(f"{one}:PATH" for one in WRITERS))
    return WRITERS[kind], check_path(path, WRITERS[kind], force=force)


def open_writer(name: str, plan: Mapping[str, Any] | None, *, force: bool = False) -> Writer:
    """What writes to ``lmdb:PATH``, ``hdf5:PATH``, ``records:PATH`` or ``npz:PATH``; a path ending in .npz does too.

    Args:
        plan: what is being written, to tell an interrupted run of the same from another; ``None``: begin anew.
        force: whether to overwrite a data set of that kind.

    Raises:
        JaffeError: the kind is unknown; or there is something and not ``force``, or something else than such data.
    """
    writer, path = check_target(name, force=force)
    return writer(path, plan, force)
