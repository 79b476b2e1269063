"""The feed of a net: which records go to which inputs, batch by batch."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaffe.compile.layer import make_layer
from jaffe.compile.layers.data import Source
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Graph
from jaffe.train.carry import carry_axes
from jaffe.train.data.augment import mix
from jaffe.train.data.balance import balance, cap_labels
from jaffe.train.data.dataset import Data, Dataset
from jaffe.train.data.layers import own_data
from jaffe.train.data.sources import open_dataset
from jaffe.train.data.stream import Reader, Stream, cores
from jaffe.train.data.transform import Transform
from jaffe.train.devices import Devices

AHEAD = 2  # batches that are on the way to the device while a step runs


class Feed:
    """Batches for the inputs of one net.

    ``fetch`` is pure and belongs inside the jitted step; ``batches`` yields what it takes. Position k of the
    stream of batches is a function of k and the seed alone: a run resumes at its iteration and sees what it would have
    seen, whatever reads the data.

    Args:
        graph: the net, resolved for a phase.
        data: in place of what its data layers name; see ``open_dataset``.
        base: where relative paths are looked for beside the current folder.
        seed: of the order and of crops.
        workers: processes that read and decode what does not stay on the device. 0: threads of this process, as many
            as there are cores; they suffice where the time goes into a library (images, HDF5), not into Python code.
        skip_damaged: whether the next record takes the place of one that cannot be read, which else is an error; not
            for WindowData.
        shard: (number, count): of ``count`` processes that share the data, this is the ``number``-th: it takes every
            ``count``-th record, as Caffe's solvers do. Together they take each record once an epoch.
        devices: those that share the data; in place of ``shard``. Batches are theirs, (devices, ...), each a shard. Of
            a net that carries state along axis 1 of its inputs, the sequences, all devices get the same batch, of
            which each takes its own.

    Attributes:
        shapes: of the net's inputs, batch included: what ``compile_net(inputs=...)`` takes.
        resident: data sets that stay on the device, as ``fetch`` takes them.
        images: items in a batch, of all devices.
        sequences: whether devices take their part of axis 1 of one batch.
        damaged: what is to be said of the records that were skipped so far, once each.
        source: what was given as ``data``, if by name; ``""``: nothing, the data layers name their own; ``None``: what
            has no name.
        order: of the channels of colour images, ``"RGB"`` where all data sets have them so, else ``"BGR"``.

    Raises:
        JaffeError: an input has no data, or the data do not fit it.
    """

    def __init__(
        self, graph: Graph, data: Data | None, *, base: Path = Path(), seed: int = 0, workers: int = 0,
        skip_damaged: bool = False, shard: tuple[int, int] = (0, 1), devices: Devices | None = None,
    ):
        self.train = graph.phase == "TRAIN"
        self.seed = seed
        self.workers = workers
        self._shard = shard
        self._skip_damaged = skip_damaged
        self.damaged: list[str] = []
        self.source = "" if data is None else data if isinstance(data, str) else None
        self._transforms: dict[str, Transform] = {}
        self._ahead = 1
        sources = [layer for node in graph.nodes if isinstance(layer := make_layer(node), Source)]
        self._streams = self._join(sources, data, base)
        self.order = "RGB" if {stream.dataset.order for stream in self._streams} == {"RGB"} else "BGR"
        self.shapes: dict[str, tuple[int, ...]] = {}
        for stream in self._streams:
            for blob, field in stream.fields.items():
                self.shapes[blob] = (stream.batch, *self._item(blob, stream.first[field].shape))
        self._mixed = self._mixups()
        self.images = max((stream.batch for stream in self._streams), default=0)
        self.sequences = False
        self._put: Callable[[Any], Any] = jax.device_put
        self._hold: Callable[[Any], Any] = jax.device_put
        if devices is not None:
            self._spread(devices, graph)
        held = []
        for stream in self._streams:
            arrays, damaged = stream.held()
            self._note(damaged)
            held.append(arrays)
        self._gathers = [arrays is not None for arrays in held]
        self.resident = tuple(self._hold(arrays) for arrays in held)

    def _spread(self, devices: Devices, graph: Graph) -> None:
        """Give each device its batches, and ``shapes`` those of one device."""
        self._put, self._hold = devices.put, devices.replicate
        axis, _ = carry_axes(graph, self.shapes)
        parts = devices.count if devices.strong else 1
        if parts > 1 and not self.shapes:
            raise JaffeError(f"net {graph.name!r} reads no data that devices could divide; expected weak scaling")
        if axis == 1:
            if not devices.strong:
                raise JaffeError(f"net {graph.name!r} carries state along axis 1 of its inputs, the sequences, whose "
                                 "number is that of the data: devices can only divide them; expected strong scaling")
            self.sequences, self._put = True, devices.replicate
        else:
            self.images *= devices.count // parts
        for blob, shape in self.shapes.items():
            if len(shape) <= axis or shape[axis] % parts:
                raise JaffeError(f"input {blob!r} of shape {shape} cannot be divided among {parts} devices along axis "
                                 f"{axis}; expected a multiple of {parts} (or weak scaling)")
            self.shapes[blob] = (*shape[:axis], shape[axis] // parts, *shape[axis + 1 :])
        if axis == 0:
            if parts > 1:
                sampled = [stream.dataset.name for stream in self._streams if hasattr(stream.dataset.records, "sample")]
                if sampled:
                    raise JaffeError(f"{sampled[0]}: WindowData fills whole batches, which devices cannot divide; "
                                     "expected weak scaling")
            shard = (devices.first // devices.here, devices.count // devices.here)
            self._streams = [replace(stream, batch=stream.batch // parts, shard=shard, devices=devices.here)
                             for stream in self._streams]

    def _join(self, sources: Sequence[Source], data: Data | None, base: Path) -> list[Stream]:
        split = "train" if self.train else "test"
        if not sources:
            return []
        if data is not None:
            return [self._stream(open_dataset(data, split, base), sources, base)]
        return [self._stream(own_data(source.node, base), [source], base, own=True) for source in sources]

    def _stream(self, dataset: Dataset, sources: Sequence[Source], base: Path, *, own: bool = False) -> Stream:
        for source in sources:
            dataset = self._as_declared(dataset, source)
        first = dataset.fields(skip_damaged=self._skip_damaged)
        fields = _by_own_layer(sources[0], first) if own else _by_name(sources, dataset.name, first)
        sizes = {source.batch or _first_size(source) for source in sources}
        if len(sizes) != 1:
            raise JaffeError(f"the net's inputs have different batch sizes: {sorted(sizes)}; expected one")
        fits = {}
        for source in sources:
            blob = source.node.tops[0]
            if source.transformed:
                value = first[fields[blob]]
                transform = self._transforms[blob] = Transform(
                    source.node, value.shape, base, dtype=value.dtype, ragged=getattr(dataset.records, "ragged", False))
                if transform.fit is not None:
                    fits[fields[blob]] = transform.fit
            self._ahead = max(self._ahead, source.node.proto.data_param.prefetch)
            for blob, declared in zip(source.node.tops, source.declared(), strict=True):
                shape = self._item(blob, first[fields[blob]].shape)
                if declared is not None and declared[1:] != shape:
                    raise source.node.error(
                        f"{blob!r} is declared with items of shape {declared[1:]}; {dataset.name} gives {shape} "
                        f"(field {fields[blob]!r}); change the declaration, or the data with transform_param"
                    )
        needed = {field: first[field] for field in fields.values()}
        for field, value in needed.items():
            if value.dtype.kind not in "biuf":
                raise JaffeError(f"{dataset.name}: field {field!r} holds {value.dtype}; expected numbers")
        stream = Stream(dataset, fields, sizes.pop(), needed, {}, self.train and dataset.shuffle, self._shard,
                        self._skip_damaged)
        if not fits:
            return stream
        stream = replace(stream, fits=fits)
        fitted = {field: fits[field](value, np.zeros(2)) if field in fits else value for field, value in needed.items()}
        return replace(stream, first=fitted)

    def _as_declared(self, dataset: Dataset, source: Source) -> Dataset:
        """The data set with what the layer says of its records: decoded to colour or grey, sampled by class."""
        node, p = source.node, source.node.proto.transform_param
        if p.force_color and p.force_gray:
            raise node.error("force_color excludes force_gray; found both")
        if (p.force_color or p.force_gray) and hasattr(dataset.records, "with_color"):
            dataset = replace(dataset, records=dataset.records.with_color(p.force_color))
        sampling = node.proto.sampling_param
        if self.train and sampling.cap:
            dataset = cap_labels(dataset, sampling.cap)
        if self.train and sampling.balance:
            dataset = balance(dataset)
        return dataset

    def _item(self, blob: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an input's items, of records of that shape."""
        return self._transforms[blob].shape if blob in self._transforms else shape

    def _mixups(self) -> dict[str, tuple[str, Transform]]:
        """Of images that are mixed, their labels and how; the shapes of the labels become those of shares."""
        mixed = {}
        for blob, transform in self._transforms.items():
            if not (self.train and transform.p.HasField("mixup")):
                continue
            tops = transform.node.tops
            others = [b for s in self._streams if blob in s.fields for b in s.fields if b != blob]
            label = tops[1] if len(tops) > 1 else others[0] if len(others) == 1 else None
            if label is None or np.prod(self.shapes[label][1:]) != 1:
                raise transform.node.error("mixup is for images with one label each; found inputs "
                                           + ", ".join(f"{b} {shape}" for b, shape in self.shapes.items()))
            mixed[blob] = label, transform
            self.shapes[label] = (self.shapes[label][0], transform.p.mixup.classes)
        return mixed

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
                if blob in self._transforms:
                    x = self._transforms[blob](x, jax.random.fold_in(key, 16 * i + j))
                inputs[blob] = x
        for i, (blob, (label, transform)) in enumerate(self._mixed.items()):
            p = transform.p.mixup
            inputs[blob], inputs[label] = mix(
                inputs[blob], inputs[label], p.alpha, p.classes, jax.random.fold_in(key, 2**16 + i))
        return inputs

    def batches(self, start: int = 0, group: int = 1) -> Iterator[tuple[Any, ...]]:
        """Batches without end, on the device, from position ``start`` on.

        Args:
            start: batches to skip, a multiple of ``group``.
            group: batches to stack along a new first axis (``iter_size``); 1 stacks none.

        Raises:
            JaffeError: a record cannot be read; or a process that reads has ended. The batches before it come first.
        """
        iterators = [self._iterate(i, start, group) for i in range(len(self._streams))]
        ready: deque[tuple[Any, ...] | JaffeError] = deque()
        while True:
            while len(ready) < AHEAD and not (ready and isinstance(ready[-1], JaffeError)):
                try:
                    ready.append(tuple(self._put(next(iterator)) for iterator in iterators))
                except JaffeError as error:
                    ready.append(error)
            batch = ready.popleft()
            if isinstance(batch, JaffeError):
                raise batch
            yield batch

    def _iterate(self, index: int, start: int, group: int) -> Iterator[Any]:
        import grain  # not needed to compile a net or to write a training loop of one's own

        stream, gathers = self._streams[index], self._gathers[index]
        seed = self.seed
        first = start // group
        # One element is a whole batch: an index at a time costs more than a step of a small net.
        if gathers:
            chosen = grain.MapDataset.range(first, 2**40).map(lambda k: stream.order(k * group, group, seed))
            yield from chosen.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
        batches = grain.MapDataset.range(first, 2**40).map(Reader(stream, group, seed)).to_iter_dataset(
            grain.ReadOptions(num_threads=2 if self.workers else cores(), prefetch_buffer_size=self._ahead))
        if self.workers:
            _parse_flags()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2), worker_init_fn=_end_with_parent)
        iterator = iter(batches)
        try:
            for arrays, damaged in iterator:
                self._note(damaged)
                yield arrays
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            code = str(error).partition("exit code ")[2].partition(".")[0]
            raise JaffeError(
                f"{stream.dataset.name}: a process that reads the data ended with exit code {code} (-9: killed, "
                "often for lack of memory; 1: a script that starts workers needs `if __name__ == \"__main__\":`); "
                "workers=0 reads in this process") from None
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # ends the processes

    def _note(self, damaged: Sequence[str]) -> None:
        self.damaged += [message for message in dict.fromkeys(damaged) if message not in self.damaged]


def _by_own_layer(source: Source, first: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Tops and fields of what a data layer itself names: by place, of HDF5Data by name."""
    if source.node.type != "HDF5Data":
        return dict(zip(source.node.tops, first, strict=False))
    for blob in source.node.tops:
        if blob not in first:
            raise source.node.error(f"the files have no data set {blob!r}{suggest(blob, first)}; they have "
                                    f"{', '.join(first)}")
    return {blob: blob for blob in source.node.tops}


def _by_name(sources: Sequence[Source], name: str, first: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Inputs and fields of the same name, and for the other inputs the other fields, in order."""
    blobs = [blob for source in sources for blob in source.node.tops]
    if len(blobs) > len(first):
        raise JaffeError(f"{name} has the fields {', '.join(first)}; the net's inputs are {', '.join(blobs)}: expected "
                         "as many, or the same names")
    others = iter([field for field in first if field not in blobs])
    return {blob: blob if blob in first else next(others) for blob in blobs}


def _end_with_parent(number: int, count: int) -> None:
    """Have this process end when the one that reads from it is gone, killed perhaps: it would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    # Not Linux's PR_SET_PDEATHSIG: that is for the thread that began this process, which grain may end.
    threading.Thread(target=watch, daemon=True).start()


def _parse_flags() -> None:
    """grain's processes read absl's flags, which only absl's own programs parse."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _first_size(source: Source) -> int:
    shape = source.declared()[0]
    if not shape:
        raise source.node.error("the batch size is not in the net: expected a shape; found none")
    return shape[0]
