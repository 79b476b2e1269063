"""How far two arrays are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaffe.compile.layer import Shape


@dataclass(frozen=True)
class Difference:
    """The largest difference between a blob and its reference.

    Attributes:
        error: largest absolute difference; infinite for unequal shapes, and where one of two values is NaN.
        scale: largest finite absolute value of the reference; 1 when that is 0.
        where: index of the largest difference; ``None`` for equal arrays and unequal shapes.
        found, expected: the two values there.
        shapes: both shapes, found first, when they are not the same; else ``None``.
    """

    error: float
    scale: float
    where: tuple[int, ...] | None = None
    found: float = 0.0
    expected: float = 0.0
    shapes: tuple[Shape, Shape] | None = None

    @property
    def relative(self) -> float:
        """The error as a part of the scale."""
        return self.error / self.scale

    def within(self, tolerance: float) -> bool:
        """Whether the error is at most ``tolerance`` times the scale."""
        return self.relative <= tolerance

    def __str__(self) -> str:
        if self.shapes:
            return f"shape {self.shapes[0]}; the reference has {self.shapes[1]}"
        if self.where is None:
            return "no difference"
        return (f"max error {self.error:.3g}, {self.relative:.2g} of the blob's scale {self.scale:.3g}, "
                f"at {self.where}: {self.found:.6g}; the reference has {self.expected:.6g}")


def measure(found: Any, expected: Any) -> Difference:
    """Compare an array with its reference, in float64. Two NaN, or two equal infinities, do not differ."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max(initial=0.0)) or 1.0
    if found.shape != expected.shape:
        return Difference(float("inf"), scale, shapes=(found.shape, expected.shape))
    if not found.size:
        return Difference(0.0, scale)
    with np.errstate(invalid="ignore"):
        gap = np.abs(found - expected)
    gap = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0, gap)
    gap = np.where(np.isnan(gap), np.inf, gap)
    where = tuple(map(int, np.unravel_index(gap.argmax(), gap.shape)))
    if gap[where] == 0:
        return Difference(0.0, scale)
    return Difference(float(gap[where]), scale, where, float(found[where]), float(expected[where]))


def detections(array: Any) -> np.ndarray:
    """The rows of a DetectionOutput that hold a detection: others are left out, -1 (jaffe, SSD) or 0 (OpenCV)."""
    rows = np.asarray(array)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[(rows[:, 0] >= 0) & rows.any(1)]


def fit(array: np.ndarray, shape: Shape) -> np.ndarray:
    """The array in the given shape, when the two differ by axes of size one only; else as it is."""
    squeezed = [size for size in array.shape if size != 1]
    return array.reshape(shape) if squeezed == [size for size in shape if size != 1] else array
