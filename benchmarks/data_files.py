"""The files that reading is timed on, made once in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np

from jaffe.train.data import open_dataset
from jaffe.train.data.convert import convert


@dataclass(frozen=True)
class Source:
    """What is read.

    Attributes:
        title: in tables.
        name: as jaffe opens it, behind ``{}``, the folder.
        batch: records in a batch.
        crop: side of the random crop, or 0.
        shuffle: whether records come in a random order.
    """

    title: str
    name: str
    batch: int
    crop: int = 0
    shuffle: bool = False


SOURCES = {
    "mnist": Source("LMDB, 1 x 28 x 28", "lmdb:{}/mnist", 64),
    "cifar": Source("LMDB, 3 x 32 x 32", "lmdb:{}/cifar", 100),
    "raw": Source("LMDB, 3 x 256 x 256", "lmdb:{}/raw", 50, crop=227),
    "encoded": Source("LMDB of JPEG, 256 x 256, cropped to 227", "lmdb:{}/encoded", 50, crop=227),
    "files": Source("JPEG files, 256 x 256, cropped to 227", "images:{}/list.txt", 50, crop=227, shuffle=True),
    "hdf5": Source("HDF5, 3 x 64 x 64 floats", "hdf5:{}/contiguous.h5", 50, shuffle=True),
    "gzip": Source("HDF5, the same, compressed", "hdf5:{}/gzip.h5", 50, shuffle=True),
}
SMALL, LARGE, FLOATS = 20_000, 1_500, 2_000  # records


def prepare(folder: Path) -> None:
    """Write the files of all sources. Images are smooth noise, of about the size that photographs have as JPEG."""
    random = np.random.default_rng(0)
    for name, shape in (("mnist", (1, 28, 28)), ("cifar", (3, 32, 32))):
        convert(open_dataset(small(shape)), f"lmdb:{folder / name}")
    for i in range(LARGE):
        coarse = random.integers(256, size=(33, 33, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), noisy)
    (folder / "list.txt").write_text("".join(f"{i}.jpg {i % 10}\n" for i in range(LARGE)))
    images = open_dataset(f"images:{folder}/list.txt")
    convert(images, f"lmdb:{folder}/encoded", encode="jpg")
    convert(images, f"lmdb:{folder}/raw")
    data = random.normal(size=(FLOATS, 3, 64, 64)).astype(np.float32)
    for name, settings in (("contiguous", {}), ("gzip", {"chunks": (1, 3, 64, 64), "compression": "gzip"})):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset("data", data=data, **settings)
            file["label"] = np.arange(FLOATS, dtype=np.int32) % 10


def small(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Random images in memory, and labels."""
    random = np.random.default_rng(1)
    return {"data": random.integers(256, size=(SMALL, *shape), dtype=np.uint8),
            "label": random.integers(10, size=SMALL).astype(np.int32)}
