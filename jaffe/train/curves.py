"""The curves of runs as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.train.report import ROW_KEYS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORMATS = ("png", "svg", "pdf")
LARGEST = 1e100
MOST_LISTED = 40  # quantities in a message
AXES = {"iteration": "iteration", "seconds": "elapsed"}  # what x may be, and its key in a row
_NOT_VALUES = (*ROW_KEYS, "outputs")
_MARKERS = "osD^vP*X"  # of test nets 0, 1, ...

Row = Mapping[str, Any]


def draw_curves(rows: Sequence[Row], path: Path, title: str = "") -> Path:
    """The curves of one run: losses and, if it was measured, accuracy. See ``plot_runs``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return plot_runs({title: rows}, path)


def plot_runs(
    runs: Mapping[str, Sequence[Row]], path: Path, *, x: str = "iteration", y: Sequence[str] = (),
) -> Path:
    """Draw what runs measured, a panel for each quantity and a colour for each run.

    Training is a thin line, tests are markers; what is NaN leaves a gap.

    Args:
        runs: rows as ``Metrics`` keeps them, by the run's label. The label of a single run is the title.
        path: PNG, SVG or PDF, by suffix; what is there is replaced.
        x: ``"iteration"`` or ``"seconds"``.
        y: quantities: ``loss`` (of training, smoothed; of tests, the total where there is one, or the output of that
            name), ``lr``, ``images_per_second``, or an output of a net; ``name[k]`` of one that has several numbers.
            Default: the loss, and the accuracy: the output of that name, or the last that has "accuracy" or "top" in
            its name.

    Raises:
        JaffeError: the suffix, x or y is not known; or the file cannot be written.
    """
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise JaffeError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    figure = figure_of(runs, x, y)
    with replacing(path) as new:
        figure.savefig(new, format=kind, dpi=120)
    return path


def figure_of(runs: Mapping[str, Sequence[Row]], x: str = "iteration", y: Sequence[str] = ()) -> Figure:
    """The figure of ``plot_runs``, drawn but not written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if x not in AXES:
        raise JaffeError(f"x is {' or '.join(AXES)}; found {x!r}{suggest(x, AXES)}")
    every = [row for rows in runs.values() for row in rows]
    if every and all(row.get(AXES[x]) is None for row in every):
        raise JaffeError(f"no run says its {x}; expected the times of Caffe's log lines")
    names = list(dict.fromkeys(y)) or _usual(every)
    if y:
        _check_known(names, every)
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    colours = _colours(len(runs))
    kinds: dict[int, str] = {}  # test net, or -1 for training, and how it is called
    for axes, name in zip(panels, names, strict=True):
        for number, rows in enumerate(runs.values()):
            for test, points in sorted(_series(rows, AXES[x], name).items()):
                kinds[test] = "training" if test < 0 else f"test {test}" if test else "test"
                colour = colours[number] if len(runs) > 1 else f"C{test + 1}"
                axes.plot(*zip(*points, strict=True), color=colour, **_style(test))
        axes.set_ylabel(_plain(name))
        axes.grid(alpha=0.3)
        if name == "loss" and axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=0)
    panels[-1].set_xlabel(x)
    figure.align_ylabels(panels)
    entries = []
    if len(runs) > 1:
        entries = [(Line2D([], [], color=colour, linewidth=3), label)
                   for colour, label in zip(colours, runs, strict=True)]
    elif runs:
        figure.suptitle(_plain(_short(next(iter(runs)))))
    for test, label in sorted(kinds.items()):
        colour = "black" if len(runs) > 1 else f"C{test + 1}"
        entries.append((Line2D([], [], color=colour, **_style(test)), label))
    figure.set_size_inches(8, 1 + 2.6 * len(names) + 0.22 * _legend(figure, entries))
    return figure


def _legend(figure: Figure, entries: Sequence[tuple[Line2D, str]]) -> int:
    """Put a legend below the panels, where it hides no curve; how many lines it takes."""
    if not entries:
        return 0
    labels = [_short(label) for _, label in entries]
    columns = max(1, min(len(labels), 90 // (max(map(len, labels)) + 6)))
    figure.legend([line for line, _ in entries], [_plain(label) for label in labels], loc="outside lower center",
                  ncols=columns, frameon=False)
    return math.ceil(len(labels) / columns)


def _series(rows: Sequence[Row], x: str, name: str) -> dict[int, list[tuple[float, float]]]:
    """The points of a quantity, by test net; -1 is training."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        values = dict(_values(row))
        if name in values and row.get(x) is not None:
            found.setdefault(row.get("test", -1), []).append((_number(row[x]), _number(values[name])))
    return found


def _values(row: Row) -> Iterator[tuple[str, float | None]]:
    """Every quantity of a row, one number each. The loss of a row is told last: it hides an output of that name."""
    values = {**row.get("outputs", {}), **{name: value for name, value in row.items() if name not in _NOT_VALUES}}
    for name, value in values.items():
        if isinstance(value, list):
            yield from ((f"{name}[{k}]", one) for k, one in enumerate(value))
        else:
            yield name, value
    if "total loss" in values:
        yield "loss", values["total loss"]


def _number(value: float | None) -> float:
    """NaN, which is not drawn, for what is no number or too large for an axis."""
    return float(value) if value is not None and abs(value) < LARGEST else math.nan


def _usual(rows: Sequence[Row]) -> list[str]:
    measured = list(dict.fromkeys(name for row in rows if "test" in row for name, _ in _values(row)))
    near = [name for name in measured if "accuracy" in name.lower() or "top" in name.lower()]
    return ["loss", *(["accuracy"] if "accuracy" in near else near[-1:])]


def _check_known(names: Sequence[str], rows: Sequence[Row]) -> None:
    known = list(dict.fromkeys(name for row in rows for name, _ in _values(row)))
    for name in names:
        if name not in known:
            listed = ", ".join(known[:MOST_LISTED]) + (", ..." if len(known) > MOST_LISTED else "")
            raise JaffeError(f"no run has {name!r} (there is: {listed or 'nothing'}){suggest(name, known)}")


def _style(test: int) -> dict[str, Any]:
    if test < 0:
        return {"linewidth": 1}
    return {"linewidth": 0.6, "linestyle": "--", "marker": _MARKERS[test % len(_MARKERS)], "markersize": 4}


def _colours(count: int) -> list[Any]:
    """As many colours as runs: those that are told apart best, while they last."""
    from matplotlib import colormaps

    return [f"C{i}" for i in range(count)] if count <= 10 else list(colormaps["turbo"].resampled(count)(range(count)))


def _plain(text: str) -> str:
    """Text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")


def _short(text: str) -> str:
    """The end of a text, where paths differ, as long as fits below the picture."""
    return text if len(text) <= 80 else f"...{text[-77:]}"
