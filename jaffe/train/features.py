"""Blobs of a net over a whole data set, written to files: what ``jaffe features`` does, and HDF5Output layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError
from jaffe.train.data.convert import Advance, datum_of, silent
from jaffe.train.data.writers import Item, Writer, check_path, check_target, open_writer
from jaffe.train.evaluate import Evaluation


def write_features(
    evaluation: Evaluation, variables: Any, blobs: Sequence[str], target: str, *, force: bool = False,
    advance: Advance = silent,
) -> list[str]:
    """Write what blobs are of each record.

    ``hdf5:PATH`` and ``npz:PATH`` hold all of them by name. ``lmdb:PATH`` and ``records:PATH`` hold one, as floats
    (C, H, W), with the number of the record, ten digits, as key: Caffe's ``extract_features``; of several, each has a
    database of its own, ``PATH/BLOB``, with underscores for the slashes in its name. Their labels are those of the
    net's input ``label``, where it has such, one for each record.

    Args:
        evaluation: the net and its data. ``iterations=None`` is each record once.
        blobs: their names. The first axis of each is the batch.
        force: whether to overwrite what is there, where it is a data set of that kind.
        advance: told how many records more are done.

    Returns:
        What was written.

    Raises:
        JaffeError: there is no such blob, or it has no item for each record, or one that does not fit the target; or
            that cannot be written.
    """
    net, batch = evaluation.net, evaluation.feed.images
    blobs = list(dict.fromkeys(blobs))
    for blob in blobs:
        if net.shape(blob)[:1] != (batch,):
            raise JaffeError(f"blob {blob!r} of shape {net.shape(blob)} has no item for each of {batch} records")
    names = _targets(blobs, target)
    for name in names:
        check_target(name, force=force)
    shapes, done = evaluation.feed.shapes, 0
    with ExitStack() as stack:
        writers = {}
        for name in names:
            writers[name] = open_writer(name, None, force=force)
            stack.callback(writers[name].close)
        databases = any(writer.for_datums for writer in writers.values())
        labels = ["label"] if databases and shapes.get("label", ())[:1] == (batch,) else []
        for found in evaluation.blobs(variables, [*blobs, *labels]):
            items = len(next(iter(found.values())))
            for name, writer in writers.items():
                _write(writer, {blob: found[blob] for blob in names[name]}, found["label"] if labels else None, done)
            done += items
            advance(items)
        for writer in writers.values():
            writer.finish()
    return list(writers)


def _targets(blobs: Sequence[str], target: str) -> dict[str, list[str]]:
    """What is written, and the blobs that it holds. Makes the folder of several databases.

    Raises:
        JaffeError: it cannot be made; or two blobs have names that do not go together.
    """
    kind, _, path = target.partition(":")
    for one, other in itertools.permutations(blobs, 2) if kind == "hdf5" else ():
        if other.startswith(f"{one}/"):
            raise JaffeError(f"blobs {one!r} and {other!r}: expected one of them; HDF5 takes the first for a folder")
    if kind not in ("lmdb", "records") or len(blobs) < 2 or not path:
        return {target: list(blobs)}
    names: dict[str, list[str]] = {}
    for blob in blobs:
        name = f"{target}/{blob.replace('/', '_')}"
        if name in names:
            raise JaffeError(f"blobs {names[name][0]!r} and {blob!r} would both be {name}; expected one of them")
        names[name] = [blob]
    try:
        Path(path).mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        raise JaffeError(f"{path} cannot be written: {getattr(error, 'strerror', '') or error}") from None
    return names


def _write(writer: Writer, found: Mapping[str, np.ndarray], labels: np.ndarray | None, done: int) -> None:
    """Write a batch, behind so many records."""
    items = len(next(iter(found.values())))
    batch = []
    for i in range(items):
        key, fields = f"{done + i:010}", {blob: values[i] for blob, values in found.items()}
        if not writer.for_datums:
            batch.append(Item(key, fields))
            continue
        ((blob, values),) = fields.items()
        try:
            datum = datum_of({"data": values} if labels is None else {"data": values, "label": labels[i]})
        except ValueError as error:
            raise JaffeError(f"blob {blob!r}, record {done + i}: {error}") from None
        batch.append(Item(key, stored=datum.SerializeToString()))
    writer.write(batch, done + items)


def write_outputs(
    evaluation: Evaluation, variables: Any, *, force: bool = False, advance: Advance = silent
) -> list[str]:
    """Write what the net's HDF5Output layers name: ``data`` and ``label`` of all records. Caffe's hold one batch.

    Returns:
        The files.

    Raises:
        JaffeError: the net has no such layer, or two of one file; or a file is there and not ``force``, or cannot be
            written.
    """
    import h5py

    nodes = [node for node in evaluation.net.graph.nodes if node.type == "HDF5Output"]
    if not nodes:
        raise JaffeError(f"net {evaluation.net.name!r} has no HDF5Output layer: expected names of blobs")
    names: dict[str, tuple[str, ...]] = {}
    for node in nodes:
        name = node.proto.hdf5_output_param.file_name
        if name in names:
            raise JaffeError(f"net {evaluation.net.name!r} has two HDF5Output layers of {name}; expected a file each")
        check_path(name, Writer, force=force)
        names[name] = tuple(node.proto.bottom)
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
