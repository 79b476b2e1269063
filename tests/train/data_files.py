"""Small data sets in files, for tests: item i is filled with i, and labelled i."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import lmdb
import numpy as np

from jaffe.netdef.jaffe_pb2 import Datum


def write_lmdb(path: Path, values: Sequence[bytes]) -> str:
    with lmdb.open(str(path), map_size=2**26) as env, env.begin(write=True) as transaction:
        for i, value in enumerate(values):
            transaction.put(f"{i:08}".encode(), value)
    return f"lmdb:{path}"


def raw(i: int, shape: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    """A Datum of raw pixels."""
    channels, height, width = shape
    return Datum(channels=channels, height=height, width=width, data=bytes([i]) * int(np.prod(shape)),
                 label=i).SerializeToString()


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Noise, (H, W, channels), uint8."""
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def encoded(pixels: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


def write_images(folder: Path, sizes: Sequence[tuple[int, int]], kind: str = ".png") -> list[np.ndarray]:
    """Images 0.png, 1.png, ...; their pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    for i, image in enumerate(pixels):
        (folder / f"{i}{kind}").write_bytes(encoded(image, kind))
    return pixels
