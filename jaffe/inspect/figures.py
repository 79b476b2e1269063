"""Pictures: matplotlib Figures, which notebooks show and ``figure.savefig(path)`` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaffe.netdef.errors import JaffeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(pictures: Any, *, columns: int | None = None, colours: str = "gray", inches: float = 3.0) -> Figure:
    """Pictures side by side, with their titles.

    Args:
        pictures: by title; or one. Each is (H, W) or (H, W, 3); grey ones are on a scale of their own, colours are in
            [0, 1], or [0, 255] where one is above 1.
        columns: pictures in a row; by default up to four.
        colours: matplotlib's colour map for grey ones.
        inches: width and height of each.
    """
    named = pictures if isinstance(pictures, Mapping) else {"": pictures}
    columns = columns or min(len(named), 4)
    made, axes = _axes(len(named), columns, inches)
    for axis, (title, picture) in zip(axes, named.items(), strict=False):
        axis.imshow(_shown(picture), cmap=colours, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    return made


def overlay(image: Any, heat: Any, *, strength: float = 0.6, colours: str = "inferno") -> np.ndarray:
    """An image with a map over it, as colours: what is low stays dark.

    Args:
        image: (H, W) or (H, W, 3), as for ``figure``.
        heat: (h, w), of any size: it is stretched over the image; its least value is 0, its greatest 1.
        strength: share of the map; the rest is the image in grey.

    Returns:
        (H, W, 3) in [0, 1].

    Raises:
        JaffeError: the arrays have other axes.
    """
    import cv2
    from matplotlib import colormaps

    base, values = _shown(image), np.asarray(heat, np.float32)
    if values.ndim != 2:
        raise JaffeError(f"expected a map (h, w); received shape {values.shape}")
    grey = base.mean(2) if base.ndim == 3 else (base - base.min()) / (np.ptp(base) or 1)
    stretched = cv2.resize(values, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    stretched = (stretched - stretched.min()) / (np.ptp(stretched) or 1)
    return (1 - strength) * grey[..., None] + strength * colormaps[colours](stretched)[..., :3]


def scatter(
    points: Any, labels: Sequence[int] | None = None, *, names: Sequence[str] | None = None, inches: float = 5.0
) -> Figure:
    """Points of the plane, as ``embed`` gives them, coloured by their labels.

    Args:
        points: (items, 2).
        labels: a class for each. Classes 0 to 9 have the same colours in every picture.
        names: of the classes, for the legend.

    Raises:
        JaffeError: the points have other axes, or there is not a label for each.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise JaffeError(f"expected points (items, 2); received shape {points.shape}")
    made, (axis, *_) = _axes(1, 1, inches)
    own = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    if own.shape != (len(points),):
        raise JaffeError(f"expected a label for each of {len(points)} points; received shape {own.shape}")
    if np.issubdtype(own.dtype, np.floating) and (own == np.trunc(own)).all():
        own = own.astype(np.int64)
    classes = np.unique(own)
    few = np.issubdtype(own.dtype, np.integer) and all(0 <= class_ < 10 for class_ in classes)
    for i, class_ in enumerate(classes):
        name = str(class_) if names is None else names[class_]
        colour = _colour(int(class_), 10) if few else _colour(i, len(classes))
        axis.scatter(*points[own == class_].T, s=8, color=colour, label=name)
    if labels is not None:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return made


def _axes(count: int, columns: int, inches: float) -> tuple[Figure, list[Any]]:
    """A figure without pyplot, which would keep it alive, and its axes without ticks."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    made = Figure(figsize=(columns * inches, rows * inches * 1.08), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.set_axis_off()
    return made, axes


def _shown(picture: Any) -> np.ndarray:
    x = np.asarray(picture, np.float32)
    if x.ndim != 2 and not (x.ndim == 3 and x.shape[2] == 3):
        raise JaffeError(f"expected a picture (H, W) or (H, W, 3); received shape {x.shape}: tile() makes one of many, "
                         "deprocess() of a net's input")
    if x.ndim == 2:
        return x
    return (x / 255 if x.max() > 1.5 else x).clip(0, 1)


def _colour(place: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](place) if count <= 10 else colormaps["gist_rainbow"](place / count)
