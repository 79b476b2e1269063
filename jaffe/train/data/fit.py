"""Images of different sizes made equal before they are stacked: resized, cropped or padded on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaffe.compile.preprocess import pad_of, resize_of
from jaffe.netdef.graph import Node


@dataclass(frozen=True)
class Fit:
    """What ``transform_param`` does to images of different sizes, as far as their sizes change by it.

    ``resize`` is Pillow's bilinear filter, which is that of ``jaffe.compile.preprocess`` but for rounding. Crops are at
    random in phase TRAIN and central in TEST, as in Caffe. One of the three is set.

    Attributes:
        resize, pad: (height, width), or ``None``.
        crop: side of a square, or 0.
        filled: what ``pad`` writes, (1 or C) values.
        train: whether crops are at random.
    """

    resize: tuple[int, int] | None
    crop: int
    pad: tuple[int, int] | None
    filled: tuple[int, ...]
    train: bool

    def __call__(self, pixels: np.ndarray, random: np.ndarray) -> np.ndarray:
        """One image (C, H, W).

        Args:
            random: two numbers in [0, 1): where to crop.

        Raises:
            ValueError: it is no image, or does not fit.
        """
        if pixels.ndim != 3:
            raise ValueError(f"expected an image (C, H, W); found shape {pixels.shape}")
        size = pixels.shape[1:]
        if self.resize is not None:
            return _resized(pixels, self.resize)
        if self.crop:
            if self.crop > min(size):
                raise ValueError(f"crop_size {self.crop} is larger than the image, {size}")
            spare = [n - self.crop for n in size]
            top, left = ((int(r * (n + 1)) for r, n in zip(random, spare, strict=True)) if self.train
                         else (n // 2 for n in spare))
            return pixels[:, top : top + self.crop, left : left + self.crop]
        assert self.pad is not None
        if any(n > most for n, most in zip(size, self.pad, strict=True)):
            raise ValueError(f"the image, {size}, is larger than pad_to {self.pad}")
        padded = np.empty((len(pixels), *self.pad), pixels.dtype)
        padded[:] = np.reshape(self.filled, (-1, 1, 1))
        padded[:, : size[0], : size[1]] = pixels
        return padded


def fit_of(node: Node, mean: np.ndarray | None) -> Fit | None:
    """How a data layer's images of different sizes are made equal; ``None`` when it does not say, or has a mean image,
    which only images of its own size have."""
    p = node.proto.transform_param
    resize, pad = resize_of(node), pad_of(node)
    if mean is not None and mean.shape[1:] != (1, 1) and resize is None:
        return None
    if not (resize or pad or p.crop_size):
        return None
    filled = (0,) if mean is None or mean.shape[1:] != (1, 1) else tuple(int(x) for x in np.rint(mean).ravel())
    return Fit(resize, 0 if resize or pad else p.crop_size, None if resize else pad, filled, node.phase == "TRAIN")


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if pixels.shape[1:] == size:
        return pixels
    height, width = size
    planes = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)) for plane in pixels]
    return np.stack(planes)
