"""One process that times one net in one framework, and prints what it found as a line of JSON.

    python -m benchmarks.worker jaffe lenet train --batch 64

- ``first_s``: seconds from the declared net to the end of the first step: tracing, compiling, running. Imports and the
  drawing of weights (``drawn_s``) are not in it.
- ``step_ms``: median over the steps after that, each waited for.
- ``peak_mb``: most memory of the process, imports and all; on an accelerator, most of its memory.
- ``import_mb``: memory of the process after the imports.
- ``params``: numbers that are trained.
- ``device``: what computed: cpu, or the accelerator's name.

When training also

- ``loss``: of the first step.
- ``bound_ms`` (jaffe): what the step's operations would take at the speed of one large matrix product, measured in the
  same process after the steps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import statistics
import sys
import time

from benchmarks.job import Job, Task
from benchmarks.nets import NETS

LEAST = 3  # steps


def measure(task: Task, seconds: float) -> dict[str, float | str]:
    """All that a process says; steps go on for this many seconds, or until there are a few."""
    module = importlib.import_module(f"benchmarks.run_{task.framework}")
    imports = process_mb()
    job: Job = module.prepare(task)
    with job.built:
        result = job.step()
        job.wait(result)
    found: dict[str, float | str] = {"device": job.device, "params": job.params}
    found |= {"first_s": job.built.seconds, "drawn_s": job.drawn.seconds}
    if task.mode == "train":
        found["loss"] = float(result)
    if seconds:
        found["step_ms"] = 1e3 * statistics.median(step_seconds(job, seconds))
    if task.mode == "train" and not math.isfinite(float(job.step())):
        raise SystemExit(f"{task}: the loss is no longer finite; this is no ordinary step")
    peak = job.peak_bytes()
    found |= {"peak_mb": process_mb() if peak is None else peak / 2**20, "import_mb": imports}
    if seconds and job.bound_ms:
        found["bound_ms"] = job.bound_ms()
    return found


def step_seconds(job: Job, seconds: float) -> list[float]:
    """Of each step, after one to warm up."""
    job.wait(job.step())
    times: list[float] = []
    while len(times) < LEAST or sum(times) < seconds:
        began = time.perf_counter()
        job.wait(job.step())
        times.append(time.perf_counter() - began)
    return times


def process_mb() -> float:
    """Most memory that this process had resident, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("jaffe", "flax", "torch"))
    parser.add_argument("net", choices=NETS)
    parser.add_argument("mode", choices=("train", "infer"))
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--variant", default="", help="of torch: contiguous, channels_last, compile")
    parser.add_argument("--size", type=int, help="height and width of images")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=5.0, help="of stepping; 0: the first step only")
    options = vars(parser.parse_args())
    seconds = options.pop("seconds")
    print(json.dumps(measure(Task(**options), seconds)))


if __name__ == "__main__":
    main()
