"""Times jaffe against plain Flax and PyTorch: `make bench`.

    python -m benchmarks [--nets lenet resnet18] [--modes train infer] [--frameworks jaffe flax] [--rounds 3]

Eight nets, each in a training step (forward, backward, SGD with momentum and weight decay) and in inference at batch 1
and 16. The nets of all three have the same layers, sizes and counts of parameters; dropout is on in training; GoogLeNet
trains with its auxiliary losses. A batch is on the device already, and always the same. What differs:

- jaffe gives biases the rates and decays of Caffe's files, and looks in each step whether all numbers are finite.
- The LSTM of jaffe takes ``cont``, and goes on where the batch before ended; that of PyTorch has a second bias.
- PyTorch runs as it comes, channels last, and channels last with ``torch.compile``. What is fastest in a trial counts.

Each net and framework runs in a process of its own, in turn, A B C A B C ..., since the machine's speed drifts and
thread pools in one process disturb each other. What counts is the median of the ratios within a round, and their
spread. Programs are compiled anew, but for a second start of jaffe, which finds those that the first stored.

Where nothing is left out the tables are written to docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.job import Task
from benchmarks.nets import NETS
from benchmarks.process import ROOT, in_fresh_cache
from benchmarks.table import TITLES, Case, replaced, report

PAGE = ROOT / "docs" / "performance.md"
INFER = (1, 16)  # batches
VARIANTS = ("contiguous", "channels_last", "compile")  # of PyTorch
TRIAL = 2.0  # seconds of stepping


def fastest_variant(net: str, mode: str, batch: int, precision: str) -> str:
    """The variant of PyTorch with the shortest step in one trial each. Raises RuntimeError when none runs."""
    times = {}
    for variant in VARIANTS:
        if variant == "channels_last" and len(NETS[net].shape) == 1:
            continue  # there are no images
        try:
            task = Task("torch", variant, net, mode, batch, precision)
            times[variant] = in_fresh_cache(task, f"--seconds={TRIAL}")["step_ms"]
        except RuntimeError as error:
            print(f"  PyTorch, {variant}: {error}")
    print("  trial of PyTorch: " + ", ".join(f"{name} {time:.2f} ms" for name, time in times.items()), flush=True)
    if not times:
        raise RuntimeError(f"PyTorch runs {net} in no variant")
    return min(times, key=times.__getitem__)


def time_case(net: str, mode: str, batch: int, options: argparse.Namespace) -> Case:
    """All rounds of a net.

    Raises:
        RuntimeError: a process failed.
        ValueError: the frameworks' nets have different numbers of parameters, or ran on different kinds of devices.
    """
    print(f"{NETS[net].title}, {mode}, batch {batch}", flush=True)
    variant = fastest_variant(net, mode, batch, options.precision) if "torch" in options.frameworks else ""
    rounds = []
    for _ in range(options.rounds):
        rounds.append({
            name: in_fresh_cache(Task(name, variant if name == "torch" else "", net, mode, batch, options.precision))
            for name in options.frameworks
        })
        for key in ("params", "device"):
            found = {name: one[key] for name, one in rounds[-1].items()}
            if len(set(found.values())) > 1:
                raise ValueError(f"{net}, {mode}: {key} differ: {found}")
        times = (f"{TITLES[name]} {one['step_ms']:.2f} ms" for name, one in rounds[-1].items())
        print("  " + ", ".join(times), flush=True)
    return Case(net, mode, batch, variant, rounds)


def machine(cases: Sequence[Case], options: argparse.Namespace) -> str:
    """What it was run on and with."""
    device = next(iter(cases[0].rounds[0].values()))["device"]
    if device == "cpu":
        device = f"{os.cpu_count()} CPU cores, {processor()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch") if find_spec(name))
    return f"{device}; {options.precision}; {versions}; Python {platform.python_version()}; rounds: {options.rounds}.\n"


def processor() -> str:
    """The processor's name, where the system tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--modes", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    parser.add_argument("--frameworks", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    if "torch" in options.frameworks and not find_spec("torch"):
        options.frameworks.remove("torch")
        print("PyTorch is not installed: pip install -e '.[bench]'")
    batches = {"train": lambda net: (NETS[net].batch,), "infer": lambda net: INFER}
    cases = [time_case(net, mode, batch, options)
             for mode in options.modes for net in options.nets for batch in batches[mode](net)]
    text = f"{machine(cases, options)}\n{report(cases)}"
    print("\n" + text)
    everything = (set(options.nets), set(options.modes), set(options.frameworks)) == (
        set(NETS), {"train", "infer"}, set(TITLES))
    if not everything:
        print("not written: nets, modes or frameworks were left out")
        return
    device = next(iter(cases[0].rounds[0].values()))["device"]
    section = f"bench {'cpu' if device == 'cpu' else 'gpu'} {options.precision}"
    PAGE.write_text(replaced(PAGE.read_text(), section, text))
    print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
