"""HDF5 files as HDF5Data layers read them: data sets by name, of any shape, one row a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.source import decode, read_bytes
from jaffe.train.data.dataset import Record


class Hdf5Source:
    """The rows of HDF5 files, one file after another; fields are the data sets of the files.

    Values stay in the files until they are asked for. Floats are read as float32, as in Caffe; whole numbers stay.

    Args:
        paths: of the files. All have the same data sets with the same shapes behind the first axis.

    Raises:
        JaffeError: a file cannot be read, or has no data sets, or they do not fit together.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._open()

    def __reduce__(self) -> Any:
        return type(self), (self.paths,)  # each process opens them anew

    def _open(self) -> None:
        self._arrays = [_arrays(path) for path in self.paths]
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
            return array[rows]
        wanted, places = np.unique(rows, return_inverse=True)  # h5py takes increasing indices
        start, stop = int(wanted[0]), int(wanted[-1]) + 1
        try:
            if stop - start <= 2 * len(wanted):  # one read of a stretch is many times as fast as of single rows
                return array[start:stop][rows - start]
            return array[wanted][places]
        except OSError as error:
            raise JaffeError(f"{self.paths[file]}: data set {name!r} cannot be read: {error}") from None


def _arrays(path: Path) -> Mapping[str, Any]:
    """The data sets of a file by name: mapped where they lie in one piece, else h5py's."""
    import h5py

    if not path.is_file():
        raise JaffeError(f"{path} is not an HDF5 file: " + ("a folder" if path.is_dir() else "it is not there"))
    found: dict[str, Any] = {}
    try:
        file = h5py.File(path, "r")

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "biuf":
                found[name] = item

        file.visititems(visit)  # follows no links, to other files least of all
    except (OSError, RuntimeError, ValueError) as error:
        raise JaffeError(f"{path} cannot be read as HDF5: {error}") from None
    if not found:
        raise JaffeError(f"{path}: expected data sets of numbers with at least one axis; found none")
    return {name: _mapped(path, dataset) for name, dataset in found.items()}


def _mapped(path: Path, dataset: Any) -> Any:
    """The data set as a map of the file where it lies there in one piece, with nothing to decode; else as it is."""
    offset = dataset.id.get_offset()
    if dataset.chunks or dataset.external or dataset.is_virtual or offset is None or not dataset.size:
        if dataset.external or dataset.is_virtual:
            raise JaffeError(f"{path}: data set {dataset.name!r} lies in other files, which are not followed")
        return dataset
    if offset + dataset.nbytes > path.stat().st_size:
        raise JaffeError(f"{path} is cut off: data set {dataset.name!r} goes on to byte {offset + dataset.nbytes:,}; "
                         f"the file has {path.stat().st_size:,}")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def _read_as(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")


def read_hdf5_list(path: Path) -> list[Path]:
    """The files that an HDF5Data layer's ``source`` names: paths separated by white space.

    They are relative to the current folder, as in Caffe, or to that of the list.

    Raises:
        JaffeError: it names none, or one is not there.
    """
    names = decode(read_bytes(path), path).split()
    if not names:
        raise JaffeError(f"{path} names no HDF5 files")
    found = []
    for name in names:
        place = next((place for place in (Path(name), path.parent / name) if place.exists()), None)
        if place is None:
            raise JaffeError(f"{path} names {name}, which is neither in {Path.cwd()} nor in {path.parent.absolute()}")
        found.append(place)
    return found
