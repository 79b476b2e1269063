"""How jaffe's training step grows with the batch and with the size of images; draws docs/growth.svg.

    python -m benchmarks.growth [--seconds 3] [--most-batch 256] [--most-size 320] [--output docs/growth.svg]

Each point is a process of its own: the median step. The dotted lines are what linear growth from a net's first point
would be: in the batch, and in the image's area.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks.job import Task
from benchmarks.nets import NETS
from benchmarks.process import ROOT, run

# ResNet-18 at its most takes as long as the others at theirs.
BATCHES = {
    "lenet": (1, 2, 4, 8, 16, 32, 64, 128, 256), "cifar10_full": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "resnet18": (1, 2, 4, 8, 16, 32),
}
# Of each net the batch, and heights (and widths) of its images. Nets of which nearly all is convolutions: an inner
# product's weights grow with the image too.
SIZES = {
    "cifar10_full": (8, (32, 48, 64, 96, 128, 192, 256)),
    "squeezenet1_1": (4, (64, 96, 128, 160, 192, 224, 288, 320)),
    "resnet18": (4, (64, 96, 128, 160, 192, 224, 288, 320)),
}

Curve = Mapping[int, float]  # milliseconds a step at each batch or size


def step_ms(net: str, batch: int, size: int | None, seconds: float) -> float:
    """Median of a training step."""
    task = Task("jaffe", "", net, "train", batch, size=size)
    with tempfile.TemporaryDirectory() as cache:
        found = run(task, cache, f"--seconds={seconds}")["step_ms"]
    print(f"{NETS[net].title}, batch {batch}, {size or NETS[net].shape[-1]} pixels: {found:.2f} ms", flush=True)
    return found


def draw(axes: Axes, curves: Mapping[str, Curve], power: int, label: str, title: str) -> None:
    """Curves by name, and what growth with this power of x from their first points would be."""
    for name, curve in curves.items():
        first = min(curve)
        (line,) = axes.plot(list(curve), list(curve.values()), "o-", label=name)
        axes.plot(list(curve), [curve[first] * (x / first) ** power for x in curve], ":", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="ms a step", title=title)
    ticks: list[int] = []
    for x in sorted({x for curve in curves.values() for x in curve}):
        if not ticks or x >= 1.3 * ticks[-1]:  # else they would overlap
            ticks.append(x)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()


def picture(by_batch: Mapping[str, Curve], by_size: Mapping[str, Curve], output: Path) -> None:
    """Both plots, side by side."""
    plt.rcParams["svg.hashsalt"] = "jaffe"  # the same picture of the same numbers
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    draw(left, by_batch, 1, "batch", "Training step by batch; dotted: linear")
    draw(right, by_size, 2, "height and width of images", "Training step by image; dotted: linear in its area")
    figure.savefig(output, metadata={"Date": None})


def steepest(curve: Curve, power: int) -> float:
    """Most that a step grew from one point to the next, as a part of linear growth."""
    return max(b / a / (y / x) ** power for (x, a), (y, b) in itertools.pairwise(curve.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of stepping, for each point")
    parser.add_argument("--most-batch", type=int, default=256)
    parser.add_argument("--most-size", type=int, default=320)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "growth.svg")
    options = parser.parse_args()
    by_batch = {
        NETS[net].title: {
            batch: step_ms(net, batch, None, options.seconds) for batch in batches if batch <= options.most_batch
        }
        for net, batches in BATCHES.items()
    }
    by_size = {
        f"{NETS[net].title}, batch {min(batch, options.most_batch)}": {
            size: step_ms(net, min(batch, options.most_batch), size, options.seconds)
            for size in sizes if size <= options.most_size
        }
        for net, (batch, sizes) in SIZES.items() if sizes[0] <= options.most_size
    }
    picture(by_batch, by_size, options.output)
    for what, curves, power in (("batch", by_batch, 1), ("area", by_size, 2)):
        for name, curve in curves.items():
            if len(curve) > 1:
                print(f"{name}: from one {what} to the next at most {steepest(curve, power):.2f} times linear")


if __name__ == "__main__":
    main()
