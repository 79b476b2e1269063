"""What `jaffe plan` predicts for 1 to 1024 devices, and whether its bytes are those of compiled programs.

    python -m benchmarks.scaling [--skip-programs]

Writes the tables of docs/scaling.md and draws docs/scaling.svg. Predictions need no device. For the comparison a
training step is compiled for 2, 4 and 8 virtual CPU devices, each in a process of its own, and does not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter

from benchmarks.process import ROOT
from benchmarks.table import markdown, number, replaced
from jaffe import CompiledNet, compile_net, zoo
from jaffe.netdef.errors import listed
from jaffe.plan import MACHINES, Machine, Plan, plan

PAGE, PICTURE = ROOT / "docs" / "scaling.md", ROOT / "docs" / "scaling.svg"
DEVICES = tuple(2**i for i in range(11))
COMPILED = (2, 4, 8)
MACHINE = MACHINES["h100"]
STRONG = 512  # items of a batch that all devices share; more, and a blob of VGG-16 were larger than Caffe's limit
# By title: the name in jaffe.zoo, and arguments.
NETS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "CaffeNet": ("caffenet", {"batch": 256}), "VGG-16": ("vgg16", {"batch": 64}),
    "GoogLeNet": ("googlenet", {"batch": 32}), "LSTM, 2000 steps": ("char_lstm", {"steps": 2000, "batch": 32}),
}


def compiled(title: str, batch: int | None = None) -> CompiledNet:
    name, arguments = NETS[title]
    return compile_net(getattr(zoo, name)(**{**arguments, **({"batch": batch} if batch else {})}), phase="TRAIN")


# Predictions.


def divided(made: Plan) -> str:
    """Which layers a plan divides, and how."""
    return listed((f"{name} by {way}" for name, way in made.partition.layers.items()), 4) if made.partition else "none"


def predictions(plans: Mapping[int, Plan], plain: Mapping[int, Plan]) -> str:
    """A table of the plans of one net, against the same net without divided layers."""
    head = ["devices", "mesh", "step, ms", "of it sending", "items/s", "efficiency", "data parallel: step, ms",
            "efficiency", "divided layers"]
    rows = [[devices, f"{one.data} x {one.model}", number(one.seconds * 1e3), number(one.link_seconds * 1e3),
             f"{one.items_per_second:,.0f}", f"{one.efficiency:.0%}", number(plain[devices].seconds * 1e3),
             f"{plain[devices].efficiency:.0%}", divided(one)] for devices, one in plans.items()]
    return markdown(head, rows) + "\n"


def strong(plans: Mapping[str, Mapping[int, Plan]]) -> str:
    """How many times as fast as one device, for a batch that all share."""
    counts = list(next(iter(plans.values())))
    rows = [[devices, *(f"{one[devices].efficiency * devices:.1f}" for one in plans.values())] for devices in counts]
    return markdown(["devices", *plans], rows) + "\n"


def plans_of(net: CompiledNet, scaling: Any = "weak", model: int | None = None) -> dict[int, Plan]:
    return {devices: plan(net, devices, machine=MACHINE, scaling=scaling, model_parallel=model) for devices in DEVICES
            if scaling == "weak" or devices <= STRONG}


# Programs.


def programs() -> Iterable[tuple[str, int, dict[str, Any]]]:
    """Net, devices and what ``scaling_worker`` prints: data parallel, and with layers divided over all devices."""
    for title, (name, arguments) in NETS.items():
        for devices in COMPILED:
            for model in (1, devices):
                command = [sys.executable, "-m", "benchmarks.scaling_worker", name, str(devices),
                           f"--model-parallel={model}", f"--arguments={json.dumps(arguments)}"]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                print(title, devices, found, flush=True)
                yield title, devices, found


def apart(found: Mapping[str, Any]) -> float:
    """By how much predicted bytes differ from the program's, in the kind of collective where most."""
    kinds = {*found["predicted"], *found["compiled"]}
    return max(abs(found["predicted"].get(kind, 0) - found["compiled"].get(kind, 0))
               / max(found["compiled"].get(kind, 0), found["predicted"].get(kind, 0)) for kind in kinds)


def comparison(found: Iterable[tuple[str, int, Mapping[str, Any]]]) -> str:
    rows, worst = [], 0.0
    for title, devices, one in found:
        kinds = ", ".join(f"{kind} {number(sent / 1e6)}" for kind, sent in sorted(one["compiled"].items()))
        worst = max(worst, apart(one))
        rows.append([title, devices, f"{devices // one['model']} x {one['model']}",
                     number(sum(one["predicted"].values()) / 1e6), number(sum(one["compiled"].values()) / 1e6),
                     f"{apart(one):.3%}", kinds])
    head = ["net", "devices", "mesh", "predicted, MB", "program, MB", "most apart", "of the program, MB"]
    return f"{markdown(head, rows)}\n\nAt most {worst:.3%} apart in any kind of collective.\n"


# What was measured.

K40 = Machine("k40", {"float32": 4.29e12}, memory=288e9, devices_per_node=1, link=6e9, between=6e9)
# Seconds of 20 iterations of CaffeNet, with cuDNN: Caffe 1.0, docs/performance_hardware.md.
CAFFENET_SECONDS = 19.2


def published() -> str:
    """Predicted against a published time."""
    predicted = 20 * plan(compile_net(zoo.caffenet(), phase="TRAIN"), 1, machine=K40).seconds
    row = ["CaffeNet, 20 steps of 256, K40", f"{predicted:.1f} s", f"{CAFFENET_SECONDS} s",
           f"{predicted / CAFFENET_SECONDS:.2f}"]
    return markdown(["run", "predicted", "published", "ratio"], [row]) + "\n"


# The picture.


def curve(axes: Axes, plans: Mapping[str, tuple[Mapping[int, Plan], Mapping[int, Plan]]], label: str, title: str,
          times_devices: bool) -> None:
    """Of each net its plans, and dotted those without divided layers."""
    for name, (best, plain) in plans.items():
        color = None
        for style, curve in (("o-", best), (":", plain)):
            values = [one.efficiency * (devices if times_devices else 1) for devices, one in curve.items()]
            (line,) = axes.plot(list(curve), values, style, color=color, label=name if style == "o-" else None, ms=4)
            color = line.get_color()
    axes.set(xscale="log", xlabel="devices", ylabel=label, title=title)
    axes.set_xticks(DEVICES[::2])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()


def picture(weak: Mapping[str, Any], shared: Mapping[str, Any], output: Path) -> None:
    """Efficiency where each device has a batch, and speed where all share one."""
    plt.rcParams["svg.hashsalt"] = "jaffe"  # the same picture of the same numbers
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    curve(left, weak, "efficiency", "A batch on each device; dotted: data parallel", times_devices=False)
    left.set_ylim(0.75, 1.05)
    left.yaxis.set_major_formatter(PercentFormatter(1, 0))
    curve(right, shared, "times as fast as one device", f"One batch of {STRONG}; dotted: data parallel", True)
    right.plot(DEVICES, DEVICES, color="grey", lw=0.8)
    right.set(yscale="log", ylim=(0.8, 1500))
    right.set_yticks(DEVICES[::2])
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    figure.savefig(output, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-programs", action="store_true", help="leave the comparison as it is")
    options = parser.parse_args(arguments)
    nets = {title: compiled(title) for title in NETS}
    weak = {title: (plans_of(net), plans_of(net, model=1)) for title, net in nets.items()}
    large = {title: compiled(title, STRONG) for title in NETS}
    shared = {title: (plans_of(net, "strong"), plans_of(net, "strong", 1)) for title, net in large.items()}
    picture(weak, shared, PICTURE)
    batches = (f"**{title}**, {best[1].items} items on each device\n\n{predictions(best, plain)}"
               for title, (best, plain) in weak.items())
    tables = {"example": f"```\n{plan(nets['CaffeNet'], 8, machine=MACHINE)}\n```\n", "weak": "\n".join(batches),
              "strong": strong({title: best for title, (best, _) in shared.items()}), "published": published()}
    if not options.skip_programs:
        tables["programs"] = comparison(programs())
    page = PAGE.read_text()
    for name, text in tables.items():
        page = replaced(page, name, text)
    PAGE.write_text(page)
    print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
