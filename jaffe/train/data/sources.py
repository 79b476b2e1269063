"""Sources of records: arrays, LMDB, TFDS, NumPy files, and any sequence of records."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
from google.protobuf.message import DecodeError

from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.made import MADE

Record = Mapping[str, np.ndarray]


@runtime_checkable
class RandomAccess(Protocol):
    """A sequence of records: dicts of arrays by field name."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


Data: TypeAlias = "str | Mapping[str, np.ndarray] | RandomAccess | Dataset"


@dataclass(frozen=True)
class Dataset:
    """Records, and the order in which training takes them.

    Attributes:
        records: the source.
        shuffle: whether training shuffles them anew each epoch; databases are read in their order, as in Caffe.
        name: for messages.
    """

    records: RandomAccess
    shuffle: bool
    name: str

    def fields(self) -> dict[str, np.ndarray]:
        """The first record. Raises JaffeError when there is none."""
        if not len(self.records):
            raise JaffeError(f"{self.name} is empty")
        try:
            return {name: np.asarray(value) for name, value in self.records[0].items()}
        except JaffeError:
            raise
        except Exception as error:  # whatever a user's own source raises
            raise JaffeError(f"{self.name}, record 0: expected a dict of arrays; {type(error).__name__}: {error}"
                             ) from error


class ArraySource:
    """Arrays by field name, all with one first axis: the records."""

    def __init__(self, arrays: Mapping[str, Any], name: str):
        self.arrays = {key: np.asarray(value) for key, value in arrays.items()}
        sizes = {key: value.shape[:1] for key, value in self.arrays.items()}
        if not sizes or len(set(sizes.values())) != 1 or () in sizes.values():
            raise JaffeError(f"{name}: arrays have one first axis, the records; found "
                             + (", ".join(f"{k} {v.shape}" for k, v in self.arrays.items()) or "none"))

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Record:
        return {key: value[index] for key, value in self.arrays.items()}


class _Opened:
    """An LMDB environment, which a process may open only once: shared by all sources of one path."""

    def __init__(self, path: Path):
        import lmdb

        self.env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=path.is_dir())
        _OPEN[path.resolve()] = self


_OPEN: WeakValueDictionary[Path, _Opened] = WeakValueDictionary()


class LmdbSource:
    """Datum records of an LMDB in the order of their keys: fields ``data`` (C, H, W) and ``label``."""

    def __init__(self, path: Path):
        import lmdb

        self.path = path
        try:
            self.opened = _OPEN.get(path.resolve()) or _Opened(path)
            with self.opened.env.begin() as transaction:
                self.keys = list(transaction.cursor().iternext(values=False))
        except lmdb.Error as error:
            raise JaffeError(f"LMDB {path} cannot be read: {error}") from None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        key = self.keys[index]
        with self.opened.env.begin() as transaction:
            value = bytes(transaction.get(key) or b"")
        try:
            return decode_datum(Datum.FromString(value))
        except (ValueError, DecodeError) as error:
            raise JaffeError(f"LMDB {self.path}, record {index} (key {key!r}): {error}") from None


def decode_datum(datum: Datum) -> Record:
    """Pixels, (channels, height, width), uint8 or float32, and the label.

    Raises:
        ValueError: the number of values does not fit, or the image is encoded.
    """
    if datum.encoded:
        raise ValueError("encoded images (JPEG, PNG) are not read yet; expected raw pixels")
    pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    shape = (datum.channels, datum.height, datum.width)
    if pixels.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"expected {shape} values; found {pixels.size}")
    return {"data": pixels.reshape(shape), "label": np.array(datum.label, np.int32)}


class TfdsSource:
    """A TFDS split, prepared in a random-access format. Images (H, W, C) become (C, H, W)."""

    def __init__(self, name: str, split: str):
        try:
            builder = _prepared(name)
            splits = list(builder.info.splits)
            if split in splits:
                self.records = builder.as_data_source(split=split)
        except Exception as error:  # downloads, disks and damaged files, each with errors of its own
            problem = (str(error).strip().splitlines() or [""])[0]
            raise JaffeError(f"tfds:{name} cannot be had: {type(error).__name__}: {problem}") from error
        if split not in splits:
            raise JaffeError(f"tfds:{name} has no split {split!r}{suggest(split, splits)}; it has {', '.join(splits)}")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        if index >= len(self):
            raise IndexError(index)  # what ends a for loop; array_record raises another error
        fields = {key: np.asarray(value) for key, value in self.records[index].items() if key not in _NOT_BLOBS}
        return {key: np.moveaxis(x, -1, 0) if x.ndim == 3 else x for key, x in fields.items()}


def _prepared(name: str) -> Any:
    """A TFDS builder whose data are on disk: made from scikit-learn (digits), found, or downloaded."""
    import tensorflow_datasets as tfds

    if name != "digits":
        folder = data_folder() if "JAFFE_DATA" in os.environ else None  # else where TFDS keeps its own
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        if not builder.info.splits:
            builder.download_and_prepare()
        return builder
    from jaffe.train.data.digits import Digits

    tfds.disable_progress_bar()
    for attempt in range(2):
        builder = Digits(data_dir=data_folder(), file_format="array_record")
        try:
            with contextlib.redirect_stdout(None):  # it would speak of a download, and there is none
                builder.download_and_prepare()
            break
        except FileExistsError:  # another process has just done the same
            if attempt:
                raise
    return builder


_NOT_BLOBS = {"id", "file_name", "image/filename", "coarse_label"}


def data_folder() -> Path:
    """Where prepared data sets are kept: ``$JAFFE_DATA``, else ``jaffe`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("JAFFE_DATA") or cache / "jaffe") / "tensorflow_datasets"


def open_dataset(data: Data, split: str, base: Path = Path()) -> Dataset:
    """Open a source of records.

    Args:
        data: ``"tfds:NAME"`` (its ``split`` is taken, or ``"tfds:NAME:SPLIT"``), ``"lmdb:PATH"``, ``"npz:PATH"``,
            ``"text:python"``, ``"made:sums"`` and ``"made:moving"`` (``jaffe.train.data.made``), a dict of arrays with
            one first axis, any sequence of dicts of arrays, or a ``Dataset``.
        split: ``"train"`` or ``"test"``.
        base: where relative paths are looked for beside the current folder.

    Raises:
        JaffeError: the source does not exist or cannot be read.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Mapping):
        return Dataset(ArraySource(data, "data"), True, "arrays")
    if isinstance(data, str):
        return _open_named(data, split, base)
    if isinstance(data, RandomAccess):
        return Dataset(data, True, type(data).__name__)
    raise TypeError("data is 'tfds:NAME', 'lmdb:PATH', 'npz:PATH', a dict of arrays or a sequence of records; "
                    f"received {type(data).__name__}")


def _open_named(data: str, split: str, base: Path) -> Dataset:
    if data in MADE:
        make, shuffle = MADE[data]
        return Dataset(ArraySource(make(split), data), shuffle, data)
    kind, _, rest = data.partition(":")
    if kind == "tfds" and rest:
        name, _, own = rest.partition(":")
        return Dataset(TfdsSource(name, own or split), True, data)
    if kind in ("lmdb", "npz") and rest:
        path = next((p for p in (Path(rest), base / rest) if p.exists()), None)
        if path is None:
            raise JaffeError(f"{data}: there is no {Path(rest)} in {Path.cwd()} or {base.absolute()}")
        if kind == "lmdb":
            return Dataset(LmdbSource(path), False, data)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return Dataset(ArraySource(dict(arrays), data), True, data)
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:  # TypeError: an .npy file
            raise JaffeError(f"{data} cannot be read: {error}") from None
    *kinds, last = ["tfds:NAME", "lmdb:PATH", "npz:PATH", *MADE]
    raise JaffeError(f"data {data!r} is not known; expected {', '.join(kinds)} or {last}")
