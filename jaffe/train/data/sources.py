"""Data sets by name: ``open_dataset``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError, listed, suggest
from jaffe.train.data.databases import LevelDbSource, LmdbSource, RecordsSource
from jaffe.train.data.dataset import ArraySource, Data, Dataset, RandomAccess, renamed
from jaffe.train.data.hdf5 import Hdf5Source, read_hdf5_list
from jaffe.train.data.images import SUFFIXES, read_image_folder, read_image_list
from jaffe.train.data.made import MADE
from jaffe.train.data.published import is_published, read_cifar, read_mnist
from jaffe.train.data.tfds import TfdsSource


def open_dataset(data: Data, split: str = "train", base: Path = Path()) -> Dataset:
    """Open a source of records.

    Args:
        data: a dict of arrays with one first axis, any sequence of dicts of arrays, a ``Dataset``, or one of

            =========================== ==========================================================================
            ``tfds:NAME``               a data set of TFDS; its ``split``, or ``tfds:NAME:SPLIT``
            ``lmdb:PATH``               an LMDB of Datum records, raw or encoded
            ``leveldb:PATH``            a LevelDB of such
            ``records:PATH``            array_record files of such
            ``hdf5:PATH``               an HDF5 file, or a list of several; fields are its data sets
            ``images:PATH``             a list of image files, a line ``path label`` each
            ``folder:PATH``             a folder with a folder of images for each class
            ``npz:PATH``, ``npy:PATH``  arrays by name, or one (``data``)
            ``mnist:PATH``              a folder with MNIST's idx files
            ``cifar10:PATH``            a folder with its binary files; ``cifar100`` too
            ``text:python``, ``made:*`` see ``jaffe.train.data.made``
            a path alone                what is there tells its kind
            =========================== ==========================================================================

            Behind ``?`` and separated by ``&``: for images ``size=HEIGHTxWIDTH``, ``color=false``, ``root=FOLDER/``
            and ``labels=NUMBER`` (lists only); for all, ``INPUT=FIELD`` to name what an input of the net takes:
            ``tfds:cifar100?data=image&label=coarse_label``.
        split: ``"train"`` or ``"test"``.
        base: where relative paths are looked for beside the current folder.

    Returns:
        Databases are not shuffled, as in Caffe; everything else is.

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
    raise TypeError("data is 'tfds:NAME', 'lmdb:PATH', 'npz:PATH', ..., a dict of arrays or a sequence of records; "
                    f"received {type(data).__name__}")


@dataclass(frozen=True)
class _Options:
    """What stands behind the ``?``, with the defaults; ``fields`` is what is left for names of fields."""

    fields: dict[str, str]

    def take(self, name: str, parse: Callable[[str], Any], default: Any, expected: str) -> Any:
        if name not in self.fields:
            return default
        text = self.fields.pop(name)
        try:
            return parse(text)
        except (ValueError, KeyError):
            raise JaffeError(f"{name}={text}: expected {expected}") from None

    def images(self) -> dict[str, Any]:
        return {"size": self.take("size", parse_size, None, "HEIGHTxWIDTH"),
                "color": self.take("color", {"true": True, "false": False}.__getitem__, True, "true or false")}


def parse_size(text: str) -> tuple[int, int]:
    """``"64x80"`` as (64, 80), ``"64"`` as (64, 64). Raises ValueError for anything else."""
    numbers = [int(number) for number in text.lower().split("x")]
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(text)
    return numbers[0], numbers[-1]


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(text)
    return int(text)


def _open_named(data: str, split: str, base: Path) -> Dataset:
    place, _, query = data.partition("?")
    options = _Options(dict(option.partition("=")[::2] for option in query.split("&") if option))
    kind, _, rest = place.partition(":")
    if place in MADE:
        make, shuffle = MADE[place]
        dataset = Dataset(ArraySource(make(split), data), shuffle, data)
    elif kind == "tfds" and rest:
        name, _, own = rest.partition(":")
        dataset = Dataset(TfdsSource(name, own or split), True, data, order="RGB")
    else:
        if kind in KINDS and rest:
            path = _find(rest, base, data)
        else:
            path = _find(place, base, data, bare=True)
            kind = kind_of(path)
            data = f"{kind}:{data}"
        order = "RGB" if kind.startswith("cifar") else "BGR"
        dataset = Dataset(KINDS[kind](path, split, options, data), kind not in _IN_ORDER, data, order=order)
    return renamed(dataset, options.fields) if options.fields else dataset


def _find(path: str, base: Path, data: str, *, bare: bool = False) -> Path:
    places = (path, os.path.join(base, path))
    found = next((Path(place) for place in places if path and os.path.exists(place)), None)
    if found is not None and not (found.is_file() or found.is_dir()):
        raise JaffeError(f"{data}: {found} is not a regular file or a folder")
    if found is None and bare and "/" not in path:
        kinds = ["tfds:NAME", *(f"{kind}:PATH" for kind in KINDS), *MADE]
        near = suggest(path, MADE) or suggest(path.partition(":")[0], ["tfds", *KINDS])
        raise JaffeError(f"data {data!r} is not known{near}; expected a path, "
                         f"{', '.join(kinds[:-1])} or {kinds[-1]}")
    if found is None:
        raise JaffeError(f"{data}: there is no {Path(path)} in {Path.cwd()} or {base.absolute()}")
    return found


def kind_of(path: Path) -> str:
    """What kind of data a path holds, one of ``KINDS``. Raises JaffeError when it is none that is known."""
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "lmdb"
        if (path / "CURRENT").is_file():
            return "leveldb"
        if next(path.glob("*.array_record*"), None):
            return "records"
        if published := is_published(path):
            return published
        if (path / "files.txt").is_file():
            return "hdf5"
        if any(entry.is_dir() for entry in path.iterdir()):
            return "folder"
    suffix = path.suffix.lower()
    known = {".mdb": "lmdb", ".lmdb": "lmdb", ".npz": "npz", ".npy": "npy", ".h5": "hdf5", ".hdf5": "hdf5",
             ".array_record": "records"}
    if suffix in known and path.is_file():
        return known[suffix]
    if ".array_record" in path.name:
        return "records"
    if path.is_file() and suffix not in SUFFIXES:
        with path.open("rb") as file:
            start = file.read(4096)
        if b"\0" not in start and start.strip():
            first = start.split()[0].decode("latin-1")
            return "hdf5" if first.endswith((".h5", ".hdf5")) else "images"
    found = listed(sorted(entry.name for entry in path.iterdir()), 4) or "nothing" if path.is_dir() else "a file"
    raise JaffeError(f"{path} is not data of a kind that is known: found {found}; expected {', '.join(KINDS)}")


def _images(path: Path, split: str, options: _Options, name: str) -> RandomAccess:
    root = options.take("root", str, "", "a folder")
    labels = options.take("labels", _count, 1, "a number from 1 on")
    return read_image_list(path, root=root, labels=labels, **options.images())


def _folder(path: Path, split: str, options: _Options, name: str) -> RandomAccess:
    if not path.is_dir():
        raise JaffeError(f"{name}: expected a folder; found a file")
    return read_image_folder(path, split, **options.images())


def _hdf5(path: Path, split: str, options: _Options, name: str) -> RandomAccess:
    if path.is_dir():
        path /= "files.txt"
    if not path.is_file():
        raise JaffeError(f"{name}: expected an HDF5 file, a list of such, or a folder with a list files.txt; found "
                         "none")
    with path.open("rb") as file:
        binary = file.read(8) == b"\x89HDF\r\n\x1a\n"
    return Hdf5Source([path] if binary or path.suffix in (".h5", ".hdf5") else read_hdf5_list(path))


def _arrays(path: Path, split: str, options: _Options, name: str) -> RandomAccess:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray) != name.startswith("npy:"):
                raise ValueError("it is an .npy file" if isinstance(content, np.ndarray) else "it is an .npz file")
            arrays = {"data": content} if isinstance(content, np.ndarray) else dict(content)
        return ArraySource(arrays, name)
    except JaffeError:
        raise
    except Exception as error:  # zip and NumPy have many of their own
        raise JaffeError(f"{name} cannot be read: {error}") from None


# What opens a path: (path, split, options, name) -> records.
KINDS: dict[str, Callable[[Path, str, _Options, str], RandomAccess]] = {
    "lmdb": lambda path, *_: LmdbSource(path),
    "leveldb": lambda path, *_: LevelDbSource(path),
    "records": lambda path, *_: RecordsSource(path),
    "hdf5": _hdf5,
    "images": _images,
    "folder": _folder,
    "npz": _arrays,
    "npy": _arrays,
    "mnist": lambda path, split, _, name: ArraySource(read_mnist(path, split), name),
    "cifar10": lambda path, split, _, name: ArraySource(read_cifar(path, "cifar10", split), name),
    "cifar100": lambda path, split, _, name: ArraySource(read_cifar(path, "cifar100", split), name),
}
_IN_ORDER = {"lmdb", "leveldb", "records"}
