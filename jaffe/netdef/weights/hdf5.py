"""Caffe's HDF5 weights: group ``/data``, in it a group for each layer, in it datasets ``0``, ``1``, ...

A parameter that layers share stands under its first layer only. Files may come from anywhere, so only plain
datasets are read: no links to other files, none that are virtual or declare more than is stored.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError, SpecError
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights.blob import MOST_AXES, MOST_BLOBS, blob_index, in_order

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_MOST_GROWTH = 64  # of compressed datasets: bytes declared over bytes of the file
_SMALL = 16 * 2**20  # a file may declare so much in any case
_DEEPEST = 8  # groups within groups, for layer names with slashes
_PLAIN_FILTERS = (1, 2, 3)  # deflate, shuffle, checksum


def read(path: Path) -> dict[str, list[np.ndarray | None]]:
    """The blobs of every layer, in the order of the names; ``None`` for one that is left out before another.

    Raises:
        SpecError: the file is missing, damaged, not of this layout, or holds what is not a plain dataset.
    """
    h5py = h5py_for(path)
    size = path.stat().st_size if path.is_file() else len(read_bytes(path))  # which says why it cannot be read
    try:
        with h5py.File(path, "r") as file:
            return Reader(h5py, path, max(_SMALL, _MOST_GROWTH * size)).layers(file)
    except JaffeError:
        raise
    except Exception as error:  # h5py passes on whatever the C library finds: OSError, RuntimeError, KeyError, ...
        problem = str(error).strip().splitlines()
        raise SpecError(f"is not an HDF5 file, or damaged: {problem[0] if problem else type(error).__name__}",
                        location=str(path)) from None


class Reader:
    """Reads one file, keeping count of what it declares."""

    def __init__(self, h5py: Any, path: Path, most_bytes: int):
        self.h5py = h5py
        self.path = path
        self.most_bytes = self.left_bytes = most_bytes
        self.left_links = MOST_BLOBS

    def layers(self, file: Any) -> dict[str, list[np.ndarray | None]]:
        if self._kind(file, "data", "") is not self.h5py.Group:
            raise self._error("has no group 'data'; expected Caffe's weights: /data/<layer>/0, 1, ...")
        weights: dict[str, list[np.ndarray | None]] = {}
        groups = deque([("", file["data"], 0)])
        while groups:
            prefix, group, depth = groups.popleft()
            arrays: dict[int, np.ndarray] = {}
            nested = False
            for key in group:
                kind = self._kind(group, key, prefix)
                name = key.decode("latin-1") if isinstance(key, bytes) else key
                inner = f"{prefix}/{name}" if prefix else name
                if kind is self.h5py.Group and depth < _DEEPEST:
                    groups.append((inner, group[key], depth + 1))
                    nested = True
                elif kind is self.h5py.Dataset and prefix and (index := blob_index(name)) is not None:
                    arrays[index] = self._array(group[key], prefix, name)
                else:
                    expected = "datasets 0, 1, ..." if prefix else "a group for each layer"
                    raise self._error(f"found {name!r}; expected {expected}", prefix)
            if prefix and (arrays or not nested):
                weights[prefix] = in_order(arrays)
        return weights

    def _kind(self, group: Any, name: str | bytes, layer: str) -> Any:
        """The class of a member, Group or Dataset, or None where there is none. Refuses links without following."""
        self.left_links -= 1
        if self.left_links < 0:
            raise self._error(f"has more than {MOST_BLOBS} layers and blobs")
        raw = name if isinstance(name, bytes) else name.encode()  # as h5py gives names that are not UTF-8
        if not group.id.links.exists(raw):
            return None
        if group.id.links.get_info(raw).type != self.h5py.h5l.TYPE_HARD:
            raise self._error(f"{name!r} is a link to elsewhere; expected plain groups and datasets", layer)
        return type(group[name])

    def _array(self, dataset: Any, layer: str, name: str) -> np.ndarray:
        def error(problem: str) -> SpecError:
            return self._error(f"blob {name} {problem}", layer)

        if dataset.dtype not in (np.dtype(np.float32), np.dtype(np.float64), np.dtype(">f4"), np.dtype(">f8")):
            raise error(f"is of dtype {dataset.dtype}; expected float32 or float64")
        shape = dataset.shape
        if shape is None or len(shape) > MOST_AXES:
            raise error(f"has no shape of at most {MOST_AXES} axes")
        settings = dataset.id.get_create_plist()
        filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
        if dataset.is_virtual or dataset.external:
            raise error("lies in another file; expected a plain dataset")
        if any(code not in _PLAIN_FILTERS for code in filters):
            raise error(f"is compressed with filters {filters}; expected deflate or none")
        width = dataset.dtype.itemsize
        declared = math.prod(shape) * width
        self.left_bytes -= declared
        if self.left_bytes < 0 or math.prod(dataset.chunks or ()) * width > self.most_bytes:
            raise error(f"of shape {shape}: the file declares more than {self.most_bytes} bytes of data")
        stored = dataset.id.get_storage_size()
        if stored < declared and not filters:
            raise error(f"of shape {shape} has {stored} bytes stored; expected {declared}")
        return np.asarray(dataset[()], dataset.dtype.newbyteorder("="))

    def _error(self, problem: str, layer: str = "") -> SpecError:
        return SpecError(problem, layer=layer or None, location=str(self.path))


def write(path: Path, weights: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Write blobs by layer and index, float32.

    Raises:
        SpecError: a layer's name has a slash, which Caffe cannot store in HDF5; or the file cannot be written.
    """
    h5py = h5py_for(path)
    for layer in weights:
        if "/" in layer or layer in ("", ".") or "\0" in layer:
            raise SpecError("Caffe's HDF5 files cannot hold a layer of this name; expected another format, "
                            "such as .caffemodel", layer=layer, location=str(path))
    with replacing(path) as new, h5py.File(new, "w") as file:
        data = file.create_group("data")
        for layer, arrays in weights.items():
            group = data.create_group(layer)
            for i, array in arrays.items():
                with np.errstate(over="ignore"):
                    group.create_dataset(str(i), data=np.asarray(array, np.float32))


def h5py_for(path: Path) -> Any:
    """The module h5py. Raises SpecError, which names the file, where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise SpecError("is an HDF5 file, for which h5py is needed: pip install h5py", location=str(path)) from None
    return h5py
