"""The feed of a net: which records go to which inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaffe.compile.layer import make_layer
from jaffe.compile.layers.data import Source
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph
from jaffe.netdef.jaffe_pb2 import DataParameter
from jaffe.train.data.sources import ArraySource, Data, Dataset, open_dataset
from jaffe.train.data.transform import Transform

# Data sets up to this size live on the device; batches are then only indices, gathered inside the step.
RESIDENT_BYTES = 512 * 2**20
PREFETCH = 8


@dataclass(frozen=True)
class _Stream:
    """One data set, the inputs that it fills, and how."""

    dataset: Dataset
    fields: dict[str, str]  # input blob -> field of the records
    batch: int
    transforms: dict[str, Transform]  # input blob -> transform
    first: dict[str, np.ndarray]  # the fields of record 0 that are needed: what all others look like


class Feed:
    """Batches for the inputs of one net.

    ``fetch`` is pure and belongs inside the jitted step; ``batches`` yields what it takes. Position k of the
    stream of batches is a function of k alone: a run resumes at its iteration and sees what it would have seen.

    Attributes:
        shapes: of the net's inputs, batch included: what ``compile_net(inputs=...)`` takes.
        resident: data sets that stay on the device, as ``fetch`` takes them.
        images: items in a batch.

    Raises:
        JaffeError: an input has no data, or the data do not fit it.
    """

    def __init__(self, graph: Graph, data: Data | None, *, base: Path = Path(), seed: int = 0):
        self.train = graph.phase == "TRAIN"
        self.seed = seed
        sources = [layer for node in graph.nodes if isinstance(layer := make_layer(node), Source)]
        self._streams = self._join(sources, data, base)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for stream in self._streams:
            for blob, field in stream.fields.items():
                transform = stream.transforms.get(blob)
                self.shapes[blob] = (stream.batch, *(transform.shape if transform else stream.first[field].shape))
        self.images = max((stream.batch for stream in self._streams), default=0)
        held = [_held(stream) for stream in self._streams]
        self._gathers = [arrays is not None for arrays in held]
        self.resident = tuple(jax.device_put(arrays) for arrays in held)
        self._permutation = lru_cache(maxsize=2 * len(held))(_permutation)  # two epochs: where a batch spans both

    def _join(self, sources: Sequence[Source], data: Data | None, base: Path) -> list[_Stream]:
        split = "train" if self.train else "test"
        if not sources:
            return []
        if data is not None:
            dataset = open_dataset(data, split, base)
            return [self._stream(dataset, sources, base)]
        return [self._stream(_own_data(source, base), [source], base) for source in sources]

    def _stream(self, dataset: Dataset, sources: Sequence[Source], base: Path) -> _Stream:
        first = dataset.fields()
        blobs = [blob for source in sources for blob in source.node.tops]
        if len(blobs) > len(first):
            raise JaffeError(f"{dataset.name} has the fields {', '.join(first)}; the net's inputs are "
                             f"{', '.join(blobs)}: expected as many, or the same names")
        # Fields of the same name, and for the other inputs the other fields, in order.
        others = iter([field for field in first if field not in blobs])
        fields = {blob: blob if blob in first else next(others) for blob in blobs}
        sizes = {source.batch or _first_size(source) for source in sources}
        if len(sizes) != 1:
            raise JaffeError(f"the net's inputs have different batch sizes: {sorted(sizes)}; expected one")
        transforms = {}
        for source in sources:
            blob = source.node.tops[0]
            if source.node.proto.HasField("transform_param"):
                transforms[blob] = Transform(source.node, first[fields[blob]].shape, base)
            for blob, declared in zip(source.node.tops, source.declared(), strict=True):
                shape = transforms[blob].shape if blob in transforms else first[fields[blob]].shape
                if declared is not None and declared[1:] != shape:
                    raise source.node.error(
                        f"{blob!r} is declared with items of shape {declared[1:]}; {dataset.name} gives {shape} "
                        f"(field {fields[blob]!r}); change the declaration, or the data with transform_param"
                    )
        needed = {field: first[field] for field in fields.values()}
        for field, value in needed.items():
            if value.dtype.kind not in "biuf":
                raise JaffeError(f"{dataset.name}: field {field!r} holds {value.dtype}; expected numbers")
        return _Stream(dataset, fields, sizes.pop(), transforms, needed)

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Of each data set how many records it has, and how many of them a batch takes."""
        return {(len(stream.dataset.records), stream.batch) for stream in self._streams}

    def fetch(self, resident: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Inputs of the net from a batch: gathered from resident data and transformed. Pure."""
        inputs = {}
        for i, stream in enumerate(self._streams):
            records = batch[i]
            if self._gathers[i]:
                records = {field: array[records] for field, array in resident[i].items()}
            for j, (blob, field) in enumerate(stream.fields.items()):
                x = records[field]
                if blob in stream.transforms:
                    x = stream.transforms[blob](x, jax.random.fold_in(key, 16 * i + j))
                inputs[blob] = x
        return inputs

    def batches(self, start: int = 0, group: int = 1) -> Iterator[tuple[Any, ...]]:
        """Batches without end, on the device, from position ``start`` on.

        Args:
            start: batches to skip.
            group: batches to stack along a new first axis (``iter_size``); 1 stacks none.
        """
        iterators = [self._iterate(i, start, group) for i in range(len(self._streams))]
        while True:
            yield tuple(jax.device_put(next(iterator)) for iterator in iterators)

    def _iterate(self, index: int, start: int, group: int) -> Iterator[Any]:
        import grain  # not needed to compile a net or to write a training loop of one's own

        stream, gathers = self._streams[index], self._gathers[index]

        def batch(k: int) -> Any:
            chosen = self._order(stream, k * group, group)
            if gathers:
                return chosen
            records = [_record(stream, int(i)) for i in chosen.ravel()]
            return {
                field: np.stack([record[field] for record in records]).reshape(*chosen.shape, *value.shape)
                for field, value in stream.first.items()
            }

        # grain prefetches in threads; one element is a whole batch, since an index at a time costs more than a step
        # of a small net.
        batches = grain.MapDataset.range(start // group, 2**40).map(batch)
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=PREFETCH)))

    def _order(self, stream: _Stream, position: int, group: int) -> np.ndarray:
        """Which records batch ``position`` and those after it hold: (batch), or (group, batch) for several."""
        items = len(stream.dataset.records)
        places = np.arange(position * stream.batch, (position + group) * stream.batch)
        if self.train and stream.dataset.shuffle:
            epochs, within = np.divmod(places, items)
            chosen = np.empty_like(places)
            for epoch in np.unique(epochs):
                chosen[epochs == epoch] = self._permutation(items, self.seed, int(epoch))[within[epochs == epoch]]
        else:
            chosen = places % items
        chosen = chosen.astype(np.int32)
        return chosen.reshape(group, stream.batch) if group > 1 else chosen


def _permutation(items: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: each record once."""
    return np.random.default_rng([seed, epoch]).permutation(items)


def _held(stream: _Stream) -> dict[str, np.ndarray] | None:
    """The needed fields of all records, when they are small; else None."""
    records, count = stream.dataset.records, len(stream.dataset.records)
    if count * sum(value.nbytes for value in stream.first.values()) > RESIDENT_BYTES:
        return None
    if isinstance(records, ArraySource):
        return {field: records.arrays[field] for field in stream.first}
    held = {field: np.empty((count, *value.shape), value.dtype) for field, value in stream.first.items()}
    for i in range(count):
        for field, value in _record(stream, i).items():
            held[field][i] = value
    return held


def _record(stream: _Stream, index: int) -> dict[str, np.ndarray]:
    """The needed fields of a record. Raises JaffeError when it cannot be read or is not like the first."""
    try:
        record = stream.dataset.records[index]
        found = {field: np.asarray(record[field]) for field in stream.first}
    except JaffeError:
        raise
    except Exception as error:  # whatever a user's own source raises
        raise JaffeError(f"{stream.dataset.name}, record {index}: {type(error).__name__}: {error}") from error
    for field, first in stream.first.items():
        value = found[field]
        if value.shape != first.shape or value.dtype != first.dtype:
            raise JaffeError(f"{stream.dataset.name}, record {index}: {field} is {value.dtype} {value.shape}; "
                             f"expected {first.dtype} {first.shape}, as record 0")
    return found


def _first_size(source: Source) -> int:
    shape = source.declared()[0]
    if not shape:
        raise source.node.error("the batch size is not in the net: expected a shape; found none")
    return shape[0]


def _own_data(source: Source, base: Path) -> Dataset:
    """What the data layer itself names."""
    node = source.node
    if node.type != "Data":
        raise node.error(f"{node.type} has no data of its own here: expected data=...; found none")
    p = node.proto.data_param
    if not p.source:
        raise node.error("expected data_param.source, or data=...; found neither")
    if p.backend != DataParameter.LMDB:
        raise node.error("backend LEVELDB is not read yet; expected LMDB, or data=...")
    return open_dataset(f"lmdb:{p.source}", "", base)
