"""HDF5 files as HDF5Data layers read them: data sets by name, of any shape, one row a record."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.source import decode
from jaffe.train.data.dataset import Record
from jaffe.train.data.images import read_regular

MOST_ROWS = 2**31 - 1


class Hdf5Source:
    """The rows of HDF5 files, one file after another; fields are the data sets of the files.

    Values stay in the files until they are asked for. Floats are read as float32, as in Caffe, and whole numbers as
    they are, or as int32 where they have more bits.

    Args:
        paths: of the files. All have the same data sets with the same shapes behind the first axis.
        names: of the data sets; by default all that have as many rows as most have.

    Raises:
        JaffeError: a file cannot be read, or has no data sets, or they do not fit together.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str] | None = None):
        self.paths = list(paths)
        self.names = names
        self._open()

    def __reduce__(self) -> Any:
        return type(self), (self.paths, self.names)  # each process opens them anew

    def _open(self) -> None:
        self._arrays = [_arrays(path, self.names) for path in self.paths]
        first = self._arrays[0]
        for path, arrays in zip(self.paths, self._arrays, strict=True):
            rows = {name: array.shape[0] for name, array in arrays.items()}
            if len(set(rows.values())) != 1:
                raise JaffeError(f"{path}: data sets have one first axis, the records; found "
                                 + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()))
            for name, array in first.items():
                if name not in arrays or arrays[name].shape[1:] != array.shape[1:]:
                    found = f"of {arrays[name].shape[1:]}" if name in arrays else f"only {', '.join(arrays)}"
                    raise JaffeError(f"{path}: expected a data set {name!r} of items of shape {array.shape[1:]}, as in "
                                     f"{self.paths[0]}; found {found}")
        self._starts = np.cumsum([0] + [len(next(iter(arrays.values()))) for arrays in self._arrays])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: values[0] for name, values in self.gather(np.array([index])).items()}

    def key(self, index: int) -> str:
        """File and row."""
        file = self._file(np.array([index]))[0]
        return f"{self.paths[file]}, row {index - self._starts[file]}"

    def _file(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, indices, side="right") - 1

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Those records, each field stacked."""
        files = self._file(indices)
        rows = indices - self._starts[files]
        result = {name: np.empty((len(indices), *array.shape[1:]), _read_as(array.dtype))
                  for name, array in self._arrays[0].items()}
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            for name, values in result.items():
                values[here] = self._read(int(file), name, rows[here])
        return result

    def _read(self, file: int, name: str, rows: np.ndarray) -> np.ndarray:
        array = self._arrays[file][name]
        if isinstance(array, np.memmap):
            return _narrow(array[rows], self.paths[file], name)
        start, stop = int(rows.min()), int(rows.max()) + 1
        try:
            if stop - start <= 2 * len(rows):  # one read of a stretch is many times as fast as of single rows
                values = array[start:stop][rows - start]
            else:  # and these as a selection of rows
                values = np.stack([array[int(row)] for row in rows])
        except (OSError, KeyError, ValueError) as error:
            raise JaffeError(f"{self.paths[file]}: data set {name!r} cannot be read: {error}") from None
        return _narrow(values, self.paths[file], name)


def _arrays(path: Path, names: Sequence[str] | None) -> Mapping[str, Any]:
    """The data sets of a file by name: mapped where they lie in one piece, else h5py's."""
    import h5py

    if not path.is_file():
        raise JaffeError(f"{path} is not an HDF5 file: " + ("a folder" if path.is_dir() else "it is not there"))
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "biuf":
            found[name] = item

    try:
        file = h5py.File(path, "r")
        file.visititems(visit)  # follows no links, to other files least of all
        if names is not None:
            found = {name: found[name] for name in names if name in found}
        elif found:
            rows = Counter(item.shape[0] for item in found.values()).most_common(1)[0][0]
            found = {name: item for name, item in found.items() if item.shape[0] == rows}
        arrays = {name: _mapped(path, dataset) for name, dataset in found.items()}
    except JaffeError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise JaffeError(f"{path} cannot be read as HDF5: {error}") from None
    if not arrays:
        wanted = f"data sets {', '.join(names)}" if names else "data sets of numbers with at least one axis"
        raise JaffeError(f"{path}: expected {wanted}; found none")
    return arrays


def _mapped(path: Path, dataset: Any) -> Any:
    """The data set as a map of the file where it lies there in one piece, with nothing to decode; else as it is."""
    import h5py

    if dataset.external or dataset.is_virtual:
        raise JaffeError(f"{path}: data set {dataset.name!r} lies in other files, which are not followed")
    if dataset.shape[0] > MOST_ROWS:
        raise JaffeError(f"{path}: data set {dataset.name!r} states {dataset.shape[0]:,} rows; expected at most "
                         f"{MOST_ROWS:,}")
    offset = dataset.id.get_offset()
    plain = dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype)  # not one of 12 bits, say
    if dataset.chunks or offset is None or not dataset.size or not plain:
        return dataset
    if offset + dataset.nbytes > path.stat().st_size:
        raise JaffeError(f"{path} is cut off: data set {dataset.name!r} goes on to byte {offset + dataset.nbytes:,}; "
                         f"the file has {path.stat().st_size:,}")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def _read_as(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f":
        return np.dtype(np.float32)
    wide = dtype.itemsize == 8 or dtype.newbyteorder("=") == np.uint32
    return np.dtype(np.int32) if wide else dtype.newbyteorder("=")


def _narrow(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Whole numbers of more bits as int32. Raises JaffeError for one that is not such."""
    target = _read_as(values.dtype)
    if target == np.int32 and values.dtype.kind in "iu" and values.dtype.itemsize >= 4 and values.size and not (
            values.min() >= -(2**31) and values.max() < 2**31):
        raise JaffeError(f"{path}: data set {name!r} has whole numbers beyond 32 bits; floats are read as float32")
    return values.astype(target, copy=False)


def read_hdf5_list(path: Path) -> list[Path]:
    """The files that an HDF5Data layer's ``source`` names: paths separated by white space.

    They are relative to the current folder, as in Caffe, or to that of the list.

    Raises:
        JaffeError: it names none, or one is not there.
    """
    names = decode(read_regular(path), path).split()
    if not names:
        raise JaffeError(f"{path} names no HDF5 files")
    found = []
    for name in names:
        place = next((place for place in (name, str(path.parent / name)) if os.path.exists(place)), None)
        if place is None:
            raise JaffeError(f"{path} names {name}, which is neither in {Path.cwd()} nor in {path.parent.absolute()}")
        found.append(Path(place))
    return found
