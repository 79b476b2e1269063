"""What a run costs beside its steps: LeNet, batch 64, on the recipe's digits.

    python -m benchmarks.overhead [--rounds 9] [--steps 400]

Three ways to make the same updates, in one process, in turn A B C A B C ..., since the machine's speed drifts:

- bare: the jitted step in a Python loop, on batches that are on the device already; waits at the end only.
- quiet: ``Solver.step`` without display, tests and snapshots.
- full: ``Solver.step`` as the recipe has it: a row every 20 iterations on the console, in the metrics, in Caffe's log
  and for TensorBoard; a test every 100; a snapshot every 400.

What counts is the median of the ratios within a round, and their spread. Of the full run it is also told how much of
it is the tests, which are computing that was asked for, measured in the same rounds. Last, JAX's profiler says how
long the device stood idle between the steps of a quiet run.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
from rich.console import Console

import jaffe
from jaffe.train import CaffeLogReporter, ConsoleReporter, Reporters, TensorBoardReporter
from jaffe.train.nets import describe
from jaffe.zoo import recipe

QUIET = dict(display=0, test_iter=[], snapshot=0, monitor="")


def bare(solver: jaffe.Solver, batches: list[object], steps: int) -> float:
    began = time.perf_counter()
    for i in range(steps):
        solver.state, metrics = solver._step(solver.state, solver.feed.resident, batches[i % len(batches)])
    jax.block_until_ready(metrics)
    return time.perf_counter() - began


def timed(solver: jaffe.Solver, steps: int) -> float:
    began = time.perf_counter()
    solver.step(steps)
    if solver.snapshots:
        solver.snapshots.written()
    return time.perf_counter() - began


def testing(solver: jaffe.Solver, tests: int) -> float:
    began = time.perf_counter()
    for _ in range(tests):
        for evaluation in solver.tests:
            evaluation.run(solver.state.tested, solver.net)
    return time.perf_counter() - began


def idle(solver: jaffe.Solver, steps: int) -> float:
    """Share of the time between the first and the last step's begin in which no step was being computed."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=False):
            solver.step(steps)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events
                   if e.get("ph") == "X" and e["name"].startswith("ThunkExecutor::Execute"))
    if not spans:
        raise SystemExit("the profile has no ThunkExecutor::Execute; JAX calls it otherwise now")
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(end - max(begin, reached), 0)
        reached = max(reached, end)
    return 1 - busy / (reached - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        reporters = Reporters(ConsoleReporter(console), CaffeLogReporter(folder / "log"), TensorBoardReporter(folder))
        full = jaffe.Solver(recipe("lenet"), snapshot_prefix=str(folder / "run"), reporter=reporters)
        quiet = jaffe.Solver(recipe("lenet"), **QUIET)
        alone = jaffe.Solver(recipe("lenet"), **QUIET)
        stream = alone.feed.batches()
        batches = [next(stream) for _ in range(20)]
        reporters.start(describe(full.config, full.net, full.tests, 0))
        for solver in (full, quiet, alone):
            solver.step(10)
        full.step((-full.iteration) % options.steps)  # so that each round has its share of rows, tests and snapshots
        times: dict[str, list[float]] = {"bare": [], "quiet": [], "full": [], "tests": []}
        tests = options.steps // full.proto.test_interval
        for _ in range(options.rounds):
            times["bare"].append(bare(alone, batches, options.steps))
            times["quiet"].append(timed(quiet, options.steps))
            times["full"].append(timed(full, options.steps))
            times["tests"].append(testing(full, tests))
        reporters.stop()
        print(f"LeNet, batch 64, {options.rounds} rounds of {options.steps} steps; medians, and the least and the most")
        for kind, found in times.items():
            each = [1e3 * one / options.steps for one in found]
            print(f"{kind:6} {statistics.median(each):7.3f} ms a step ({min(each):.3f} to {max(each):.3f})")
        tell("quiet over bare", times["quiet"], times["bare"])
        tell("full over quiet", times["full"], times["quiet"])
        without = [one - tests for one, tests in zip(times["full"], times["tests"], strict=True)]
        tell("full without its tests' computing, over quiet", without, times["quiet"])
        print(f"idle between the steps of a quiet run, by the profiler: {idle(quiet, 100):.2%}")


def tell(what: str, one: list[float], other: list[float]) -> None:
    ratios = [a / b - 1 for a, b in zip(one, other, strict=True)]
    print(f"{what}: {statistics.median(ratios):+.2%} ({min(ratios):+.2%} to {max(ratios):+.2%})")


if __name__ == "__main__":
    main()
