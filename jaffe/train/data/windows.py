"""Windows of images, as WindowData layers read them: R-CNN's training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.source import decode
from jaffe.train.data.dataset import Record
from jaffe.train.data.images import channels_first, decode_image, paths_of, read_regular


@dataclass(frozen=True)
class Crop:
    """How windows are cut out and made numbers of: ``crop_size``, ``context_pad``, ``crop_mode`` and what
    ``transform_param`` and ``window_data_param.scale`` say.

    Attributes:
        mean: (C or 1, 1, 1), or an image (C, H, W), of which the middle is taken; ``None`` without.
    """

    size: int
    context: int = 0
    square: bool = False
    mirror: bool = False
    scale: float = 1.0
    mean: np.ndarray | None = None


class WindowSource:
    """Batches of background windows, then foreground ones, each drawn with replacement.

    Fields: ``data`` (C, crop, crop), float32, mean and scale applied since what is outside of an image is 0, and
    ``label``. Source: Caffe 1.0, ``window_data_layer.cpp``; random numbers are NumPy's.

    Args:
        path: the window file.
        crop: how windows are cut out.
        batch: windows in a batch.
        fraction: of them that are foreground, rounded down.
        foreground, background: overlaps from which a window is foreground, and below which it is background.
        root: written before each path as it is; see ``paths_of``.

    Raises:
        JaffeError: the file is not such; or there are no foreground or no background windows.
    """

    def __init__(
        self, path: Path, crop: Crop, batch: int, *, fraction: float = 0.25, foreground: float = 0.5,
        background: float = 0.5, root: str = "",
    ):
        self.path, self.crop, self.batch = path, crop, batch
        self.images, windows = _read_windows(path, root)
        overlap = windows[:, 2]
        self.foreground = windows[overlap >= foreground]
        self.background = windows[(overlap < foreground) & (overlap < background)]
        self.background[:, 1] = 0
        self.in_front = int(np.float32(batch) * np.float32(fraction))
        if not len(self.foreground) or not len(self.background):
            raise JaffeError(f"{path}: expected windows of both kinds; found {len(self.foreground)} of overlap "
                             f"{foreground:g} and above, {len(self.background)} below {background:g}")
        if wrong := int((self.foreground[:, 1] <= 0).sum()):
            raise JaffeError(f"{path}: foreground windows have classes from 1 on; found {wrong} of class 0 or below")
        self.windows = np.concatenate([self.background, self.foreground])

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Record:
        """A window, not mirrored; first those of the background, then those of the foreground."""
        return self._record(self.windows[index], False)

    def key(self, index: int) -> str:
        """Image and corners."""
        image, _, _, *corners = self.windows[index].tolist()
        return f"{self.images[int(image)]} at {', '.join(str(int(x)) for x in corners)}"

    def sample(self, places: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """The windows for these places of the stream, each field stacked."""
        records = []
        for slot, place in enumerate(places.tolist()):  # whole batches
            random = np.random.default_rng([seed, place])
            in_front = slot % self.batch >= self.batch - self.in_front
            windows = self.foreground if in_front else self.background
            window = windows[random.integers(len(windows))]
            records.append(self._record(window, self.crop.mirror and bool(random.integers(2))))
        return {field: np.stack([record[field] for record in records]) for field in records[0]}

    def _record(self, window: np.ndarray, mirrored: bool) -> dict[str, np.ndarray]:
        path = self.images[int(window[0])]
        try:
            image = decode_image(read_regular(path), True)
            data = cut_window(image, window[3:].astype(int).tolist(), self.crop, mirrored)
        except (ValueError, OverflowError) as error:
            problem = error if isinstance(error, JaffeError) else f"{path}: {error}"
            raise JaffeError(f"{self.path}: {problem}") from None
        return {"data": data, "label": np.array(window[1], np.int32)}


def cut_window(image: np.ndarray, corners: list[int], crop: Crop, mirrored: bool = False) -> np.ndarray:
    """A window warped to ``crop.size`` squared, less the mean, scaled; float32. What is outside of the image is 0.

    Args:
        image: (C, H, W), uint8.
        corners: x1, y1, x2, y2, the last ones included.

    Raises:
        ValueError: the window is not inside of the image.
    """
    import cv2

    x1, y1, x2, y2 = corners
    rows, columns = image.shape[1:]
    width = height = crop.size
    left = top = 0
    if crop.context or crop.square:
        (x1, x2), (y1, y2) = _expanded((x1, x2), (y1, y2), crop)
        x1, x2, width, before, after = _clipped(x1, x2, columns, crop.size)
        y1, y2, height, top, _ = _clipped(y1, y2, rows, crop.size)
        left = after if mirrored else before
        width, height = min(width, crop.size - left), min(height, crop.size - top)
    if not (0 <= x1 <= x2 < columns and 0 <= y1 <= y2 < rows) or width < 1 or height < 1:
        raise ValueError(f"the window {corners} is not inside of the image of {columns} x {rows}")
    part = np.ascontiguousarray(image[:, y1 : y2 + 1, x1 : x2 + 1].transpose(1, 2, 0))
    pixels = channels_first(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)).astype(np.float32)
    if mirrored:
        pixels = pixels[:, :, ::-1]
    result = np.zeros((len(image), crop.size, crop.size), np.float32)
    at = (slice(None), slice(top, top + height), slice(left, left + width))
    result[at] = (pixels - _mean_at(crop, at)) * np.float32(crop.scale)
    return result


def _expanded(x: tuple[int, int], y: tuple[int, int], crop: Crop) -> list[tuple[int, int]]:
    """The window so much larger that, warped, it has ``context`` pixels around the original one."""
    scale = np.float32(crop.size) / np.float32(crop.size - 2 * crop.context)
    halves = [np.float32(high - low + 1) / np.float32(2) for low, high in (x, y)]
    centres = [np.float32(low) + half for (low, _), half in zip((x, y), halves, strict=True)]
    if crop.square:
        halves = [max(halves)] * 2
    return [(_rounded(centre - half * scale), _rounded(centre + half * scale))
            for centre, half in zip(centres, halves, strict=True)]


def _clipped(low: int, high: int, size: int, target: int) -> tuple[int, int, int, int, int]:
    """The part inside of the image, its size when warped, and the warped sizes of what is outside on either side."""
    before, after = max(0, -low), max(0, high - size + 1)
    scale = np.float32(target) / np.float32(high - low + 1)
    low, high = low + before, high - after
    inside = _rounded(np.float32(high - low + 1) * scale)
    return low, high, inside, _rounded(before * scale), _rounded(after * scale)


def _rounded(x: Any) -> int:
    """C's ``round``: halves go away from zero."""
    return int(math.copysign(math.floor(abs(float(x)) + 0.5), float(x)))


def _mean_at(crop: Crop, at: tuple[slice, ...]) -> Any:
    if crop.mean is None:
        return np.float32(0)
    if crop.mean.shape[1:] == (1, 1):
        return crop.mean
    off = (crop.mean.shape[2] - crop.size) // 2  # of the width, for both axes
    rows, columns = (slice(part.start + off, part.stop + off) for part in at[1:])
    return crop.mean[:, rows, columns]


def _read_windows(path: Path, root: str) -> tuple[list[str], np.ndarray]:
    """The images, and a row ``image, class, overlap, x1, y1, x2, y2`` for each window."""
    words = decode(read_regular(path), path).split()
    at = 0
    images: list[str] = []
    rows: list[list[float]] = []

    def take(count: int) -> list[str]:
        nonlocal at
        if at + count > len(words):
            raise ValueError("it ends within an image's windows")
        at += count
        return words[at - count : at]

    try:
        while at < len(words):
            mark, _, name = take(3)
            if mark != "#":
                raise ValueError(f"expected '#' before image {len(images)}; found {mark!r}")
            _, _, _, count = (int(word) for word in take(4))
            for _ in range(count):
                window = take(6)
                corners = [int(word) for word in window[2:]]
                if not -(2**31) <= (label := int(window[0])) < 2**31:
                    raise ValueError(f"class {label} has more than 32 bits")
                rows.append([len(images), label, float(window[1]), *corners])
            images.append(name)
    except ValueError as error:
        raise JaffeError(f"{path} is not a window file: {error}") from None
    if not rows:
        raise JaffeError(f"{path} has no windows")
    return paths_of(images, path, root), np.array(rows, np.float64)


def crop_of(param: Any, transform: Any, mean: np.ndarray | None) -> Crop:
    """The settings of a WindowData layer: the size, mirror and mean of ``transform_param``, all else its own.

    Raises:
        ValueError: there is no ``crop_size``, or ``context_pad`` leaves nothing of it, or ``crop_mode`` is unknown.
    """
    size = transform.crop_size
    if not size:
        raise ValueError("expected transform_param.crop_size; found none")
    if 2 * param.context_pad >= size:
        raise ValueError(f"context_pad {param.context_pad} leaves nothing of crop_size {size}")
    if param.crop_mode not in ("warp", "square"):
        raise ValueError(f"crop_mode is 'warp' or 'square'; found {param.crop_mode!r}")
    if mean is not None and mean.shape[1:] != (1, 1) and (
            mean.shape[2] < size or mean.shape[1] < (mean.shape[2] - size) // 2 + size):
        raise ValueError(f"mean_file of {mean.shape[1:]} is smaller than crop_size {size}")
    return Crop(size, param.context_pad, param.crop_mode == "square", transform.mirror, param.scale, mean)
