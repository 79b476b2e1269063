"""The feed of a net: which records go to which inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
            first = stream.dataset.fields()
            for blob, field in stream.fields.items():
                transform = stream.transforms.get(blob)
                self.shapes[blob] = (stream.batch, *(transform.shape if transform else first[field].shape))
        self.images = max((stream.batch for stream in self._streams), default=0)
        held = [_held(stream.dataset) for stream in self._streams]
        self._gathers = [arrays is not None for arrays in held]
        self.resident = tuple(jax.device_put(arrays) for arrays in held)

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
        if set(blobs) <= set(first):
            fields = {blob: blob for blob in blobs}
        elif len(blobs) <= len(first):
            fields = dict(zip(blobs, first, strict=False))
        else:
            raise JaffeError(f"{dataset.name} has the fields {', '.join(first)}; the net's inputs are "
                             f"{', '.join(blobs)}: expected as many, or the same names")
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
        return _Stream(dataset, fields, sizes.pop(), transforms)

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

        stream = self._streams[index]
        if self._gathers[index]:
            records = grain.MapDataset.range(len(stream.dataset.records))
        else:
            needed = set(stream.fields.values())
            records = grain.MapDataset.source(stream.dataset.records).map(
                lambda record: {field: np.asarray(record[field]) for field in needed}
            )
        if self.train and stream.dataset.shuffle:
            records = records.seed(self.seed % 2**31).shuffle()
        batches = records.repeat().batch(stream.batch)
        if group > 1:
            batches = batches.batch(group)
        read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=PREFETCH)
        return iter(batches[start // group :].to_iter_dataset(read))


def _held(dataset: Dataset) -> dict[str, np.ndarray] | None:
    """All records as arrays, when they are small and of one shape; else None."""
    records = dataset.records
    if isinstance(records, ArraySource):
        size = sum(array.nbytes for array in records.arrays.values())
        return records.arrays if size <= RESIDENT_BYTES else None
    first = dataset.fields()
    if len(records) * sum(array.nbytes for array in first.values()) > RESIDENT_BYTES:
        return None
    held = {name: np.empty((len(records), *array.shape), array.dtype) for name, array in first.items()}
    for i in range(len(records)):
        for name, value in records[i].items():
            if np.shape(value) != held[name].shape[1:]:
                raise JaffeError(f"{dataset.name}, record {i}: {name} has shape {np.shape(value)}; "
                                 f"expected {held[name].shape[1:]}, as record 0")
            held[name][i] = value
    return held


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
