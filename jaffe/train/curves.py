"""The curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_curves(rows: Sequence[dict[str, Any]], path: Path, title: str = "") -> Path:
    """Training and test loss, and test accuracy, against the iteration.

    Args:
        rows: as ``Metrics`` keeps them.
        path: PNG, SVG or PDF, by suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    training = [row for row in rows if "test" not in row and row.get("loss") is not None]
    axes.plot([row["iteration"] for row in training], [row["loss"] for row in training], label="training loss",
              color="tab:blue", linewidth=1)
    tests = [row for row in rows if row.get("test") == 0]
    handles = []
    for name, colour in (("loss", "tab:cyan"), ("accuracy", "tab:green")):
        points = [(row["iteration"], row[name]) for row in tests if row.get(name) is not None]
        if not points:
            continue
        target = axes
        if name == "accuracy":
            target = axes.twinx()
            target.set_ylabel("accuracy")
            target.set_ylim(0, 1)
        handles += target.plot(*zip(*points, strict=True), label=f"test {name}", color=colour, marker="o", markersize=3)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(handles=[*axes.get_lines()[:1], *handles], loc="center right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
