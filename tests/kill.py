"""Kill a training run at random moments, go on from what is on the disk, compare with the run that was never stopped.

    python -m tests.kill                  # 20 kills, a few minutes
    python -m tests.kill --kills 3 --seed 7

The run saves a snapshot after every iteration, so that most kills come in the middle of one. What must hold: after
each kill the latest snapshot can be read; at the end weights, optimiser state, random key and metrics are bit for bit
those of the run that was never stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
BETWEEN = 10  # iterations at most from one kill to the next

# Small, so that most of the time goes into snapshots; with all that a run can carry: momentum, BatchNorm's statistics,
# random crops, mirrors and Dropout, averaged weights, a window of losses, a monitored test.
NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label" transform_param { crop_size: 6 mirror: true }
        memory_data_param { batch_size: 8 channels: 1 height: 6 width: 6 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param
        { num_output: 32 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "bn" }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "drop" type: "Dropout" bottom: "bn" top: "bn" }
layer { name: "ip2" type: "InnerProduct" bottom: "bn" top: "ip2" inner_product_param
        { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
"""


def run(prefix: Path, iterations: int) -> None:
    """The run that is killed: begins, or goes on from the latest snapshot; tells when it trains."""
    import jaffe
    from jaffe.train import Reporter

    class Telling(Reporter):
        def advanced(self, iteration: int) -> None:
            print(iteration, flush=True)

    rng = np.random.default_rng(0)
    items = {"image": rng.normal(size=(50, 1, 8, 8)).astype(np.float32), "label": rng.integers(0, 5, 50)}
    solver = jaffe.Solver(
        net=NET, data=items, base_lr=0.05, momentum=0.9, lr_policy="inv", gamma=0.01, power=0.75, average_loss=5,
        max_iter=iterations, display=1, test_iter=[2], test_interval=10, snapshot=1, snapshot_keep=2, ema_decay=0.9,
        monitor="accuracy", random_seed=1, snapshot_prefix=str(prefix), reporter=Telling(),
    )
    solver.run(solver.snapshots.directory if solver.snapshots.iterations() else None)


@dataclass(frozen=True)
class Kill:
    """One kill: the iteration that was being told, the latest snapshot found, and whether one was half done."""

    told: int
    saved: int | None
    within_snapshot: bool


def start(prefix: Path, iterations: int) -> subprocess.Popen[str]:
    code = f"from tests.kill import run; from pathlib import Path; run(Path({str(prefix)!r}), {iterations})"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_once(prefix: Path, iterations: int, rng: random.Random) -> Kill:
    """Let the run train for a random while and kill it."""
    from jaffe.train.snapshots import Snapshots

    process = start(prefix, iterations)
    told = 0
    for _ in range(rng.randint(1, BETWEEN)):  # then at a random moment within the next iteration, or two
        told = int(process.stdout.readline() or told)
    time.sleep(rng.uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    directory = prefix.with_name(f"{prefix.name}_snapshots")
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    whole = Snapshots(directory).iterations()
    return Kill(told, whole[-1] if whole else None, any(not re.fullmatch(r"iter_\d+|best", name) for name in names))


def finish(prefix: Path, iterations: int) -> None:
    process = start(prefix, iterations)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def state_of(prefix: Path, iteration: int) -> dict[str, np.ndarray]:
    """All arrays of the last snapshot, by path, read without jaffe's own code."""
    import jax
    import orbax.checkpoint as ocp

    path = prefix.with_name(f"{prefix.name}_snapshots") / f"iter_{iteration}" / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it reads how the arrays were sharded from the snapshot itself
        tree = checkpointer.restore(path.absolute())
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in leaves}


def _plain(leaf: object) -> np.ndarray:
    import jax

    is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def rows_of(prefix: Path) -> list[dict[str, object]]:
    lines = prefix.with_name(f"{prefix.name}_metrics.jsonl").read_text().splitlines()
    timed = ("elapsed", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def check(folder: Path, kills: int, seed: int) -> list[Kill]:
    """Kill so many times, and compare. Raises AssertionError when anything differs."""
    rng = random.Random(seed)
    iterations = (BETWEEN + 3) * (kills + 1)  # with what may pass until the signal comes
    finish(folder / "whole", iterations)
    done: list[Kill] = []
    latest = 0
    for _ in range(kills):
        kill = kill_once(folder / "killed", iterations, rng)
        done.append(kill)
        assert (kill.saved or 0) >= latest, f"a snapshot was lost: {kill}, after {latest}"
        latest = kill.saved or 0
    finish(folder / "killed", iterations)
    expected, found = (state_of(folder / name, iterations) for name in ("whole", "killed"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert rows_of(folder / "killed") == rows_of(folder / "whole")
    best = [(folder / f"{name}_snapshots" / "best").resolve().name for name in ("whole", "killed")]
    assert best[0] == best[1]
    return done


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = check(Path(folder), options.kills, options.seed)
    for i, kill in enumerate(kills, 1):
        where = ", in the middle of a snapshot" if kill.within_snapshot else ""
        print(f"kill {i:>2}: at iteration {kill.told}; latest whole snapshot {kill.saved}{where}")
    within = sum(kill.within_snapshot for kill in kills)
    print(f"{len(kills)} kills, {within} in the middle of a snapshot: state and metrics are those of the whole run")


if __name__ == "__main__":
    main()
