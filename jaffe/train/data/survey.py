"""What is in a data set: ``jaffe data inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaffe.netdef.errors import JaffeError, listed
from jaffe.train.data.balance import labels_of
from jaffe.train.data.convert import Advance, silent
from jaffe.train.data.dataset import Dataset

SHEET = 64  # images of a contact sheet


@dataclass
class FieldSurvey:
    """One field of the records that were read: types and shapes with their numbers, and the range of values."""

    kinds: Counter[tuple[str, tuple[int, ...]]] = field(default_factory=Counter)
    least: float = np.inf
    largest: float = -np.inf
    total: float = 0.0
    count: int = 0

    def add(self, value: np.ndarray) -> None:
        self.kinds[str(value.dtype), value.shape] += 1
        if value.dtype.kind in "biuf" and value.size:
            self.least = min(self.least, float(value.min()))
            self.largest = max(self.largest, float(value.max()))
            self.total += float(value.sum(dtype=np.float64))
            self.count += value.size

    def describe(self) -> str:
        """``uint8 (3, 64, 80); 0 to 255, mean 112.4``."""
        parts = [f"{dtype} {shape}" for (dtype, shape), _ in self.kinds.most_common()]
        text = listed(parts, 3)
        if self.count:
            text += f"; {self.least:g} to {self.largest:g}, mean {self.total / self.count:.5g}"
        return text


@dataclass(frozen=True)
class Survey:
    """What is in a data set.

    Attributes:
        records: how many there are.
        read: how many of them were read, evenly spread.
        fields: of these, by name.
        labels: how many records each class has, where each record has one whole number as ``label``.
        classes: their names, where they are known.
        damaged: what is said of records that cannot be read.
    """

    name: str
    records: int
    read: int
    fields: dict[str, FieldSurvey]
    labels: dict[int, int]
    classes: Sequence[str]
    damaged: tuple[str, ...]

    def __str__(self) -> str:
        some = f", {self.read:,} of them read" if self.read < self.records else ""
        lines = [f"{self.name}: {self.records:,} records{some}"]
        lines += [f"  {name}: {found.describe()}" for name, found in self.fields.items()]
        if self.labels:
            lines.append(f"labels: {len(self.labels)} classes, from {min(self.labels.values()):,} to "
                         f"{max(self.labels.values()):,} records each")
            most = max(self.labels.values())
            for label, count in list(self.labels.items())[:100]:
                name = f" {self.classes[label]}" if 0 <= label < len(self.classes) else ""
                lines.append(f"  {label:>6}{name} {count:>8,} {'#' * max(1, round(40 * count / most))}")
            if len(self.labels) > 100:
                lines.append(f"  and {len(self.labels) - 100} more")
        if self.damaged:
            lines.append(f"damaged: {len(self.damaged)} of the {self.read:,} records read")
            lines += [f"  {message}" for message in self.damaged[:20]]
            if len(self.damaged) > 20:
                lines.append(f"  and {len(self.damaged) - 20} more")
        return "\n".join(lines)


def survey(dataset: Dataset, *, most: int | None = 1000, advance: Advance = silent) -> Survey:
    """Look through a data set.

    Args:
        most: records to read, evenly spread; ``None``: all.
        advance: told how many records more were read.

    Raises:
        JaffeError: there are no records.
    """
    count = len(dataset.records)
    if not count:
        raise JaffeError(f"{dataset.name} is empty")
    indices = np.arange(count) if most is None or most >= count else np.linspace(0, count - 1, most).astype(int)
    fields: dict[str, FieldSurvey] = {}
    damaged = []
    for index in indices.tolist():
        try:
            for name, value in dataset.record(index).items():
                fields.setdefault(name, FieldSurvey()).add(value)
        except JaffeError as error:
            damaged.append(str(error))
        advance(1)
    labels: dict[int, int] = {}
    with suppress(JaffeError):  # no label, or several, or none that are whole numbers
        if "label" in fields and not (damaged and not hasattr(dataset.records, "column")):
            names, counts = np.unique(labels_of(dataset), return_counts=True)
            labels = {int(name): int(number) for name, number in zip(names, counts, strict=True)}
    classes = getattr(dataset.records, "classes", ())
    return Survey(dataset.name, count, len(indices), fields, labels, classes, tuple(damaged))


def contact_sheet(dataset: Dataset, path: Path) -> int:
    """Draw up to 64 images, evenly spread, with their labels, as a .png, .svg or .pdf.

    Channels are shown as ``dataset.order`` says; floats from the least to the largest value of each image.

    Returns:
        How many images there are on it.

    Raises:
        JaffeError: no field holds images, or none of them can be drawn; or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaffe.netdef.atomic import replacing

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise JaffeError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    first = dataset.fields(skip_damaged=True)
    images = [name for name, value in first.items() if _is_image(value) and (value.ndim == 3 or name == "data")]
    if not images:
        raise JaffeError(f"{dataset.name} has no images (C, H, W) of numbers: "
                         + ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in first.items()))
    name = images[0]
    shown = []
    for index in np.unique(np.linspace(0, len(dataset.records) - 1, SHEET).astype(int)).tolist():
        with suppress(JaffeError):
            record = dataset.record(index)
            if _is_image(record.get(name)):
                shown.append((index, _visible(record[name], dataset.order), record.get("label")))
    if not shown:
        raise JaffeError(f"{dataset.name}: expected images in {name}; found none in the {SHEET} records that were read")
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (index, pixels, label) in zip(axes, shown, strict=False):
        axis.imshow(pixels, cmap="gray", interpolation="nearest")
        value = "" if label is None else f": {label}" if np.size(label) <= 4 else ": ..."
        axis.set_title(ascii(f"{index}{value}")[1:-1], fontsize=7, pad=2, parse_math=False)
    with replacing(path) as new:
        figure.savefig(new, format=path.suffix[1:], dpi=110)
    return len(shown)


def _is_image(value: np.ndarray | None) -> bool:
    return value is not None and value.ndim in (2, 3) and value.size > 0 and value.dtype.kind in "biuf"


def _visible(pixels: np.ndarray, order: str) -> np.ndarray:
    """An image as matplotlib takes it: (H, W), or (H, W, RGB), from 0 to 1."""
    if pixels.ndim == 2:
        pixels = pixels[None]
    color = len(pixels) == 3
    if color and order == "BGR":
        pixels = pixels[::-1]
    pixels = pixels.transpose(1, 2, 0) if color else pixels[0]
    if pixels.dtype == np.uint8 and pixels.max(initial=0) > 31:
        return pixels / 255
    values = pixels.astype(np.float64)  # differences of small integers would go round
    finite = values[np.isfinite(values)]
    least, largest = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    with np.errstate(all="ignore"):
        return np.clip(np.nan_to_num((values - least) / (largest - least or 1)), 0, 1)
