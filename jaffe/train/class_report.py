"""What a net confuses: a confusion matrix with recall and precision of each class, as text, JSON, CSV or a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.atomic import write_file
from jaffe.netdef.errors import JaffeError

SUFFIXES = (".json", ".csv", ".png", ".svg", ".pdf")
# Up to so many classes are printed and drawn number by number; of more, the worst ones and the most frequent mistakes.
MOST_SHOWN = 25
WORST = 15
MOST_COLUMNS = 110


@dataclass(frozen=True)
class ClassReport:
    """Which classes were taken for which. Prints as text; ``save`` writes it.

    Attributes:
        scores, labels: blobs that were compared.
        layer: that which reads them, ``""`` when no layer does.
        confusion: (K, K) int64: rows are labels, columns what they were taken for.
        hits: for each k, how many labels were among the k classes of highest score; ties count against.
        counted: labels in all, but those that the net ignores.
        outside: how many of those were no class 0..K-1: they are in no row, and count as wrong.
        nan: how many of those had a NaN among their scores.
        spatial: whether each place of an image has a label: intersection over union is shown then.
        outputs: means of the net's outputs, as ``Evaluation.run`` returns them.

    ``recall``, ``precision`` and ``iou`` (K) are NaN for a class without labels, that nothing was taken for, or with
    neither; their means are over the other classes.
    """

    scores: str
    labels: str
    layer: str
    confusion: np.ndarray
    hits: Mapping[int, int]
    counted: int
    outside: int
    nan: int
    spatial: bool
    outputs: Mapping[str, float | list[float]] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.confusion)

    @property
    def top_k(self) -> dict[int, float]:
        """Share of the labels that were among the k classes of highest score: what Accuracy puts out."""
        return {k: hits / self.counted if self.counted else 0.0 for k, hits in self.hits.items()}

    @cached_property
    def of_class(self) -> np.ndarray:
        """Labels of each class, (K)."""
        return self.confusion.sum(1)

    @cached_property
    def recall(self) -> np.ndarray:
        """Share of a class's labels that were taken for it, (K)."""
        return _ratio(np.diag(self.confusion), self.of_class)

    @cached_property
    def precision(self) -> np.ndarray:
        """Share of what was taken for a class that was of it, (K)."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(0))

    @cached_property
    def iou(self) -> np.ndarray:
        """Intersection over union: right / (labels of the class + taken for it - right), (K)."""
        right = np.diag(self.confusion)
        return _ratio(right, self.of_class + self.confusion.sum(0) - right)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes as (class, taken for, how often), most frequent first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        found = ((int(i), int(j), int(wrong[i, j])) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True))
        return [one for one in found if one[2]]

    def __str__(self) -> str:
        lines = [*self._head(), ""]
        if self.classes <= MOST_SHOWN:
            lines += [*self._matrix(), "", *self._table(range(self.classes))]
        else:
            there = np.flatnonzero(self.of_class)
            worst = there[np.argsort(self.recall[there], kind="stable")][:WORST]
            lines += [f"classes of least recall, {len(worst)} of {self.classes}", *self._table(worst), "",
                      "most frequent mistakes", *self._mistakes()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain Python, which JSON can hold: NaN is ``None``."""
        rows = zip(self.of_class, self.recall, self.precision, self.iou, strict=True)
        return {
            "scores": self.scores, "labels": self.labels, "layer": self.layer, "classes": self.classes,
            "counted": self.counted, "outside": self.outside, "nan": self.nan,
            "top_k": {str(k): {"accuracy": self.top_k[k], "hits": hits} for k, hits in self.hits.items()},
            "mean_recall": _number(_mean(self.recall)),
            **({"mean_iou": _number(_mean(self.iou))} if self.spatial else {}),
            "outputs": {name: [*map(_number, value)] if isinstance(value, list) else _number(value)
                        for name, value in self.outputs.items()},
            "of_class": [
                {"class": i, "labels": int(labels), "recall": _number(recall), "precision": _number(precision),
                 "iou": _number(iou)}
                for i, (labels, recall, precision, iou) in enumerate(rows)
            ],
            "confusion": self.confusion.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it: all of it as ``.json``; the matrix as ``.csv``, or as a picture: ``.png``, ``.svg`` or ``.pdf``.

        Raises:
            JaffeError: the suffix is another, or the file cannot be written; what was there stays.
        """
        check_suffix(path)
        path = Path(path)
        if path.suffix == ".json":
            write_file(path, json.dumps(self.to_dict(), allow_nan=False) + "\n")
        elif path.suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["label", *range(self.classes)])
            writer.writerows([i, *row] for i, row in enumerate(self.confusion.tolist()))
            write_file(path, text.getvalue())
        else:
            picture = io.BytesIO()
            self.draw().savefig(picture, format=path.suffix[1:], dpi=150)
            write_file(path, picture.getvalue())

    def draw(self) -> Any:
        """The matrix as a matplotlib figure: colours are shares of a row, numbers are counts."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure

        few = self.classes <= MOST_SHOWN
        size = max(6.0, self.classes / 100)
        figure = Figure(figsize=(size * 1.15, size), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        share = np.divide(self.confusion, self.of_class[:, None], out=np.full(self.confusion.shape, np.nan),
                          where=self.of_class[:, None] != 0)
        # A root, so that rare mistakes are seen; rows without labels stay grey.
        image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
        axes.set_facecolor("lightgrey")
        figure.colorbar(image, label="share of the class", shrink=0.8)
        axes.set_xlabel("taken for")
        axes.set_ylabel("label")
        top = f", top-1 {self.top_k[1]:.2%}" if 1 in self.hits else ""
        axes.set_title(f"{self.scores}: {self.counted:,} labels{top}")
        if few:
            axes.set_xticks(range(self.classes))
            axes.set_yticks(range(self.classes))
            for (i, j), number in np.ndenumerate(self.confusion):
                if number:
                    axes.text(j, i, _short(int(number)), ha="center", va="center",
                              fontsize=min(10, 70 / self.classes + 3),
                              color="white" if share[i, j] > 0.4 else "black")
        return figure

    def _head(self) -> list[str]:
        where = f" (layer {self.layer!r})" if self.layer else ""
        lines = [f"{self.scores} against {self.labels}{where}: {self.counted:,} labels, {self.classes} classes"]
        lines += [f"top-{k:<3}{self.top_k[k]:>9.2%}  {hits:,} right" for k, hits in self.hits.items()]
        if self.spatial:
            lines.append(f"mean IoU {_percent(_mean(self.iou)):>6}  mean recall {_percent(_mean(self.recall))}")
        if self.outside:
            lines.append(f"{self.outside:,} labels are no class 0 to {self.classes - 1}: wrong, and in no row "
                         "(ignore_label leaves such out)")
        if self.nan:
            lines.append(f"{self.nan:,} labels have a NaN among their scores")
        return lines

    def _matrix(self) -> list[str]:
        """Rows are labels. Numbers are rounded where the lines would be too long."""
        rows = [[str(number or ".") for number in row] for row in self.confusion.tolist()]
        if _width(rows) * self.classes > MOST_COLUMNS:
            rows = [[_short(number) if number else "." for number in row] for row in self.confusion.tolist()]
        width = max(_width(rows), len(str(self.classes - 1))) + 1
        left = len("label")
        lines = ["label | taken for", " " * left + " |" + "".join(f"{i:>{width}}" for i in range(self.classes)),
                 "-" * left + "-+" + "-" * (width * self.classes)]
        return lines + [f"{i:>{left}} |" + "".join(f"{text:>{width}}" for text in row) for i, row in enumerate(rows)]

    def _table(self, shown: Any) -> list[str]:
        """A row for each of these classes."""
        lines = ["class    labels    recall  precision" + ("       IoU" if self.spatial else "")
                 + "  most often taken for"]
        for i in map(int, shown):
            others = self.confusion[i].copy()
            others[i] = 0
            worst = int(others.argmax())
            lines.append(f"{i:>5}{self.of_class[i]:>10,}{_percent(self.recall[i]):>10}"
                         f"{_percent(self.precision[i]):>11}"
                         + (f"{_percent(self.iou[i]):>10}" if self.spatial else "")
                         + (f"  {worst} ({others[worst]:,})" if others[worst] else ""))
        return lines

    def _mistakes(self) -> list[str]:
        lines = ["class  taken for     times  of the class"]
        for i, j, times in self.confusions(WORST):
            lines.append(f"{i:>5}{j:>11}{times:>10,}{times / self.of_class[i]:>14.2%}")
        return lines


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raises JaffeError when ``ClassReport.save`` does not write such files."""
    if Path(path).suffix not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise JaffeError(f"{os.fspath(path)}: expected a name that ends in {known}")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole != 0)


def _mean(values: np.ndarray) -> float:
    """Of those that are not NaN; NaN when all are."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _width(rows: list[list[str]]) -> int:
    return max(len(text) for row in rows for text in row)


def _short(number: int) -> str:
    """Of at most five characters: ``9999``, ``10k``, ``1.2M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= max(size, 10**4):
            return f"{number / size:.1f}{unit}" if number < 10 * size else f"{number / size:.0f}{unit}"
    return str(number)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"
