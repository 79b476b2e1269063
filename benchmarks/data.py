"""What reading costs: the tables in docs/data.md.

    python -m benchmarks.data [--rounds 3]

- Training from an LMDB against training from memory.
- Records a second, by source and number of processes, of jaffe and of PyTorch's DataLoader on the same files: each a
  process of its own, in turn. And decoding alone, by OpenCV.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.__main__ import processor
from benchmarks.data_files import SOURCES, prepare
from benchmarks.data_worker import STEPS
from benchmarks.process import ROOT
from benchmarks.table import Spread, markdown, replaced

PAGE = ROOT / "docs/data.md"
WORKERS = (0, 1, 2)
TITLES = {"lenet": "LeNet, 64", "cifar10_quick": "CIFAR10-quick, 100"}


def one(*arguments: object) -> dict[str, Any]:
    """What a process finds. Raises RuntimeError when it fails."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data_worker", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[4:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def reading(folder: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By source, and by what reads and with how many processes, the records a second of each round."""
    ways = [("jaffe", workers) for workers in WORKERS]
    ways += [("torch", workers) for workers in WORKERS] if find_spec("torch") else []
    found: dict[str, dict[str, list[float]]] = {source: {} for source in SOURCES}
    for _ in range(rounds):
        for source, rates in found.items():
            for by, workers in [*ways, *([("opencv", 0)] if source == "encoded" else [])]:
                rate = one(by, source, folder, f"--workers={workers}")["rate"]
                rates.setdefault(f"{by} {workers}", []).append(rate)
                print(f"{source}, {by}, {workers} processes: {rate:,.0f} a second", flush=True)
    return found


def reading_table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    head = ["source", *(f"jaffe, {name}" for name in ("threads", "1 process", "2 processes")),
            *(f"DataLoader, {name}" for name in ("itself", "1 process", "2 processes")), "best / best"]
    rows = []
    for source, rates in found.items():
        row: list[object] = [SOURCES[source].title]
        best = {}
        for by in ("jaffe", "torch"):
            each = {workers: rates.get(f"{by} {workers}", []) for workers in WORKERS}
            row += [f"{Spread.of(values).median:,.0f}" if values else "-" for values in each.values()]
            if any(each.values()):
                best[by] = max(each.values(), key=lambda values: Spread.of(values).median)
        pairs = zip(best["jaffe"], best["torch"], strict=True) if "torch" in best else []
        row.append(Spread.of(a / b for a, b in pairs) if "torch" in best else "-")
        rows.append(row)
    return markdown(head, rows)


def decoding(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    alone = found["encoded"]["opencv 0"]
    rate = f"{Spread.of(alone).median:,.0f}"
    lines = [f"OpenCV alone decodes {rate} of these JPEGs a second with a thread for each core."]
    for source in ("encoded", "files"):
        share = Spread.of(a / b for a, b in zip(found[source]["jaffe 0"], alone, strict=True))
        lines.append(f"{SOURCES[source].title}: jaffe's threads read, decode, crop and stack {share} times as many.")
    return "\n".join(f"- {line}" for line in lines)


def training_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for net, one in found.items():
        times = one["times"]
        row: list[object] = [TITLES[net], *(Spread.of(times[way]) for way in times)]
        row += [Spread.of(a / b for a, b in zip(times[way], times["memory"], strict=True))
                for way in ("read once", "read always")]
        rows.append(row)
    head = ["net, batch", "memory, ms", "LMDB, ms", "LMDB read always, ms", "LMDB / memory", "read always / memory"]
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        trained = {}
        for net in STEPS:
            trained[net] = one("training", net, folder)
            print(net, trained[net]["median"], flush=True)
        found = reading(folder, options.rounds)
    torch = f", PyTorch {version('torch')}" if find_spec("torch") else ""
    machine = (f"{processor()}, {platform.machine()}; jaffe with JAX {version('jax')}, grain {version('grain')}, "
               f"OpenCV {version('opencv-python-headless')}{torch}; {options.rounds} rounds in turn; median (least to "
               "most)")
    text = PAGE.read_text()
    text = replaced(text, "training", f"{machine}.\n\n{training_table(trained)}\n")
    text = replaced(text, "reading", f"{reading_table(found)}\n\n{decoding(found)}\n")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
