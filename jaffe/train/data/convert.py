"""Data sets from data sets: what ``jaffe data convert``, ``split``, ``sample`` and ``mean`` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.balance import labels_of
from jaffe.train.data.databases import Database
from jaffe.train.data.dataset import Dataset, Record, View
from jaffe.train.data.images import ImageFiles
from jaffe.train.data.stream import cores
from jaffe.train.data.writers import Item, open_writer

CHUNK = 1000  # records that become durable together, as in Caffe's tools
ENCODINGS = ("jpg", "png")

Advance = Callable[[int], None]  # told of so many records more


def silent(records: int) -> None:
    """Tells no one."""


@dataclass(frozen=True)
class Made:
    """What ``convert`` did.

    Attributes:
        records: of the source.
        begun: so many of them an earlier run had done, which was interrupted.
        damaged: what is said of those of the others that are left out.
    """

    records: int
    begun: int
    damaged: tuple[str, ...]


def convert(
    dataset: Dataset, target: str, *, encode: str = "", skip_damaged: bool = False, force: bool = False,
    advance: Advance = silent,
) -> Made:
    """Write a data set anew: to ``lmdb:PATH``, ``hdf5:PATH``, ``records:PATH`` or ``npz:PATH``.

    Databases hold an image and a label of each record: ``data`` and ``label``, else its first two fields. Keys are
    those of Caffe's tools: the number of the record with eight digits, for image files an underscore and the path
    behind it; a database's own keys stay. Nothing has the target's name until all of it is there. A conversion that was
    interrupted goes on when the same is asked for again.

    Args:
        encode: ``"jpg"`` or ``"png"``: images are stored so in databases. Files of that format are taken as they are,
            if neither size nor colour is asked for. By default, pixels.
        skip_damaged: whether records that cannot be read are left out, as ``convert_imageset`` does; else they are an
            error.
        force: whether to overwrite the target.
        advance: told how many records more are done.

    Raises:
        JaffeError: a record cannot be read, or does not fit the target; or that cannot be written.
    """
    if encode not in ("", *ENCODINGS):
        raise JaffeError(f"images are encoded as {' or '.join(ENCODINGS)}; received {encode!r}")
    count = len(dataset.records)
    plan = {"source": dataset.name, "records": count, "encode": encode, "skip_damaged": skip_damaged}
    first = dataset.fields(skip_damaged=skip_damaged)
    writer = open_writer(target, plan, force=force)
    if encode and not writer.for_datums:
        raise JaffeError(f"{target} holds arrays; only lmdb: and records: hold encoded images")
    names = _names(dataset, first, for_datums=writer.for_datums)
    damaged: list[str] = []

    def item(index: int) -> Item | None:
        try:
            return _item(dataset, index, names, encode, for_datums=writer.for_datums)
        except JaffeError as error:
            if not skip_damaged:
                raise
            damaged.append(str(error))
            return None

    begun = writer.position
    advance(begun)
    try:
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(begun, count, CHUNK):
                stop = min(start + CHUNK, count)
                items = [one for one in pool.map(item, range(start, stop)) if one is not None]
                writer.write(items, stop)
                advance(stop - start)
        writer.finish()
    finally:
        writer.close()
    return Made(count, begun, tuple(damaged))


def _names(dataset: Dataset, first: Record, *, for_datums: bool) -> dict[str, str]:
    """What is written, by the names that it gets."""
    numbers = [name for name, value in first.items() if np.asarray(value).dtype.kind in "biuf"]
    if not for_datums:
        return {name: name for name in numbers}
    if len(numbers) > 2 or not numbers:
        raise JaffeError(f"{dataset.name} has the fields {', '.join(numbers) or 'none'}; a database holds an image and "
                         "a label: name them, as in tfds:NAME?data=image&label=label")
    rest = [name for name in numbers if name not in ("data", "label")]
    return {wanted: wanted if wanted in numbers else rest.pop(0)
            for wanted in ("data", "label") if wanted in numbers or rest}


def _item(dataset: Dataset, index: int, names: Mapping[str, str], encode: str, *, for_datums: bool) -> Item:
    record = dataset.record(index)  # decoded in any case: damage is not handed on
    fields = {new: record[old] for new, old in names.items()}
    records, at = _under(dataset.records, index)
    if isinstance(records, Database):
        key = records.key(at)
        if for_datums and not encode and records.color is None:
            return Item(key, fields, records.datum(at))
    else:
        key = f"{index:08}_{records.key(at)}" if isinstance(records, ImageFiles) else f"{index:08}"
    try:
        if not encode:
            item = Item(key, fields)
            if for_datums:
                item.as_datum()  # what does not fit is said of this record
            return item
        content = _encoded(records, at, fields["data"], encode, dataset.order)
        label = Item(key, {**fields, "data": np.zeros(1, np.uint8)}).as_datum().label
    except ValueError as error:
        raise error if isinstance(error, JaffeError) else JaffeError(f"{dataset.where(index)}: {error}") from None
    return Item(key, fields, Datum(data=content, label=label, encoded=True))


def _under(records: Any, index: int) -> tuple[Any, int]:
    """The source that a view is of, and the record's place there."""
    while isinstance(records, View):
        records, index = records.records, int(records.indices[index])
    return records, index


def _encoded(records: Any, index: int, pixels: np.ndarray, encode: str, order: str) -> bytes:
    """An image as a file of that format holds it. Raises ValueError when it is none."""
    import cv2

    suffixes = {"jpg": (".jpg", ".jpeg"), "png": (".png",)}[encode]
    if isinstance(records, ImageFiles) and records.size is None and records.color and (
            records.paths[index].lower().endswith(suffixes)):
        return records.content(index)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) not in (1, 3, 4):
        raise ValueError(f"an image that is encoded is of bytes, with 1, 3 or 4 channels; found {pixels.dtype} "
                         f"{pixels.shape}")
    if order == "RGB" and len(pixels) == 3:
        pixels = pixels[::-1]
    return cv2.imencode(f".{encode}", np.ascontiguousarray(pixels.transpose(1, 2, 0)))[1].tobytes()


def mean_image(dataset: Dataset, *, advance: Advance = silent) -> np.ndarray:
    """The mean of all images, (C, H, W), float32: Caffe's ``compute_image_mean``.

    Raises:
        JaffeError: a record cannot be read; or the images differ in shape.
    """
    first = dataset.fields()
    (name, *_) = _names(dataset, {"data": first["data"]} if "data" in first else first, for_datums=True).values()
    total = np.zeros(first[name].shape, np.float64)

    def read(start: int) -> np.ndarray:
        part = np.zeros_like(total)
        for index in range(start, min(start + CHUNK, len(dataset.records))):
            pixels = dataset.record(index)[name]
            if pixels.shape != total.shape:
                raise JaffeError(f"{dataset.where(index)}: {name} has shape {pixels.shape}; expected {total.shape}, as "
                                 "record 0: images can be resized, as in images:LIST?size=64x80")
            part += pixels
        advance(min(start + CHUNK, len(dataset.records)) - start)
        return part

    with ThreadPoolExecutor(cores()) as pool:
        for part in pool.map(read, range(0, len(dataset.records), CHUNK)):
            total += part
    return (total / len(dataset.records)).astype(np.float32)


def split(dataset: Dataset, shares: Sequence[float], *, seed: int = 0, by_class: bool = False) -> list[Dataset]:
    """Parts of a data set, each record in one of them, chosen at random; the order stays.

    Args:
        shares: of the parts, together at most 1. What is left by rounding goes to those who lost most by it.
        by_class: whether each class is split so.

    Raises:
        JaffeError: the shares are not such, or a part would be empty.
    """
    if not shares or min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise JaffeError(f"shares are above 0 and together at most 1; received {', '.join(map(str, shares))}")
    random = np.random.default_rng(seed)
    count = len(dataset.records)
    groups = [np.arange(count)]
    if by_class:
        labels = labels_of(dataset).reshape(count)
        groups = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for group in groups:
        shuffled, start = random.permutation(group), 0
        for part, size in zip(parts, _sizes(len(group), shares), strict=True):
            part.append(shuffled[start : start + size])
            start += size
    chosen = [np.sort(np.concatenate(part)) for part in parts]
    if empty := [share for share, part in zip(shares, chosen, strict=True) if not len(part)]:
        raise JaffeError(f"{dataset.name} has {count} records; a share of {empty[0]:g} has none of them")
    return [_part(dataset, part, f"split {i + 1} of {shares}, seed {seed}, by_class {by_class}")
            for i, part in enumerate(chosen)]


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in these shares, of the largest remainders' sum."""
    exact = np.array(shares) * count
    sizes = np.floor(exact + 1e-9).astype(int)
    left = round(float(exact.sum())) - int(sizes.sum())
    for i in np.argsort(sizes - exact, kind="stable")[:left]:
        sizes[i] += 1
    return [int(size) for size in sizes]


def sample(dataset: Dataset, count: int, *, seed: int = 0) -> Dataset:
    """So many records, chosen at random; the order stays. Raises JaffeError when there are fewer."""
    if not 1 <= count <= len(dataset.records):
        raise JaffeError(f"{dataset.name} has {len(dataset.records)} records; expected a number from 1 to that; "
                         f"received {count}")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset.records))[:count])
    return _part(dataset, chosen, f"sample of {count}, seed {seed}")


def shuffled(dataset: Dataset, seed: int) -> Dataset:
    """All records in another order."""
    order = np.random.default_rng(seed).permutation(len(dataset.records))
    return _part(dataset, order, f"shuffled, seed {seed}")


def _part(dataset: Dataset, chosen: np.ndarray, what: str) -> Dataset:
    return replace(dataset, records=View(dataset.records, chosen, {}), name=f"{dataset.name} ({what})")


def write_mean(mean: np.ndarray, path: Path) -> None:
    """Write a mean as Caffe's ``.binaryproto`` (a BlobProto (1, C, H, W)), or as ``.npy``.

    Raises:
        JaffeError: the suffix is another one, or the file cannot be written.
    """
    from jaffe.netdef.atomic import replacing
    from jaffe.netdef.jaffe_pb2 import BlobProto

    if path.suffix not in (".binaryproto", ".npy"):
        raise JaffeError(f"{path}: expected a name that ends in .binaryproto or .npy")
    with replacing(path) as new:
        if path.suffix == ".npy":
            with new.open("wb") as file:
                np.save(file, mean)
            return
        blob = BlobProto(num=1, channels=mean.shape[0], height=mean.shape[1], width=mean.shape[2])
        blob.data.extend(mean.ravel().tolist())
        new.write_bytes(blob.SerializeToString())
