"""The cost model of ``jaffe.compile.lowering``: measure every candidate on many convolutions, and fit the model.

    python -m benchmarks.lowering measure [--seconds 600]    adds to benchmarks/lowering.json
    python -m benchmarks.lowering fit                        writes jaffe/compile/lowering/costs.json, prints how well

Candidates of a problem are timed in turn, A B C A B C ...: what is compared are ways of one machine, not machines. The
model is ``t = a + b products + c operands + d moved`` (``candidates.Work``), no coefficient negative, fitted to least
squares of relative errors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaffe.compile.lowering.autotune import measure
from jaffe.compile.lowering.candidates import Problem, fitting
from jaffe.compile.lowering.choose import PASSES
from jaffe.compile.lowering.costs import _costs, predicted, within_nets
from jaffe.compile.lowering.geometry import ConvGeometry

MEASURED = Path(__file__).with_name("lowering.json")
COSTS = Path(__file__).parents[1] / "jaffe" / "compile" / "lowering" / "costs.json"
# (batch, channels, size, outputs, kernel, stride, pad, group): the convolutions of well-known nets.
SHAPES = [
    (64, 1, 28, 20, 5, 1, 0, 1), (64, 20, 12, 50, 5, 1, 0, 1), (100, 3, 32, 32, 5, 1, 2, 1),
    (100, 32, 16, 32, 5, 1, 2, 1), (100, 32, 8, 64, 5, 1, 2, 1), (16, 3, 227, 96, 11, 4, 0, 1),
    (16, 48, 27, 128, 5, 1, 2, 1), (16, 256, 13, 384, 3, 1, 1, 1), (16, 192, 13, 192, 3, 1, 1, 1),
    (16, 192, 13, 128, 3, 1, 1, 1), (1, 48, 27, 128, 5, 1, 2, 1), (1, 3, 227, 96, 11, 4, 0, 1),
    (1, 256, 13, 384, 3, 1, 1, 1), (8, 3, 224, 64, 7, 2, 3, 1), (8, 64, 56, 64, 3, 1, 1, 1),
    (8, 64, 56, 128, 3, 2, 1, 1), (8, 64, 56, 128, 1, 2, 0, 1), (8, 128, 28, 128, 3, 1, 1, 1),
    (8, 128, 28, 256, 3, 2, 1, 1), (8, 256, 14, 256, 3, 1, 1, 1), (8, 256, 14, 512, 3, 2, 1, 1),
    (8, 512, 7, 512, 3, 1, 1, 1), (8, 256, 14, 512, 1, 2, 0, 1), (1, 3, 224, 64, 7, 2, 3, 1),
    (1, 64, 56, 64, 3, 1, 1, 1), (1, 128, 28, 128, 3, 1, 1, 1), (1, 512, 7, 512, 3, 1, 1, 1),
    (8, 64, 56, 64, 1, 1, 0, 1), (8, 64, 56, 192, 3, 1, 1, 1), (8, 192, 28, 64, 1, 1, 0, 1),
    (8, 96, 28, 128, 3, 1, 1, 1), (8, 16, 28, 32, 5, 1, 2, 1), (8, 256, 28, 128, 1, 1, 0, 1),
    (8, 128, 28, 192, 3, 1, 1, 1), (8, 32, 28, 96, 5, 1, 2, 1), (8, 480, 14, 192, 1, 1, 0, 1),
    (8, 96, 14, 208, 3, 1, 1, 1), (8, 16, 14, 48, 5, 1, 2, 1), (8, 160, 14, 320, 3, 1, 1, 1),
    (8, 832, 7, 384, 1, 1, 0, 1), (8, 192, 7, 384, 3, 1, 1, 1), (8, 48, 7, 128, 5, 1, 2, 1),
    (1, 192, 28, 64, 1, 1, 0, 1), (1, 480, 14, 192, 1, 1, 0, 1), (1, 96, 14, 208, 3, 1, 1, 1),
    (8, 3, 227, 64, 3, 2, 0, 1), (8, 16, 56, 64, 3, 1, 1, 1), (8, 32, 28, 128, 3, 1, 1, 1),
    (8, 64, 14, 256, 3, 1, 1, 1), (8, 512, 14, 1000, 1, 1, 0, 1), (1, 16, 56, 64, 3, 1, 1, 1),
    (8, 3, 224, 32, 3, 2, 1, 1), (8, 32, 112, 64, 1, 1, 0, 1), (8, 32, 112, 32, 3, 1, 1, 32),
    (8, 64, 112, 64, 3, 2, 1, 64), (8, 128, 56, 128, 3, 1, 1, 128), (8, 128, 56, 128, 1, 1, 0, 1),
    (8, 512, 14, 512, 3, 1, 1, 512), (8, 512, 14, 512, 1, 1, 0, 1), (8, 512, 14, 512, 3, 2, 1, 512),
    (8, 1024, 7, 1024, 1, 1, 0, 1), (8, 1024, 7, 1024, 3, 1, 1, 1024), (1, 512, 14, 512, 3, 1, 1, 512),
    (1, 512, 14, 512, 1, 1, 0, 1), (2, 3, 224, 64, 3, 1, 1, 1), (2, 64, 224, 64, 3, 1, 1, 1),
    (2, 128, 112, 128, 3, 1, 1, 1), (2, 512, 28, 512, 3, 1, 1, 1), (4, 8, 64, 8, 15, 1, 7, 1),
    (4, 32, 32, 32, 9, 1, 4, 1), (2, 64, 32, 64, 3, 1, 1, 1), (32, 16, 32, 16, 3, 1, 1, 1),
    (32, 64, 8, 64, 3, 1, 1, 1), (32, 32, 16, 64, 3, 2, 1, 1), (4, 64, 32, 64, 4, 2, 1, 1),
    (16, 128, 16, 128, 5, 1, 2, 1), (1, 1, 28, 20, 5, 1, 0, 1), (1, 20, 12, 50, 5, 1, 0, 1),
    (16, 1, 28, 20, 5, 1, 0, 1), (16, 20, 12, 50, 5, 1, 0, 1), (1, 3, 32, 32, 5, 1, 2, 1),
    (1, 32, 16, 32, 5, 1, 2, 1), (1, 32, 8, 64, 5, 1, 2, 1), (128, 1, 28, 32, 3, 1, 1, 1),
]
# (channels, size, outputs, kernel, stride, pad, group) of single images, of which the gradients matter little: the
# convolutions of LeNet, CIFAR10-full, CaffeNet, GoogLeNet, SqueezeNet, ResNet-18 and -50, MobileNet and VGG-16.
SINGLE = [
    (3, 227, 96, 11, 4, 0, 1), (3, 227, 64, 3, 2, 0, 1), (64, 224, 64, 3, 1, 1, 1), (3, 224, 64, 7, 2, 3, 1),
    (3, 224, 64, 3, 1, 1, 1), (3, 224, 32, 3, 2, 1, 1), (128, 112, 128, 3, 1, 1, 1), (64, 112, 128, 3, 1, 1, 1),
    (64, 112, 64, 3, 2, 1, 64), (32, 112, 64, 1, 1, 0, 1), (32, 112, 32, 3, 1, 1, 32), (256, 56, 512, 1, 2, 0, 1),
    (256, 56, 256, 3, 1, 1, 1), (256, 56, 128, 1, 2, 0, 1), (256, 56, 64, 1, 1, 0, 1), (128, 56, 256, 3, 1, 1, 1),
    (128, 56, 128, 3, 2, 1, 128), (128, 56, 128, 3, 1, 1, 128), (128, 56, 128, 1, 1, 0, 1), (128, 56, 16, 1, 1, 0, 1),
    (64, 56, 256, 1, 1, 0, 1), (64, 56, 192, 3, 1, 1, 1), (64, 56, 128, 3, 2, 1, 1), (64, 56, 128, 1, 2, 0, 1),
    (64, 56, 128, 1, 1, 0, 1), (64, 56, 64, 3, 1, 1, 1), (64, 56, 64, 1, 1, 0, 1), (64, 56, 16, 1, 1, 0, 1),
    (16, 56, 64, 3, 1, 1, 1), (16, 56, 64, 1, 1, 0, 1), (3, 32, 32, 5, 1, 2, 1), (512, 28, 1024, 1, 2, 0, 1),
    (512, 28, 512, 3, 1, 1, 1), (512, 28, 256, 1, 2, 0, 1), (512, 28, 128, 1, 1, 0, 1), (256, 28, 512, 3, 1, 1, 1),
    (256, 28, 288, 1, 1, 0, 1), (256, 28, 256, 3, 2, 1, 256), (256, 28, 256, 3, 1, 1, 256),
    (256, 28, 256, 1, 1, 0, 1), (256, 28, 64, 1, 1, 0, 1), (256, 28, 32, 1, 1, 0, 1), (192, 28, 176, 1, 1, 0, 1),
    (192, 28, 32, 1, 1, 0, 1), (128, 28, 512, 1, 1, 0, 1), (128, 28, 256, 3, 2, 1, 1), (128, 28, 256, 1, 2, 0, 1),
    (128, 28, 256, 1, 1, 0, 1), (128, 28, 192, 3, 1, 1, 1), (128, 28, 128, 3, 1, 1, 1), (128, 28, 32, 1, 1, 0, 1),
    (96, 28, 128, 3, 1, 1, 1), (32, 28, 128, 3, 1, 1, 1), (32, 28, 128, 1, 1, 0, 1), (32, 28, 96, 5, 1, 2, 1),
    (16, 28, 32, 5, 1, 2, 1), (1, 28, 20, 5, 1, 0, 1), (48, 27, 128, 5, 1, 2, 1), (32, 16, 32, 5, 1, 2, 1),
    (1024, 14, 2048, 1, 2, 0, 1), (1024, 14, 512, 1, 2, 0, 1), (1024, 14, 256, 1, 1, 0, 1),
    (528, 14, 448, 1, 1, 0, 1), (528, 14, 128, 1, 1, 0, 1), (512, 14, 1000, 1, 1, 0, 1), (512, 14, 512, 3, 2, 1, 512),
    (512, 14, 512, 3, 1, 1, 512), (512, 14, 512, 3, 1, 1, 1), (512, 14, 512, 1, 1, 0, 1), (512, 14, 296, 1, 1, 0, 1),
    (512, 14, 288, 1, 1, 0, 1), (512, 14, 280, 1, 1, 0, 1), (512, 14, 64, 1, 1, 0, 1), (480, 14, 304, 1, 1, 0, 1),
    (480, 14, 64, 1, 1, 0, 1), (384, 14, 64, 1, 1, 0, 1), (384, 14, 48, 1, 1, 0, 1), (256, 14, 1024, 1, 1, 0, 1),
    (256, 14, 512, 3, 2, 1, 1), (256, 14, 512, 1, 2, 0, 1), (256, 14, 512, 1, 1, 0, 1), (256, 14, 256, 3, 1, 1, 1),
    (256, 14, 48, 1, 1, 0, 1), (160, 14, 320, 3, 1, 1, 1), (144, 14, 288, 3, 1, 1, 1), (128, 14, 256, 3, 1, 1, 1),
    (112, 14, 224, 3, 1, 1, 1), (96, 14, 208, 3, 1, 1, 1), (64, 14, 256, 3, 1, 1, 1), (64, 14, 256, 1, 1, 0, 1),
    (48, 14, 192, 3, 1, 1, 1), (48, 14, 192, 1, 1, 0, 1), (32, 14, 128, 5, 1, 2, 1), (32, 14, 64, 5, 1, 2, 1),
    (24, 14, 64, 5, 1, 2, 1), (16, 14, 48, 5, 1, 2, 1), (256, 13, 384, 3, 1, 1, 1), (192, 13, 192, 3, 1, 1, 1),
    (192, 13, 128, 3, 1, 1, 1), (20, 12, 50, 5, 1, 0, 1), (32, 8, 64, 5, 1, 2, 1), (2048, 7, 512, 1, 1, 0, 1),
    (1024, 7, 1024, 3, 1, 1, 1024), (1024, 7, 1024, 1, 1, 0, 1), (832, 7, 624, 1, 1, 0, 1), (832, 7, 448, 1, 1, 0, 1),
    (832, 7, 128, 1, 1, 0, 1), (512, 7, 2048, 1, 1, 0, 1), (512, 7, 1024, 1, 1, 0, 1), (512, 7, 512, 3, 1, 1, 1),
    (192, 7, 384, 3, 1, 1, 1), (160, 7, 320, 3, 1, 1, 1), (48, 7, 128, 5, 1, 2, 1), (32, 7, 128, 5, 1, 2, 1),
    (1024, 1, 1000, 1, 1, 0, 1),
]


def problems() -> Iterator[Problem]:
    single = [(1, *shape) for shape in SINGLE]
    every = [(shape, PASSES) for shape in SHAPES] + [(one, ("forward",)) for one in single if one not in SHAPES]
    for (batch, channels, size, outputs, kernel, stride, pad, group), passes in every:
        geometry = ConvGeometry((stride,) * 2, ((pad, pad),) * 2, (1, 1), group)
        for which in passes:
            if which == "input" and channels <= 3:
                continue
            yield Problem(which, (batch, channels, size, size), (outputs, channels // group, kernel, kernel), geometry)


def run(seconds: float) -> None:
    found = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    began = time.perf_counter()
    for problem in problems():
        key = problem.key
        missing = [name for name in fitting(problem) if name not in found.get(key, {})]
        if not missing or time.perf_counter() - began > seconds:
            continue
        found.setdefault(key, {}).update(measure(problem, missing))
        MEASURED.write_text(json.dumps(found, indent=0))
        print(key, {name: round(1e3 * one, 2) for name, one in sorted(found[key].items(), key=lambda pair: pair[1])},
              flush=True)


def fit() -> None:
    from scipy.optimize import nnls

    measured = json.loads(MEASURED.read_text())
    rows: dict[str, dict[str, list[tuple[list[float], float]]]] = {which: {} for which in PASSES}
    measured_problems = []
    for problem in problems():
        key = problem.key
        times = {name: one * within_nets(problem, name) for name, one in measured.get(key, {}).items()}
        if times:
            measured_problems.append((problem, times))
        for name, one in fitting(problem).items():
            if name in times:
                rows[problem.which].setdefault(name, []).append(([1.0, *one.work(problem)], 1e3 * times[name]))
    costs: dict[str, dict[str, list[float]]] = {}
    for which, names in rows.items():
        costs[which] = {}
        for name, samples in names.items():
            features = np.array([row for row, _ in samples])
            times = np.array([one for _, one in samples])
            scale = np.abs(features).max(0) + 1e-30
            solution, _ = nnls(features / scale / times[:, None], np.ones(len(times)))
            costs[which][name] = [float(f"{value:.4g}") for value in solution / scale]
    write(costs, {})
    known = {}
    for problem, times in measured_problems:
        choice = min((name for name in fitting(problem) if name in times), key=lambda n: predicted(problem, n))
        # Alone XLA's products are as fast; within nets, where weights lie otherwise, they took twice as long.
        best = min(times, key=lambda name: times[name] * (1.0 if "onednn" in name else 1.05))
        if choice != best and times[choice] > 1.1 * times[best]:
            known[problem.key] = best
    write(costs, known)
    for which in PASSES:
        best = chosen = xla = 0.0
        losses = []
        for problem, _ in measured_problems:
            if problem.which != which:
                continue
            times = measured[problem.key]  # alone
            choice = min((name for name in fitting(problem) if name in times), key=lambda n: predicted(problem, n))
            losses.append(times[choice] / min(times.values()))
            if losses[-1] > 1.5 and times[choice] > 1e-3:
                found = {name: f"{1e3 * times[name]:.1f} ms, by the model {predicted(problem, name):.1f}"
                         for name in (choice, min(times, key=times.__getitem__))}
                print(f"  {which} {problem.x} {problem.weight}: {found}")
            best, chosen, xla = best + min(times.values()), chosen + times[choice], xla + times.get("xla", 0.0)
        print(f"{which}: all problems, XLA's own {1e3 * xla:.0f} ms, chosen {1e3 * chosen:.0f} ms, best "
              f"{1e3 * best:.0f} ms; the choice takes {np.median(losses):.2f} times the best in the median, "
              f"{max(losses):.2f} at worst")


def write(costs: dict[str, dict[str, list[float]]], known: dict[str, str]) -> None:
    COSTS.write_text(json.dumps({"model": costs, "known": known}, indent=1) + "\n")
    _costs.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    run(options.seconds) if options.what == "measure" else fit()


if __name__ == "__main__":
    main()
