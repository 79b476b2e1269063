"""What recurrent nets cost, written out step by step: tables in docs/recurrent.md, and the picture docs/recurrent.svg.

    python -m benchmarks.recurrent [--rounds 3] [--limit 600]

- How compiling grows with the steps: an LSTM written out in prototxt, whose steps the compiler makes a loop of, and the
  same left as it is written, as far as that is done within the limit. Each a process of its own, in turn.
- A training step of the character LSTM: as the LSTM layer, written out, left as it is written, and in PyTorch, in turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from benchmarks.__main__ import processor
from benchmarks.job import Task
from benchmarks.process import ROOT, run
from benchmarks.table import Spread, markdown, replaced

PAGE, PICTURE = ROOT / "docs/recurrent.md", ROOT / "docs/recurrent.svg"
STEPS = (5, 20, 100, 500, 2000)
CHAR_STEPS = 100

Found = Mapping[str, float]


def one(form: str, task: str, steps: int, limit: float) -> Found | None:
    """What a process finds; None if it takes longer than ``limit`` seconds.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.unrolled", form, task, f"--steps={steps}"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"{form}, {task}, {steps} steps: not done in {limit:.0f} s", flush=True)
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    compiling = found["trace_s"] + found["compile_s"]
    print(f"{form}, {task}, {steps} steps: compiled in {compiling:.2f} s, {found['step_ms']:.2f} ms", flush=True)
    return {**found, "compiling_s": compiling}


def again(earlier: Sequence[Found], limit: float) -> bool:
    """Whether something is timed in another round too: not what did not end, nor what takes a tenth of the limit."""
    return bool(earlier) and earlier[0]["compiling_s"] <= limit / 10


def growth(rounds: int, limit: float) -> dict[str, dict[int, list[Found]]]:
    """By form and steps what each round found."""
    found: dict[str, dict[int, list[Found]]] = {form: {steps: [] for steps in STEPS} for form in ("loop", "graph")}
    for number in range(rounds):
        for form, curve in found.items():
            for steps, earlier in curve.items():
                if number and not again(earlier, limit):
                    continue
                result = one(form, "lstm", steps, limit)
                if result is None:
                    break  # more steps would take longer still
                earlier.append(result)
    return found


def steps_in_turn(rounds: int, limit: float) -> dict[str, list[Found]]:
    """A training step of the character LSTM in each form, and in PyTorch if that is installed."""
    found: dict[str, list[Found]] = {"layer": [], "loop": [], "graph": [], "torch": []}
    for number in range(rounds):
        for form in ("layer", "loop", "graph"):
            result = one(form, "char", CHAR_STEPS, limit) if not number or again(found[form], limit) else None
            found[form].extend([] if result is None else [result])
        if find_spec("torch"):
            with tempfile.TemporaryDirectory() as cache:
                found["torch"].append(run(Task("torch", "contiguous", "char_lstm", "train", 32), cache))
            print(f"PyTorch: {found['torch'][-1]['step_ms']:.2f} ms", flush=True)
    return found


def spread(found: Iterable[Found], key: str) -> str:
    values = [one[key] for one in found]
    return str(Spread.of(values)) if len(values) > 1 else f"{values[0]:.3g}" if values else "-"


def growth_table(found: Mapping[str, Mapping[int, Sequence[Found]]], limit: float) -> str:
    rows = []
    for steps in STEPS:
        loop, graph = (found[form].get(steps, []) for form in ("loop", "graph"))
        rows.append([steps, spread(loop, "declared_s"), spread(loop, "compiling_s"), spread(loop, "compile_mb"),
                     spread(loop, "step_ms"), spread(graph, "compiling_s"), spread(graph, "compile_mb"),
                     spread(graph, "step_ms")])
    head = ["steps", "graph, s", "compiling, s", "memory, MiB", "step, ms", "as written: compiling, s", "memory, MiB",
            "step, ms"]
    first, last = (Spread.of(one["compiling_s"] for one in found["loop"][steps]).median for steps in (20, STEPS[-1]))
    return (markdown(head, rows) + f"\n\nFrom 20 to {STEPS[-1]} steps compiling grows {last / first:.2f} times. "
            f"\"-\": not tried, or not done within {limit:.0f} s.\n")


def steps_table(found: Mapping[str, Sequence[Found]]) -> str:
    titles = {"layer": "LSTM layer", "loop": "written out, as a loop", "graph": "written out, as written",
              "torch": "PyTorch, nn.LSTM"}
    rows = []
    for form, title in titles.items():
        if found[form]:
            pairs = list(zip(found[form], found["layer"], strict=False))
            ratio = Spread.of(one["step_ms"] / layer["step_ms"] for one, layer in pairs)
            rows.append([title, spread(found[form], "step_ms"), ratio])
    return markdown(["form", "training step, ms", "times the LSTM layer's"], rows) + "\n"


def draw(found: Mapping[str, Mapping[int, Sequence[Found]]]) -> None:
    """Seconds and memory of compiling, by steps."""
    plt.rcParams["svg.hashsalt"] = "jaffe"  # the same picture of the same numbers
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for one, key, label in zip(axes, ("compiling_s", "compile_mb"), ("seconds of compiling", "MiB of compiling"),
                               strict=True):
        for form, name in (("loop", "as a loop"), ("graph", "as written")):
            curve = {steps: Spread.of(each[key] for each in results).median
                     for steps, results in found[form].items() if results}
            one.plot(list(curve), list(curve.values()), "o-", label=name)
        one.set(xscale="log", yscale="log", xlabel="steps", ylabel=label)
        one.set_xticks(STEPS)
        one.xaxis.set_major_formatter("{x:g}")
        one.xaxis.set_minor_locator(NullLocator())
        one.grid(alpha=0.3)
        one.legend()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one process")
    options = parser.parse_args()
    compiling, steps = growth(options.rounds, options.limit), steps_in_turn(options.rounds, options.limit)
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch") if find_spec(name))
    about = (f"{processor()}; {versions}; Python {platform.python_version()}; rounds: {options.rounds}; "
             "medians, in brackets the least and the most.\n")
    page = replaced(PAGE.read_text(), "compiling", f"{about}\n{growth_table(compiling, options.limit)}")
    PAGE.write_text(replaced(page, "steps", steps_table(steps)))
    draw(compiling)
    print(f"written to {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
