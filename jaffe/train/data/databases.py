"""Databases of Datum records: LMDB and LevelDB, as Caffe's tools write them, and array_record files.

They are opened for reading and left as they are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from google.protobuf.message import DecodeError

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.dataset import Record
from jaffe.train.data.datum import decode_datum
from jaffe.train.data.lmdb_pages import check_pages


class Database(ABC):
    """Datum records in the order of their keys: fields ``data`` (C, H, W) and ``label``.

    Args:
        path: of the database.
        color: see ``decode_datum``.

    Attributes:
        keys: of the records, sorted; all in memory (80 MB for a million).
    """

    kind: str
    keys: Sequence[bytes]

    def __init__(self, path: Path, color: bool | None = None):
        self.path = path
        self.color = color
        self._open()

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def values(self, indices: Sequence[int]) -> list[bytes]:
        """The records of these places as they are stored."""

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.color)  # each process opens it anew

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)  # what ends a for loop
        try:
            return decode_datum(self.datum(index), self.color)
        except (ValueError, DecodeError) as error:
            raise JaffeError(f"{self.kind} {self.path}, record {index} (key {self.key(index)}): {error}") from None

    def datum(self, index: int) -> Datum:
        """The record as it is stored. Raises DecodeError when it is none."""
        return Datum.FromString(self.values([index])[0])

    def key(self, index: int) -> str:
        """The record's key."""
        return self.keys[index].decode("utf-8", "backslashreplace")

    def with_color(self, color: bool) -> Database:
        """The database with encoded images decoded to three channels, or to one. It is not opened anew."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, color=color, _opened=self)  # whose files stay as long as it is there
        return other

    @property
    def ragged(self) -> bool:
        """Whether images may differ in size: when the first one is encoded."""
        try:
            return len(self) > 0 and self.datum(0).encoded
        except DecodeError:
            return False

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Those records, each field stacked. Raises JaffeError when one is damaged, or they differ in shape."""
        try:
            datums = [Datum.FromString(value) for value in self.values(indices.tolist())]
        except DecodeError:
            datums = []
        shape = (datums[0].channels, datums[0].height, datums[0].width) if datums else (0,)
        if min(shape) > 0 and not any(datum.encoded for datum in datums):
            pixels = b"".join([datum.data for datum in datums])
            size = int(np.prod(shape, dtype=object))
            if all(len(datum.data) == size and (datum.channels, datum.height, datum.width) == shape
                   for datum in datums):
                labels = np.array([datum.label for datum in datums], np.int32)
                return {"data": np.frombuffer(pixels, np.uint8).reshape(len(datums), *shape), "label": labels}
        records = [self[int(i)] for i in indices]
        if len({record["data"].shape for record in records}) > 1:
            raise JaffeError(f"{self.kind} {self.path}: records differ in shape")
        return {field: np.stack([record[field] for record in records]) for field in records[0]}

    def column(self, field: str) -> np.ndarray | None:
        """All labels, without decoding an image; ``None`` for another field, or where a record is no Datum."""
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self) if field == "label" else 0, 1024):
            try:
                part = [Datum.FromString(value).label
                        for value in self.values(range(start, min(start + 1024, len(self))))]
            except DecodeError:
                return None
            labels[start : start + len(part)] = part
        return labels if field == "label" else None


class _Environment:
    """An LMDB environment, which a process may open only once: shared by all sources of one path."""

    def __init__(self, path: Path):
        import lmdb

        for attempt in range(100):
            try:
                self.env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=path.is_dir())
                return
            except lmdb.Error as error:
                if "already open" not in str(error) or attempt == 99:
                    raise
                time.sleep(0.01)  # another thread has dropped its last source, and is closing it


# By device and inode: of one path others may have been put in its place.
_ENVIRONMENTS: WeakValueDictionary[tuple[int, int], _Environment] = WeakValueDictionary()
_OPENING = threading.Lock()


class LmdbSource(Database):
    """An LMDB: a folder, or the file in it."""

    kind = "LMDB"

    def _open(self) -> None:
        import lmdb

        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not file.is_file():
            raise JaffeError(f"LMDB {self.path} cannot be read: expected a file data.mdb; found none")
        check_pages(file)
        identity = (file.stat().st_dev, file.stat().st_ino)
        try:
            with _OPENING:
                self._environment = _ENVIRONMENTS.get(identity) or _Environment(self.path)
                _ENVIRONMENTS[identity] = self._environment
            with self._environment.env.begin() as transaction:
                self.keys = list(transaction.cursor().iternext(values=False))
        except (lmdb.Error, UnicodeError) as error:  # UnicodeError: a path that is not UTF-8
            raise JaffeError(f"LMDB {self.path} cannot be read: {error}") from None

    def values(self, indices: Sequence[int]) -> list[bytes]:
        with self._environment.env.begin() as transaction:
            return [transaction.get(self.keys[i]) or b"" for i in indices]


class LevelDbSource(Database):
    """A LevelDB folder.

    Opening a LevelDB changes it. So RocksDB, which reads the format, opens a temporary folder of links to its files,
    read only. All values pass by once when it is opened, since LevelDB keeps them beside the keys.
    """

    kind = "LevelDB"

    def _open(self) -> None:
        from rocksdict import AccessType, DBRecoveryMode, Options, Rdict

        if not (self.path / "CURRENT").is_file():
            raise JaffeError(f"LevelDB {self.path} cannot be read: expected a folder with a file CURRENT; found none")
        links = tempfile.mkdtemp(prefix="jaffe-leveldb-")
        weakref.finalize(self, shutil.rmtree, links, ignore_errors=True)
        for file in self.path.iterdir():
            if file.name not in ("LOCK", "LOG", "LOG.old"):
                os.symlink(file.resolve(), Path(links) / file.name)
        options = Options(raw_mode=True)
        options.set_paranoid_checks(True)
        options.set_wal_recovery_mode(DBRecoveryMode.absolute_consistency())  # else what is damaged is left out
        try:
            self._db: Any = Rdict(links, options, access_type=AccessType.read_only())
            keys: Any = self._db.keys()
            self.keys = list(keys)
        except Exception as error:  # the library has no type of its own
            raise JaffeError(f"LevelDB {self.path} cannot be read: {error}") from None

    def values(self, indices: Sequence[int]) -> list[bytes]:
        try:
            return [self._db[self.keys[i]] for i in indices]
        except Exception as error:  # the library has no type of its own
            raise JaffeError(f"LevelDB {self.path} cannot be read: {error}") from None


class RecordsSource(Database):
    """array_record files of Datum records, as ``jaffe data convert`` writes them: one, or a folder of them in order.

    Records have no keys; their numbers take the place.
    """

    kind = "array_record"

    def _open(self) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        files = sorted(self.path.glob("*.array_record*")) if self.path.is_dir() else [self.path]
        if not files:
            raise JaffeError(f"{self.path}: expected array_record files; found none")
        try:
            self._source = ArrayRecordDataSource([str(file) for file in files])
        except Exception as error:  # the library has no type of its own
            raise JaffeError(f"array_record {self.path} cannot be read: {str(error) or 'it is damaged'}") from None
        self.keys = _Numbers(len(self._source))

    def values(self, indices: Sequence[int]) -> list[bytes]:
        try:
            return list(self._source.__getitems__(list(indices)))
        except Exception as error:  # the library has no type of its own
            raise JaffeError(f"array_record {self.path} cannot be read: {str(error) or 'it is damaged'}") from None


class _Numbers(Sequence):
    """Keys of records that have none: ``b"00000007"``."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return b"%08d" % index
