"""Reading and writing weights in whichever format a file has."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from jaffe.netdef.errors import SpecError
from jaffe.netdef.graph import Graph
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights import caffemodel, hdf5, interchange
from jaffe.netdef.weights.blob import MOST_AXES, MOST_BLOBS, MOST_INDEX, numbers
from jaffe.netdef.weights.caffemodel import Entry

Layers: TypeAlias = dict[str, list[np.ndarray | None]]

SUFFIXES = (".caffemodel", ".caffemodel.h5", ".h5", ".hdf5", ".safetensors", ".npz")

_WEB_PAGE = re.compile(rb"<(!doctype|!--|html|head|\?xml)", re.IGNORECASE)


def read_weights(path: str | os.PathLike[str]) -> Layers:
    """The blobs of every layer of a file, in Caffe's order (weight, bias). Layers without blobs are left out.

    Formats: Caffe's ``.caffemodel`` (of every age, and of forks), Caffe's HDF5, known by its signature whatever
    the suffix, and ``.safetensors`` and ``.npz`` with arrays named ``layer/0``, ``layer/1``, ...

    Returns:
        Arrays by layer name: float32, or float64 where the file has that. ``None`` stands for a blob that an HDF5
        file leaves out because the net shares it with an earlier layer.

    Raises:
        SpecError: the file is missing, truncated, of another format, or a blob's data do not fit its shape; or
            several layers of a name have blobs, which ``load_weights`` copies one after another, as Caffe does.
    """
    return by_name(read_entries(path), Path(path))


def by_name(entries: Sequence[Entry], path: Path) -> Layers:
    """The layers with blobs; see ``read_weights``."""
    weights: Layers = {}
    for name, blobs, _ in entries:
        if name in weights and blobs:
            raise SpecError("several layers of this name have blobs", layer=name, location=str(path))
        if blobs:
            weights[name] = blobs
    return weights


def read_entries(path: str | os.PathLike[str]) -> list[Entry]:
    """Every layer of a file in its order, also without blobs, and several of one name; see ``read_weights``."""
    path = Path(path)
    check_regular(path)
    try:
        with path.open("rb") as file:
            begin = file.read(512)
    except (OSError, ValueError):
        begin = b""  # read_bytes says what is wrong
    if begin.startswith(hdf5.SIGNATURE) or path.suffix in (".h5", ".hdf5"):
        return [Entry(*item) for item in hdf5.read(path).items()]
    if path.suffix == ".safetensors":
        return [Entry(*item) for item in interchange.read_safetensors(path).items()]
    if begin.startswith(b"PK\x03\x04") or path.suffix == ".npz":
        return [Entry(*item) for item in interchange.read_npz(path).items()]
    content = read_bytes(path)
    check_kind(content, path, "a .caffemodel")
    return caffemodel.read(content, path)


def write_weights(
    path: str | os.PathLike[str], weights: Mapping[str, Sequence[np.ndarray | None]], graph: Graph | None = None
) -> None:
    """Write weights, float32, in the format that the suffix names (``SUFFIXES``). The file appears whole or not at all.

    Args:
        weights: arrays by layer name, in Caffe's order. A parameter that several layers share may stand under each,
            or under the first, with ``None`` under others.
        graph: the net, which ``.caffemodel`` holds too and which says what is shared: ``.caffemodel`` has such a
            parameter under each layer, the other formats under the first, as Caffe does. Without the net
            ``.caffemodel`` has names and blobs only: enough for Caffe.

    Raises:
        SpecError: the suffix is none of them, a blob is no array of numbers, the net has no layer of a name, a shared
            blob is left out and nothing says which it is, a name does not fit the format, there are more blobs or
            axes than ``read_weights`` takes, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    for name, arrays in weights.items():
        _check_blobs(path, name, arrays)
    if len(weights) + sum(map(len, weights.values())) > MOST_BLOBS:
        raise SpecError(f"would have more than {MOST_BLOBS} layers and blobs", location=str(path))
    if graph:
        known = {node.name for node in graph.nodes}
        unknown = [name for name in weights if name not in known]
        if unknown:
            raise SpecError(f"the net has no layer {unknown[0]!r}", location=str(path))
    shared = {node.name: node.shared for node in graph.nodes} if graph else {}
    if path.suffix == ".caffemodel":
        caffemodel.write(path, _complete(weights, shared, path), graph)
        return
    owned = {
        name: {i: array for i, array in enumerate(arrays) if array is not None and i not in shared.get(name, ())}
        for name, arrays in weights.items()
    }
    if path.suffix == ".safetensors":
        interchange.write_safetensors(path, owned)
    elif path.suffix == ".npz":
        interchange.write_npz(path, owned)
    else:
        hdf5.write(path, {**{name: {} for name in shared}, **owned})


def _check_blobs(path: Path, layer: str, arrays: Sequence[np.ndarray | None]) -> None:
    most = MOST_BLOBS if path.suffix == ".caffemodel" else MOST_INDEX + 1
    if len(arrays) > most:
        raise SpecError(f"has {len(arrays)} blobs; expected at most {most}", layer=layer, location=str(path))
    for i, array in enumerate(arrays):
        try:
            axes = 0 if array is None else numbers(array).ndim
        except ValueError as error:
            raise SpecError(f"blob {i} {error}", layer=layer, location=str(path)) from None
        if axes > MOST_AXES:
            raise SpecError(f"blob {i} has {axes} axes; expected at most {MOST_AXES}", layer=layer, location=str(path))


def _complete(
    weights: Mapping[str, Sequence[np.ndarray | None]], shared: Mapping[str, Mapping[int, tuple[str, int]]], path: Path
) -> dict[str, list[np.ndarray]]:
    """Weights in which shared blobs stand under every layer that has them."""
    result: dict[str, list[np.ndarray]] = {}
    for name in shared or weights:
        given = dict(enumerate(weights.get(name, ())))
        theirs = shared.get(name, {})
        for i, (owner, j) in theirs.items():
            if given.get(i) is None and j < len(weights.get(owner, ())):
                given[i] = weights[owner][j]
        blobs = [given.get(i) for i in range(max(given, default=-1) + 1)]
        if any(blob is None for blob in blobs):
            raise SpecError("a blob that the net shares with an earlier layer is left out; expected the net, "
                            "to tell which it is", layer=name, location=str(path))
        result[name] = [blob for blob in blobs if blob is not None]
    return result


def check_suffix(path: Path) -> None:
    """Raises SpecError where the name does not say in which format to write."""
    if path.suffix not in SUFFIXES:
        raise SpecError(f"expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
                        location=str(path))


def check_regular(path: Path) -> None:
    """Raises SpecError for a device or pipe, which has no end or no size. A missing file is left to the reader."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SpecError("is not a regular file", location=str(path))


def check_kind(content: bytes, path: Path, expected: str) -> None:
    """Raises SpecError for what downloads often leave in place of a binary file."""
    begin = content[:512].lstrip()
    if not content:
        problem = "it is empty"
    elif _WEB_PAGE.match(begin):  # '<' alone begins nets whose name has 60 bytes
        problem = "it is a web page; a download has failed"
    elif begin.startswith(b"version https://git-lfs"):
        problem = "it is a pointer of Git LFS; `git lfs pull` fetches the file"
    else:
        return
    raise SpecError(f"is not {expected}: {problem}", location=str(path))
