"""Blobs of a net over a whole data set, written to files: what ``jaffe features`` does, and HDF5Output layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError
from jaffe.train.data.convert import Advance, silent
from jaffe.train.data.writers import Item, Writer, open_writer
from jaffe.train.evaluate import Evaluation


def write_features(
    evaluation: Evaluation, variables: Any, blobs: Sequence[str], target: str, *, force: bool = False,
    advance: Advance = silent,
) -> list[str]:
    """Write what blobs are of each record.

    ``hdf5:PATH`` and ``npz:PATH`` hold all of them by name. ``lmdb:PATH`` and ``records:PATH`` hold one, as floats
    (C, H, W), with the number of the record, ten digits, as key: Caffe's ``extract_features``; of several, each has a
    database of its own, ``PATH/BLOB``. Their labels are those of the net's input ``label``, where it has such.

    Args:
        evaluation: the net and its data. ``iterations=None`` is each record once.
        blobs: their names. The first axis of each is the batch.
        advance: told how many records more are done.

    Returns:
        What was written.

    Raises:
        JaffeError: there is no such blob, or it has no item for each record; or a target cannot be written.
    """
    net, batch = evaluation.net, evaluation.feed.images
    blobs = list(dict.fromkeys(blobs))
    for blob in blobs:
        if net.shape(blob)[:1] != (batch,):
            raise JaffeError(f"blob {blob!r} of shape {net.shape(blob)} has no item for each of {batch} records")
    kind, _, path = target.partition(":")
    several = kind in ("lmdb", "records") and len(blobs) > 1
    if several:
        Path(path).mkdir(exist_ok=True)
    names = {blob: f"{target}/{blob.replace('/', '_')}" if several else target for blob in blobs}
    writers = {name: open_writer(name, None, force=force) for name in dict.fromkeys(names.values())}
    labels = ["label"] if "label" in evaluation.feed.shapes and any(one.for_datums for one in writers.values()) else []
    done = 0
    try:
        for found in evaluation.blobs(variables, [*blobs, *labels]):
            items = len(next(iter(found.values())))
            for name, writer in writers.items():
                _write(writer, {blob: found[blob] for blob in blobs if names[blob] == name},
                       found["label"] if labels else None, done)
            done += items
            advance(items)
        for writer in writers.values():
            writer.finish()
    finally:
        for writer in writers.values():
            writer.close()
    return list(writers)


def _write(writer: Writer, found: Mapping[str, np.ndarray], labels: np.ndarray | None, done: int) -> None:
    """Write a batch, behind so many records."""
    items = len(next(iter(found.values())))
    batch = []
    for i in range(items):
        fields = {blob: values[i] for blob, values in found.items()}
        if writer.for_datums:
            (values,) = fields.values()
            fields = {"data": values} if labels is None else {"data": values, "label": labels[i]}
        batch.append(Item(f"{done + i:010}", fields))
    writer.write(batch, done + items)


def write_outputs(
    evaluation: Evaluation, variables: Any, *, force: bool = False, advance: Advance = silent
) -> list[str]:
    """Write what the net's HDF5Output layers name: ``data`` and ``label`` of all records. Caffe's hold one batch.

    Returns:
        The files.

    Raises:
        JaffeError: the net has no such layer; or a file is there and not ``force``, or cannot be written.
    """
    import h5py

    nodes = [node for node in evaluation.net.graph.nodes if node.type == "HDF5Output"]
    if not nodes:
        raise JaffeError(f"net {evaluation.net.name!r} has no HDF5Output layer: expected names of blobs")
    names = {node.proto.hdf5_output_param.file_name: tuple(node.proto.bottom) for node in nodes}
    for name in names:
        if Path(name).exists() and not force:
            raise JaffeError(f"{name} is there already; --force overwrites it")
    wanted = list(dict.fromkeys(blob for pair in names.values() for blob in pair))
    found: dict[str, list[np.ndarray]] = {blob: [] for blob in wanted}
    for batch in evaluation.blobs(variables, wanted):
        for blob, values in batch.items():
            found[blob].append(values)
        advance(len(batch[wanted[0]]))
    for name, blobs in names.items():
        with replacing(Path(name)) as new, h5py.File(new, "w") as file:
            for dataset, blob in zip(("data", "label"), blobs, strict=True):
                file[dataset] = np.concatenate(found[blob])
    return list(names)
