"""A stream of batches of one data set: which records, in which order, and reading them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.train.data.dataset import MOST_DAMAGED, ArraySource, Dataset
from jaffe.train.data.fit import Fit

# Data sets up to this size live on the device; batches are then only indices, gathered inside the step.
RESIDENT_BYTES = 512 * 2**20
CHUNK = 256  # records that are read at once where all are


@dataclass(frozen=True)
class Stream:
    """One data set, the inputs that it fills, and how. Position k of the stream is a function of k and the seed.

    Attributes:
        dataset: the records.
        fields: input blob -> field of the records.
        batch: records in a batch.
        first: the fields of record 0 that are needed, as all others must look.
        fits: of fields whose images may differ in size, how they are made equal.
        shuffle: whether each epoch has an order of its own.
        shard: (number, count): of ``count`` processes that share the stream, the ``number``-th takes its every
            ``count``-th record.
        devices: how many devices of this process take a batch each, stacked along a new first axis, as if each were a
            process; None: one batch, without that axis.
        skip_damaged: whether the next record takes the place of one that cannot be read.
    """

    dataset: Dataset
    fields: Mapping[str, str]
    batch: int
    first: Mapping[str, np.ndarray]
    fits: Mapping[str, Fit]
    shuffle: bool
    shard: tuple[int, int] = (0, 1)
    skip_damaged: bool = False
    devices: int | None = None

    def places(self, position: int, group: int, seed: int) -> np.ndarray:
        """Places in the endless stream of records that batch ``position`` and those after it take, (group * batch), or
        for several devices (devices * group * batch)."""
        number, count = self.shard
        here = self.devices or 1
        own = np.arange(position * self.batch, (position + group) * self.batch) * (count * here) + number * here
        places = (np.arange(here)[:, None] + own).ravel()
        if self.dataset.rand_skip:
            places += int(np.random.default_rng([seed, 1]).integers(self.dataset.rand_skip))
        return places

    def order(self, position: int, group: int, seed: int) -> np.ndarray:
        """The records at those places, as (batch), or (group, batch) for several."""
        items = len(self.dataset.records)
        places = self.places(position, group, seed)
        if self.shuffle:
            epochs, within = np.divmod(places, items)
            chosen = np.empty_like(places)
            for epoch in np.unique(epochs):
                chosen[epochs == epoch] = _permutation(items, seed, int(epoch))[within[epochs == epoch]]
        else:
            chosen = places % items
        return self.grouped(chosen.astype(np.int32), group)

    def grouped(self, array: np.ndarray, group: int) -> np.ndarray:
        """A row for each place as (devices, group, batch, ...), without the axes of one device and of one batch."""
        devices = () if self.devices is None else (self.devices,)
        return array.reshape(*devices, *([group] if group > 1 else []), self.batch, *array.shape[1:])

    def read(self, position: int, group: int, seed: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Batch ``position``: its fields, stacked, and what is said of damaged records that others stand for.

        Raises:
            JaffeError: a record cannot be read, or is not like the first.
        """
        damaged: tuple[str, ...] = ()
        if hasattr(records := self.dataset.records, "sample"):
            found = records.sample(self.places(position, group, seed), seed)
            arrays = {field: found[field] for field in self.first}
        else:
            random = _uniform(self.places(position, group, seed), seed) if self.fits else None
            arrays, damaged = self.gather(self.order(position, group, seed).ravel(), random)
        return {field: self.grouped(array, group) for field, array in arrays.items()}, damaged

    def gather(
        self, indices: np.ndarray, random: np.ndarray | None = None
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Those records' needed fields, stacked; and what is said of damaged ones."""
        if not self.fits and hasattr(records := self.dataset.records, "gather"):
            try:
                found = records.gather(indices)
                arrays = {field: np.asarray(found[field]) for field in self.first}
                if all(arrays[f].shape[1:] == x.shape and arrays[f].dtype == x.dtype for f, x in self.first.items()):
                    return arrays, ()
            except Exception:  # whatever a user's own source raises: which record it was is found below
                pass
        damaged: list[str] = []
        read = [self._sound(int(index), None if random is None else random[i], damaged)
                for i, index in enumerate(indices)]
        return {field: np.stack([record[field] for record in read]) for field in self.first}, tuple(damaged)

    def _sound(self, index: int, random: np.ndarray | None, damaged: list[str]) -> dict[str, np.ndarray]:
        """A record, or the next one that is not damaged."""
        if not self.skip_damaged:
            return self.record(index, random)
        items = len(self.dataset.records)
        for i in range(index, index + min(items, MOST_DAMAGED)):
            try:
                return self.record(i % items, random)
            except JaffeError as error:
                damaged.append(str(error))
        raise JaffeError(f"{self.dataset.name}: {len(damaged)} records in a row cannot be read; the first: "
                         f"{damaged[0]}")

    def record(self, index: int, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The needed fields of a record. Raises JaffeError when it cannot be read or is not like the first."""
        try:
            record = self.dataset.records[index]
            found = {field: np.asarray(record[field]) for field in self.first}
            for field, fit in self.fits.items():
                found[field] = fit(found[field], np.zeros(2) if random is None else random)
        except JaffeError:
            raise
        except Exception as error:  # whatever a user's own source raises
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise JaffeError(f"{self.dataset.where(index)}: {kind}{error}") from error
        for field, first in self.first.items():
            value = found[field]
            if value.shape != first.shape or value.dtype != first.dtype:
                hint = ("; crop_size, resize or pad_to of transform_param takes images of different sizes"
                        if value.ndim == 3 and len(value) == len(first) and field not in self.fits
                        and value.dtype == np.uint8 == first.dtype else "")
                raise JaffeError(f"{self.dataset.where(index)}: {field} is {value.dtype} {value.shape}; "
                                 f"expected {first.dtype} {first.shape}, as record 0{hint}")
        return found

    def held(self) -> tuple[dict[str, np.ndarray] | None, tuple[str, ...]]:
        """The needed fields of all records, if they are small and the same each time; and what is said of damaged
        ones."""
        records, count = self.dataset.records, len(self.dataset.records)
        size = count * sum(x.nbytes for x in self.first.values())
        if self.fits or hasattr(records, "sample") or size > RESIDENT_BYTES:
            return None, ()
        if isinstance(records, ArraySource):
            return {field: records.arrays[field] for field in self.first}, ()
        arrays = {field: np.empty((count, *x.shape), x.dtype) for field, x in self.first.items()}

        def read(start: int) -> tuple[str, ...]:
            stop = min(start + CHUNK, count)
            found, damaged = self.gather(np.arange(start, stop))
            for field, array in arrays.items():
                array[start:stop] = found[field]
            return damaged

        starts = range(0, count, CHUNK)
        if not hasattr(records, "key"):  # a user's own source, which need not be ready for threads
            return arrays, sum(map(read, starts), ())
        with ThreadPoolExecutor(cores()) as pool:
            return arrays, sum(pool.map(read, starts), ())


@dataclass(frozen=True)
class Reader:
    """Reads batches of a stream by number: what grain runs in threads or processes."""

    stream: Stream
    group: int
    seed: int

    def __call__(self, k: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        return self.stream.read(k * self.group, self.group, self.seed)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _uniform(places: np.ndarray, seed: int) -> np.ndarray:
    """Two numbers in [0, 1) for each place of the stream, which depend on it and the seed alone: (places, 2).

    Philox makes four numbers of a counter; here that is the place.
    """
    first, span = int(places[0]), int(places[-1] - places[0]) + 1
    blocks = np.random.Generator(np.random.Philox(key=[seed, 2], counter=[first, 0, 0, 0])).random((span, 4))
    return blocks[places - first, :2]


@lru_cache(maxsize=8)
def _permutation(items: int, seed: int, epoch: int) -> Any:
    """The order of an epoch: each record once."""
    return np.random.default_rng([seed, epoch]).permutation(items)
