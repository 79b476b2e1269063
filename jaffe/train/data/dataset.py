"""Data sets: records by index, and the order in which training takes them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from jaffe.netdef.errors import JaffeError, suggest

MOST_DAMAGED = 100  # records in a row that may be damaged before it is the data set that is
Record = Mapping[str, np.ndarray]


@runtime_checkable
class RandomAccess(Protocol):
    """A sequence of records: dicts of arrays by field name.

    A source may also have

    - ``gather(indices)``: those records at once, a dict of arrays with one more first axis, where that is faster;
    - ``key(index)``: what names a record in its file, for messages and for databases that are made of it;
    - ``column(field)``: a field of all records, (items, ...), where it is had without the others; else ``None``;
    - ``ragged``: whether images may differ in height and width; a net that crops, resizes or pads them takes them;
    - ``with_color(color)``: the source decoding to three channels or to one (``transform_param.force_color``);
    - ``sample(places, seed)``: records for places of the stream, in place of records by index (WindowData).

    Sources are pickled where processes read them (``workers``).
    """

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
        rand_skip: so many records at most are skipped at the start, a number drawn from the seed.
        order: of the channels of images with three of them: BGR, as OpenCV and Caffe have them, or RGB.
    """

    records: RandomAccess
    shuffle: bool
    name: str
    rand_skip: int = 0
    order: str = "BGR"

    def fields(self, *, skip_damaged: bool = False) -> dict[str, np.ndarray]:
        """The first record, or the first that can be read. Raises JaffeError when there is none."""
        if not len(self.records):
            raise JaffeError(f"{self.name} is empty")
        for index in range(min(len(self.records), MOST_DAMAGED) if skip_damaged else 0):
            with suppress(JaffeError):
                return self.record(index)
        return self.record(0)

    def record(self, index: int) -> dict[str, np.ndarray]:
        """A record. Raises JaffeError, which names it, when it cannot be read."""
        try:
            record = self.records[index]
            if not isinstance(record, Mapping):
                raise TypeError(f"found {type(record).__name__}")
            return {name: np.asarray(value) for name, value in record.items()}
        except JaffeError:
            raise
        except Exception as error:  # whatever a user's own source raises
            raise JaffeError(f"{self.where(index)}: expected a dict of arrays; {type(error).__name__}: {error}"
                             ) from error

    def where(self, index: int) -> str:
        """What names a record in messages."""
        key = f" ({records.key(index)})" if hasattr(records := self.records, "key") else ""
        return f"{self.name}, record {index}{key}"


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

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Those records, each field stacked."""
        return {key: value[indices] for key, value in self.arrays.items()}

    def column(self, field: str) -> np.ndarray:
        """A field of all records."""
        return self.arrays[field]


class _Over:
    """A source over another one, which has what the other has beyond records."""

    def __init__(self, records: RandomAccess):
        self.records: Any = records
        self.ragged = getattr(records, "ragged", False)
        for name in ("gather", "key", "with_color"):
            if hasattr(records, name):
                setattr(self, name, getattr(self, f"_{name}"))


class View(_Over):
    """Records of a source by index, in any order and number, with some fields replaced.

    Args:
        records: the source.
        indices: place in the source of each record, (items).
        own: arrays of the fields that are replaced, (items, ...).
    """

    def __init__(self, records: RandomAccess, indices: np.ndarray, own: Mapping[str, np.ndarray]):
        super().__init__(records)
        self.indices = indices
        self.own = own

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        record = self.records[int(self.indices[index])]
        return {**record, **{field: np.asarray(array[index]) for field, array in self.own.items()}}

    def column(self, field: str) -> np.ndarray | None:
        """A field of all records, (items, ...), where it is had without the others; else ``None``."""
        if field in self.own or not hasattr(self.records, "column"):
            return self.own.get(field)
        whole = self.records.column(field)
        return None if whole is None else whole[self.indices]

    def _gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {**self.records.gather(self.indices[indices]),
                **{field: array[indices] for field, array in self.own.items()}}

    def _key(self, index: int) -> str:
        return self.records.key(int(self.indices[index]))

    def _with_color(self, color: bool) -> View:
        return View(self.records.with_color(color), self.indices, self.own)


class Renamed(_Over):
    """Some fields of a source under other names; the others are left out."""

    def __init__(self, records: RandomAccess, names: Mapping[str, str]):
        super().__init__(records)
        self.names = dict(names)  # new -> old

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        return {new: record[old] for new, old in self.names.items()}

    def _gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        found = self.records.gather(indices)
        return {new: found[old] for new, old in self.names.items()}

    def _key(self, index: int) -> str:
        return self.records.key(index)

    def _with_color(self, color: bool) -> Renamed:
        return Renamed(self.records.with_color(color), self.names)


def renamed(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """A data set with fields renamed to those of the net's inputs: ``{"data": "image", "label": "coarse_label"}``.

    Raises:
        JaffeError: it has no such field.
    """
    first = dataset.fields()
    for old in names.values():
        if old not in first:
            raise JaffeError(f"{dataset.name} has no field {old!r}{suggest(old, first)}; it has {', '.join(first)}")
    if isinstance(dataset.records, ArraySource):
        arrays = {new: dataset.records.arrays[old] for new, old in names.items()}
        return replace(dataset, records=ArraySource(arrays, dataset.name))
    return replace(dataset, records=Renamed(dataset.records, names))
