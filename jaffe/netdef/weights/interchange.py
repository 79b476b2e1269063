"""``.npz`` and ``.safetensors``: arrays named ``layer/0``, ``layer/1``, ... in the order of Caffe's blobs.

A name's last slash separates the index, so layer names may have slashes. A parameter that layers share stands
under its first layer only.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError, SpecError
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights.blob import MOST_AXES, MOST_BLOBS, blob_index, in_order

_MOST_GROWTH = 64  # of compressed members: bytes declared over bytes of the file
_LONGEST_NAME = 60_000  # bytes; zip files end at 65,535
_SMALL = 16 * 2**20  # a file may declare so much in any case


def read_npz(path: Path) -> dict[str, list[np.ndarray | None]]:
    """The blobs of every layer of an ``.npz`` file.

    Raises:
        SpecError: the file is missing, damaged, or its arrays are not named ``layer/0``.
    """
    content = read_bytes(path)
    left = max(_SMALL, _MOST_GROWTH * len(content))
    arrays = []
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_BLOBS:
                raise SpecError(f"has more than {MOST_BLOBS} arrays", location=str(path))
            for member in members:
                left -= member.file_size
                if left < 0:
                    raise SpecError(f"declares more than {_MOST_GROWTH} times its size", location=str(path))
                with archive.open(member) as file:
                    array = parse_npy(file.read(member.file_size + 1), path)
                arrays.append((member.filename.removesuffix(".npy"), array))
    except JaffeError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, NotImplementedError, RuntimeError, struct.error, ...
        raise SpecError(f"is not an .npz file, or damaged: {error}", location=str(path)) from None
    return _by_layer(arrays, path)


def parse_npy(content: bytes, path: Path) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file, whose size must be what its header declares.

    Raises:
        SpecError: it is not one, or not an array of numbers.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote, as in files of Caffe's years
            shape, fortran, dtype = header(file)
    except Exception as error:  # the header is a Python literal: ValueError, SyntaxError, TypeError, KeyError, ...
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"is not an .npy file, or damaged: {problem[:200]}", location=str(path)) from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise SpecError(f"holds an array of dtype {dtype}; expected numbers", location=str(path))
    if len(shape) > MOST_AXES or any(size < 0 for size in shape):
        raise SpecError(f"holds an array of the shape {shape}; expected at most {MOST_AXES} sizes of 0 and above",
                        location=str(path))
    left = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise SpecError(f"holds an array of shape {shape} and dtype {dtype} in {left} bytes; "
                        f"expected {math.prod(shape) * dtype.itemsize}", location=str(path))
    array = np.frombuffer(content, dtype, math.prod(shape), file.tell())
    return array.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), order="C")


def read_safetensors(path: Path) -> dict[str, list[np.ndarray | None]]:
    """The blobs of every layer of a ``.safetensors`` file.

    Raises:
        SpecError: as ``read_npz``; or the library ``safetensors`` is not installed.
    """
    library = _safetensors(path)
    content = read_bytes(path)
    try:
        arrays = library.load(content)
    except Exception as error:  # SafetensorError, and KeyError for dtypes that NumPy has not
        raise SpecError(f"is not a .safetensors file, or damaged: {error}", location=str(path)) from None
    return _by_layer(arrays.items(), path)


def _by_layer(arrays: Iterable[tuple[str, np.ndarray]], path: Path) -> dict[str, list[np.ndarray | None]]:
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, array in arrays:
        layer, slash, last = name.rpartition("/")
        index = blob_index(last)
        if not slash or index is None:
            raise SpecError(f"holds an array {name!r}; expected names such as conv1/0", location=str(path))
        if array.dtype not in (np.float16, np.float32, np.float64):
            raise SpecError(f"blob {index} is of dtype {array.dtype}; expected float16, float32 or float64",
                            layer=layer, location=str(path))
        if index in found.get(layer, {}):
            raise SpecError(f"holds two arrays {name!r}", location=str(path))
        found.setdefault(layer, {})[index] = np.asarray(array, np.result_type(array, np.float32))
    return {layer: in_order(blobs) for layer, blobs in found.items()}


def write_npz(path: Path, weights: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Write blobs by layer and index, float32. Equal arrays give equal bytes. Raises SpecError when it cannot."""
    for layer in weights:
        if "\0" in layer or len(layer.encode()) > _LONGEST_NAME:
            raise SpecError(f"an .npz file cannot hold a layer of this name ({len(layer)} characters)",
                            layer=layer[:100], location=str(path))
    with replacing(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, array in _named(weights).items():
            member = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)


def write_safetensors(path: Path, weights: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Write blobs by layer and index, float32. Raises SpecError when it cannot."""
    content = _safetensors(path).save(_named(weights))
    with replacing(path) as new:
        new.write_bytes(content)


def _named(weights: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):  # beyond float32: infinity, as in Caffe
        return {
            f"{layer}/{i}": np.asarray(array, np.float32, order="C")
            for layer, arrays in weights.items()
            for i, array in arrays.items()
        }


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise SpecError("is a .safetensors file, for which safetensors is needed: pip install safetensors",
                        location=str(path)) from None
    return safetensors.numpy
