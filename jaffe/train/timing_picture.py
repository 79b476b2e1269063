"""The times of a net's layers as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError
from jaffe.train.curves import FORMATS
from jaffe.train.timing import Timing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 40


def draw_timing(layers: Sequence[Timing], whole: Timing, path: Path) -> Path:
    """Draw a bar for each layer, forward and backward: alone, and within the whole program where that is known.

    Of more than 40 layers the 40 that take longest are drawn, and the others together.

    Args:
        path: PNG, SVG or PDF, by suffix; what is there is replaced.

    Raises:
        JaffeError: the suffix is another, or the file cannot be written.
    """
    kind = picture_kind(path)
    figure = timing_figure(layers, whole)
    with replacing(path) as new:
        figure.savefig(new, format=kind, dpi=120)
    return path


def picture_kind(path: Path) -> str:
    """``"png"``, ``"svg"`` or ``"pdf"``. Raises JaffeError when the suffix is another."""
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise JaffeError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    return kind


def timing_figure(layers: Sequence[Timing], whole: Timing) -> Figure:
    """The figure of ``draw_timing``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inside = whole.profile
    alone = {one.name: (one.forward, one.backward or 0.0) for one in layers}
    within = {name: (inside.forward.get(name, 0.0), inside.backward.get(name, 0.0)) for name in alone} if inside else {}
    panels = {"each layer alone": alone, **({"within the whole program": within} if inside else {})}
    longest = sorted(alone, key=lambda name: -sum(within.get(name, alone[name])))[:MOST_BARS]
    rest = [name for name in alone if name not in longest]
    names = [name for name in alone if name in longest]
    figure = Figure(figsize=(5 * len(panels) + 1, 1.4 + 0.24 * (len(names) + 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, times) in zip(axes, panels.items(), strict=True):
        bars = {name: times[name] for name in names}
        if rest:
            bars[f"{len(rest)} others"] = (sum(times[name][0] for name in rest), sum(times[name][1] for name in rest))
        if inside:
            bars["of no layer"] = (0.0, 0.0) if times is alone else (inside.other, 0.0)
        places = range(len(bars))
        forward, backward = zip(*bars.values(), strict=True)
        axis.barh(places, forward, label="forward", color="C0")
        axis.barh(places, backward, left=forward, label="backward", color="C1")
        axis.set_yticks(places, [name.replace("$", r"\$") for name in bars], fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("ms")
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].set_ylim(len(bars) - 0.4, -0.6)  # the first layer above
    axes[-1].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{whole.name} ({whole.type})".replace("$", r"\$"))
    return figure
