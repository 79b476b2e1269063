"""MNIST and CIFAR in the files that their authors publish."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.train.data.images import read_regular

_MNIST = {"train": "train", "test": "t10k"}
# Of a record the bytes before the pixels, and the one that is the label.
_CIFAR = {"cifar10": (1, 0), "cifar100": (2, 1)}
_CIFAR_FILES = {
    "cifar10": {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    "cifar100": {"train": ["train.bin"], "test": ["test.bin"]},
}


def read_mnist(folder: Path, split: str) -> dict[str, np.ndarray]:
    """``data`` (items, 1, H, W) and ``label`` of the idx files in a folder, compressed by gzip or not.

    Raises:
        JaffeError: they are missing, cut off, or not such.
    """
    images, labels = (read_idx(_idx_file(folder, f"{_MNIST.get(split, split)}-{kind}-ubyte"))
                      for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise JaffeError(f"{folder}: expected as many labels as images; found {labels.shape} and {images.shape}")
    return {"data": images[:, None], "label": labels.astype(np.int32)}


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of bytes, as http://yann.lecun.com/exdb/mnist describes it; compressed or not.

    Raises:
        JaffeError: it cannot be read, or its size is not what it states.
    """
    content = read_regular(path)
    packed = content[:2] == b"\x1f\x8b"
    try:
        with (gzip.open if packed else lambda file: file)(io.BytesIO(content)) as file:
            head = file.read(4)
            axes = head[3] if len(head) > 3 else 0
            sizes = file.read(4 * axes)
            if head[:3] != b"\0\0\x08" or not 1 <= axes <= 8 or len(sizes) < 4 * axes:
                raise JaffeError(f"{path} is not an idx file of bytes")
            shape = np.frombuffer(sizes, ">u4").tolist()
            values = file.read(math.prod(shape) + 1)  # and no more, whatever the file unpacks to
    except (OSError, EOFError, zlib.error, OverflowError) as error:
        raise JaffeError(f"{path} cannot be read: {error}") from None
    if len(values) != math.prod(shape):
        found = f"{len(values):,}" if len(values) < math.prod(shape) else "more"
        raise JaffeError(f"{path}: expected {math.prod(shape):,} values of shape {tuple(shape)}; found {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _idx_file(folder: Path, name: str) -> Path:
    for place in (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")):
        if place.is_file():
            return place
    raise JaffeError(f"{folder}: expected {name} or {name}.gz; found neither")


def read_cifar(folder: Path, kind: str, split: str) -> dict[str, np.ndarray]:
    """``data`` (items, 3, 32, 32), RGB, and ``label`` (fine, where there are two) of the binary version.

    Args:
        kind: ``"cifar10"`` or ``"cifar100"``.

    Raises:
        JaffeError: files are missing, or their size is not that of whole records.
    """
    if split not in _CIFAR_FILES[kind]:
        raise JaffeError(f"{kind} has the splits train and test; received {split!r}")
    records = np.concatenate([_cifar_records(folder / name, _CIFAR[kind][0]) for name in _CIFAR_FILES[kind][split]])
    header, label = _CIFAR[kind]
    return {"data": records[:, header:].reshape(-1, 3, 32, 32), "label": records[:, label].astype(np.int32)}


def _cifar_records(path: Path, header: int) -> np.ndarray:
    content = read_regular(path)
    size = header + 3 * 32 * 32
    if not content or len(content) % size:
        raise JaffeError(f"{path}: expected records of {size:,} bytes; found {len(content):,} bytes in all")
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def is_published(folder: Path) -> str:
    """What a folder holds: ``"mnist"``, ``"cifar10"``, ``"cifar100"`` or ``""``."""
    def some(names: Sequence[str]) -> bool:
        return any((folder / name).is_file() for name in names)

    for kind, files in _CIFAR_FILES.items():
        if some(files["train"]) or some(files["test"]):
            return kind
    mnist = [f"{name}-images-idx3-ubyte{suffix}" for name in _MNIST.values() for suffix in ("", ".gz")]
    return "mnist" if some(mnist) else ""
