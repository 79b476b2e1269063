"""Data sets from data sets: what ``jaffe data convert``, ``split``, ``sample`` and ``mean`` do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.balance import labels_of
from jaffe.train.data.databases import Database
from jaffe.train.data.dataset import Dataset, Record, Renamed, View
from jaffe.train.data.datum import encode_datum
from jaffe.train.data.hdf5 import Hdf5Source
from jaffe.train.data.images import ImageFiles
from jaffe.train.data.stream import cores
from jaffe.train.data.writers import Item, check_target, open_writer

CHUNK = 1000  # records that become durable together, as in Caffe's tools
CHUNK_BYTES = 2**28  # of them, decoded: all are in memory at once
SAMPLES = 64  # records that tell sources apart
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
    behind it. A database's own keys stay where its records are in their order, each at most once; else they stand
    behind the number like a path. Nothing has the target's name until all of it is there. A conversion that was
    interrupted goes on when the same is asked for again, of a source that is the same.

    Args:
        encode: ``"jpg"`` or ``"png"``: images are stored so in databases. Files of that format are taken as they are,
            if neither size nor colour is asked for. By default, pixels.
        skip_damaged: whether records that cannot be read are left out, as ``convert_imageset`` does; else they are an
            error.
        force: whether to overwrite the target, where it is a data set of that kind.
        advance: told how many records more are done.

    Raises:
        JaffeError: a record cannot be read, or does not fit the target; or that cannot be written.
    """
    check_targets([target], encode=encode, force=force)
    first = dataset.fields(skip_damaged=skip_damaged)
    items = _Items(dataset, first, encode, for_datums=check_target(target, force=force)[0].for_datums)
    count = len(dataset.records)
    plan = {"source": dataset.name, "records": count, "encode": encode, "skip_damaged": skip_damaged,
            "content": items.identity()}
    writer = open_writer(target, plan, force=force)
    size = sum(first[name].nbytes for name in items.names.values())
    chunk = max(1, min(CHUNK, CHUNK_BYTES // max(1, size)))
    damaged: list[str] = []

    def item(index: int) -> Item | None:
        try:
            return items(index)
        except JaffeError as error:
            if not skip_damaged:
                raise
            damaged.append(str(error))
            return None

    begun = writer.position
    advance(begun)
    try:
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(begun, count, chunk):
                stop = min(start + chunk, count)
                writer.write([one for one in pool.map(item, range(start, stop)) if one is not None], stop)
                advance(stop - start)
        writer.finish()
    finally:
        writer.close()
    return Made(count, begun, tuple(damaged))


def check_targets(targets: Sequence[str], *, encode: str = "", force: bool = False) -> None:
    """See that ``convert`` can write to targets, before the work. Raises JaffeError; also when two are one path."""
    if encode not in ("", *ENCODINGS):
        raise JaffeError(f"images are encoded as {' or '.join(ENCODINGS)}; received {encode!r}")
    paths: dict[Path, str] = {}
    for target in targets:
        writer, path = check_target(target, force=force)
        if encode and not writer.for_datums:
            raise JaffeError(f"{target} holds arrays; only lmdb: and records: hold encoded images")
        if other := paths.get(path.resolve()):
            raise JaffeError(f"expected a path of its own for each part; {other} and {target} have one")
        paths[path.resolve()] = target


def _names(dataset: Dataset, first: Record, *, for_datums: bool) -> dict[str, str]:
    """What is written, by the names that it gets."""
    numbers = [name for name, value in first.items() if np.asarray(value).dtype.kind in "biuf"]
    if not numbers:
        raise JaffeError(f"{dataset.name}: expected fields of numbers; found "
                         + ", ".join(f"{name} {np.asarray(value).dtype}" for name, value in first.items()))
    if not for_datums:
        return {name: name for name in numbers}
    rest = [name for name in numbers if name not in ("data", "label")]
    names = {wanted: wanted if wanted in numbers else rest.pop(0)
             for wanted in ("data", "label") if wanted in numbers or rest}
    if len(numbers) > 2 or "data" not in names:
        raise JaffeError(f"{dataset.name} has the fields {', '.join(numbers)}; a database holds an image and a label: "
                         "name them, as in tfds:NAME?data=image&label=label")
    return names


def whole_label(label: Any) -> int:
    """A label as a Datum has it. Raises ValueError when it is not one whole number of 32 bits."""
    label = np.asarray(label)
    if label.size != 1 or label.dtype.kind not in "biuf" or not np.isfinite(label).all() or label.item() % 1:
        value = f", {label.item()!r}" if label.size == 1 else ""
        raise ValueError(f"a Datum has one whole number as label; found {label.dtype} {label.shape}{value}")
    if not -(2**31) <= label.item() < 2**31:
        raise ValueError(f"a Datum's label has 32 bits; found {label.item():.0f}")
    return int(label.item())


def datum_of(fields: Record) -> Datum:
    """``data`` (C, H, W) and ``label``, else 0. Raises ValueError when they are not those of a Datum."""
    return encode_datum(np.asarray(fields["data"]), whole_label(fields.get("label", 0)))


def _numbers(dataset: Dataset, index: int, name: str, record: Record) -> np.ndarray:
    """A field of a record. Raises JaffeError when it is not there, or holds something else than numbers."""
    if name not in record:
        raise JaffeError(f"{dataset.where(index)}: expected a field {name!r}, as in record 0; found "
                         f"{', '.join(record) or 'none'}")
    if record[name].dtype.kind not in "biuf":
        raise JaffeError(f"{dataset.where(index)}: {name} holds {record[name].dtype}; expected numbers")
    return record[name]


class _Items:
    """What is written of each record of a data set.

    Attributes:
        names: what is written -> field of the records.
        records: the source, of which the data set may be a view.
        places: of the records there.
        replaced: fields that a view has in place of the source's.
    """

    def __init__(self, dataset: Dataset, first: Record, encode: str, *, for_datums: bool):
        self.dataset, self.encode, self.for_datums = dataset, encode, for_datums
        self.names = _names(dataset, first, for_datums=for_datums)
        self.records: Any = dataset.records
        self.places = np.arange(len(dataset.records))
        self.replaced: set[str] = set()
        while isinstance(self.records, View):
            self.places = np.asarray(self.records.indices)[self.places]
            self.replaced |= set(self.records.own)
            self.records = self.records.records
        self.in_order = bool((np.diff(self.places) > 0).all())

    def __call__(self, index: int) -> Item:
        """The record as it is written. Raises JaffeError when it cannot be read, or does not fit."""
        record = self.dataset.record(index)  # decoded in any case: damage is not handed on
        fields = {new: _numbers(self.dataset, index, old, record) for new, old in self.names.items()}
        if not self.for_datums:
            return Item(self.key(index), fields)
        try:
            return Item(self.key(index), stored=self._datum(int(self.places[index]), fields).SerializeToString())
        except ValueError as error:
            raise error if isinstance(error, JaffeError) else JaffeError(f"{self.dataset.where(index)}: {error}"
                                                                         ) from None

    def key(self, index: int) -> str:
        """What names the record in a database, where records are sorted by it."""
        at = int(self.places[index])
        if isinstance(self.records, Database):
            key = self.records.keys[at].decode(errors="surrogateescape")
            return key if self.in_order else f"{index:08}_{key}"
        return f"{index:08}_{self.records.key(at)}" if isinstance(self.records, ImageFiles) else f"{index:08}"

    def _datum(self, at: int, fields: Record) -> Datum:
        """The record at a place of the source, with these fields. Raises ValueError when they do not fit."""
        label = whole_label(fields.get("label", 0))
        if self.encode:
            return Datum(data=self._encoded(at, fields["data"]), label=label, encoded=True)
        if not isinstance(self.records, Database) or self.records.color is not None or "data" in self.replaced:
            return datum_of(fields)
        datum = self.records.datum(at)  # an encoded image stays one
        if datum.label != label:
            datum.label = label
        return datum

    def _encoded(self, at: int, pixels: np.ndarray) -> bytes:
        """An image as a file of that format holds it. Raises ValueError when it is none."""
        import cv2

        records, suffixes = self.records, {"jpg": (".jpg", ".jpeg"), "png": (".png",)}[self.encode]
        if isinstance(records, ImageFiles) and records.size is None and records.color and (
                "data" not in self.replaced and records.paths[at].lower().endswith(suffixes)):
            return records.content(at)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) not in (1, 3, 4):
            raise ValueError(f"an image that is encoded is of bytes, with 1, 3 or 4 channels; found {pixels.dtype} "
                             f"{pixels.shape}")
        if self.dataset.order == "RGB" and len(pixels) == 3:
            pixels = pixels[::-1]
        try:
            written, content = cv2.imencode(f".{self.encode}", np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        except cv2.error:
            written = False
        if not written:
            raise ValueError(f"an image of shape {pixels.shape} cannot be encoded as {self.encode}")
        return content.tobytes()

    def identity(self) -> str:
        """A digest that tells sources apart, though their names are the same: of files, keys and labels, and of the
        content of 64 records."""
        digest = hashlib.sha256(repr((self.dataset.order, self.names)).encode(errors="surrogatepass"))
        digest.update(self.places.astype("<i8").tobytes())
        source = self.records
        while isinstance(source, View | Renamed):
            source = source.records
        for file in _files(source):
            digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns} ".encode())
        # A key in HDF5 is the row, which says no more than the place.
        for at in self.places.tolist() if hasattr(self.records, "key") and not isinstance(source, Hdf5Source) else ():
            key = self.records.key(at).encode(errors="surrogatepass")
            digest.update(b"%d:%s" % (len(key), key))
        label = self.names.get("label")
        if label and hasattr(self.dataset.records, "column") and (
                label in self.replaced or not isinstance(source, Database)):  # which would read all of its records
            labels = self.dataset.records.column(label)
            digest.update(b"" if labels is None else np.asarray(labels).tobytes())
        for index in np.unique(np.linspace(0, len(self.places) - 1, SAMPLES).astype(int)).tolist():
            try:
                record = self.dataset.record(index)
                fields = [_numbers(self.dataset, index, name, record) for name in self.names.values()]
            except JaffeError:
                fields = []
            for value in fields:
                digest.update(f"{value.dtype} {value.shape}".encode())
                digest.update(value.tobytes())
        return digest.hexdigest()


def _files(source: Any) -> list[Path]:
    """Files of a database or of HDF5, which are few. Those that reading changes are left out."""
    paths = [source.path] if isinstance(source, Database) else source.paths if isinstance(source, Hdf5Source) else []
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [file for file in files if file.name not in ("lock.mdb", "LOCK", "LOG", "LOG.old")]


def mean_image(dataset: Dataset, *, advance: Advance = silent) -> np.ndarray:
    """The mean of all images, (C, H, W), float32: Caffe's ``compute_image_mean``.

    Raises:
        JaffeError: a record cannot be read; or there are no images, or they differ in shape.
    """
    first = dataset.fields()
    name = _names(dataset, {"data": first["data"]} if "data" in first else first, for_datums=True)["data"]
    if first[name].ndim != 3 or not first[name].size:
        raise JaffeError(f"{dataset.name}: {name} has shape {first[name].shape}; expected images (C, H, W)")
    total = np.zeros(first[name].shape, np.float64)

    def read(start: int) -> np.ndarray:
        part = np.zeros_like(total)
        for index in range(start, min(start + CHUNK, len(dataset.records))):
            pixels = _numbers(dataset, index, name, dataset.record(index))
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
    if not shares or not all(share > 0 for share in shares) or not sum(shares) <= 1 + 1e-9:  # as NaN is not either
        raise JaffeError(f"shares are above 0 and together at most 1; received {', '.join(map(str, shares))}")
    random = _random(seed)
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
    chosen = np.sort(_random(seed).permutation(len(dataset.records))[:count])
    return _part(dataset, chosen, f"sample of {count}, seed {seed}")


def shuffled(dataset: Dataset, seed: int) -> Dataset:
    """All records in another order."""
    order = _random(seed).permutation(len(dataset.records))
    return _part(dataset, order, f"shuffled, seed {seed}")


def _random(seed: int) -> np.random.Generator:
    if seed < 0:
        raise JaffeError(f"a seed is a whole number from 0 on; received {seed}")
    return np.random.default_rng(seed)


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
