"""Runs of several processes: the numbers of one, snapshots by all, and going on when one has died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from jaffe.train.processes import EXIT_STATUS
from tests.train.test_devices import assert_equal
from tests.train.test_processes import MPIRUN, TIMEOUT, free_port, started

# A run with all that matters: BatchNorm over all devices, random order, tests that decide, averaged weights, snapshots.
PROGRAM = """
import os, sys, warnings
sys.path.insert(0, ".")
from jaffe.train import Parallel, Reporter, processes

port, count, number, folder, options = *map(int, sys.argv[1:4]), sys.argv[4], eval(sys.argv[5])
if count > 1:
    processes.join(f"localhost:{port}", count, number)
import jax, numpy as np
import jaffe
from jaffe import zoo
from tests.train.test_devices import batch_norm_net, digits, lstm

class Telling(Reporter):
    def advanced(self, iteration):
        print("iteration", iteration, flush=True)

if options.pop("lstm", False):
    settings = lstm()
else:
    settings = dict(net=batch_norm_net(32), data=digits(), base_lr=0.05, momentum=0.9, lr_policy="fixed", sync_bn=True,
                    ema_decay=0.9, test_iter=[3], test_interval=10, monitor="-loss")
snapshot = options.pop("restore", None)
parallel = Parallel(**{"scaling": "strong", **options.pop("parallel", {})})
solver = jaffe.Solver(**{**settings, "snapshot_prefix": folder + "/run", "random_seed": 3, "display": 5, **options},
                      parallel=parallel, reporter=Telling())
processes.advise(lambda: f"go on with {folder}/run_snapshots")
try:
    solver.run(snapshot)
except BaseException as error:
    processes.leave(error)
    raise
print("ended", solver.ended or "whole", solver.iteration, flush=True)
variables = solver.variables
if processes.first():
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    np.savez(folder + "/variables.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in leaves})
processes.leave()
"""


def begun(folder: Path, count: int, devices: int, **options) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    folder.mkdir(exist_ok=True)
    return started(PROGRAM, count, folder, str(folder), repr(options), devices=devices)


def whole_run(folder: Path, count: int, devices: int, **options) -> dict[str, np.ndarray]:
    """The variables at the end of a run that ends well."""
    with begun(folder, count, devices, **options) as processes:
        for i, process in enumerate(processes):
            assert process.wait(3 * TIMEOUT) == 0, (folder / f"err{i}").read_text()[-3000:]
    with np.load(folder / "variables.npz") as found:
        return dict(found)


def reached(folder: Path, processes: list[subprocess.Popen[str]], iteration: int) -> None:
    """Wait until the first process has come so far."""
    until = time.monotonic() + 3 * TIMEOUT
    while f"iteration {iteration}\n" not in (folder / "out0").read_text():
        assert time.monotonic() < until
        for i, process in enumerate(processes):
            assert process.poll() is None, (folder / f"err{i}").read_text()
        time.sleep(0.02)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run_metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_one(tmp_path):
    one = whole_run(tmp_path / "one", 1, 2, max_iter=25, snapshot=10)
    two = whole_run(tmp_path / "two", 2, 1, max_iter=25, snapshot=10)
    assert_equal(two, one, 1e-5)
    first, second = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(first) == len(second) > 5
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)
    assert (tmp_path / "two" / "run_curves.png").exists()
    names = [sorted(path.name for path in (tmp_path / name / "run_snapshots").iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]
    assert {"iter_10", "iter_20", "iter_25", "best"} <= set(names[1])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [
    pytest.param(dict(zero=True), id="zero"),
    pytest.param(dict(zero=True, model_parallel=2, layers={"fc": "output"}), id="zero, data x model")])
def test_two_processes_with_two_devices_each(tmp_path, parallel):
    one = whole_run(tmp_path / "one", 1, 1, max_iter=10, snapshot=10)
    four = whole_run(tmp_path / "four", 2, 2, max_iter=10, snapshot=10, parallel=parallel)
    assert_equal(four, one, 1e-5)
    # Each process wrote what only it has: one process alone goes on from there.
    more = whole_run(tmp_path / "more", 1, 1, max_iter=12, restore=str(tmp_path / "four" / "run_snapshots"))
    assert_equal(more, whole_run(tmp_path / "whole", 1, 1, max_iter=12), 1e-5)


@pytest.mark.slow
def test_sequences_over_two_processes(tmp_path):
    options = dict(lstm=True, max_iter=6, snapshot=3)
    two = whole_run(tmp_path / "two", 2, 1, **options)
    assert_equal(two, whole_run(tmp_path / "one", 1, 1, **options), 1e-5)


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_dies_and_the_run_goes_on(tmp_path, dies):
    """Without another process too, and with two again; the result is that of the run that was never stopped."""
    expected = whole_run(tmp_path / "whole", 1, 1, max_iter=40)
    folder = tmp_path / "run"
    with begun(folder, 2, 1, max_iter=10**6, snapshot=5) as processes:
        reached(folder, processes, 12)
        processes[dies].kill()
        assert processes[1 - dies].wait(TIMEOUT) == EXIT_STATUS
    said = (folder / f"err{1 - dies}").read_text()
    assert f"jaffe: process {dies} (host " in said
    assert f"this run cannot go on without it. go on with {folder}/run_snapshots" in said
    assert "Traceback" not in said
    latest = max(int(path.name.removeprefix("iter_")) for path in (folder / "run_snapshots").glob("iter_*")
                 if path.name.removeprefix("iter_").isdigit())
    assert latest >= 10
    if latest >= 35:  # a machine that is that fast
        pytest.skip("the run was past the iterations to compare")
    alone = whole_run(folder, 1, 1, max_iter=latest + 3, snapshot=1, restore=str(folder / "run_snapshots"))
    assert alone
    two = whole_run(folder, 2, 1, max_iter=40, snapshot=5, restore=str(folder / "run_snapshots"))
    assert_equal(two, expected, 1e-5)


@pytest.mark.parametrize("asked", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_stops_all(tmp_path, asked):
    with begun(tmp_path, 2, 1, max_iter=10**6) as processes:
        reached(tmp_path, processes, 3)
        processes[asked].send_signal(signal.SIGHUP)
        until = time.monotonic() + TIMEOUT
        while not list((tmp_path).glob("run_snapshots/iter_*[0-9]")):
            assert time.monotonic() < until
            time.sleep(0.05)
        processes[asked].terminate()
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    ends = [[line for line in (tmp_path / f"out{i}").read_text().splitlines() if line.startswith("ended")]
            for i in range(2)]
    assert ends[0] == ends[1]
    word, why, iteration = ends[0][0].split()
    assert (word, why) == ("ended", "interrupted")
    assert (tmp_path / "run_snapshots" / f"iter_{iteration}").is_dir()


def test_wrong_data_are_told_as_such(tmp_path):
    """In all processes at once: each says it, or that another ended with it."""
    with begun(tmp_path, 2, 1, max_iter=10, data={"data": np.zeros((5, 1, 8, 8)).tolist()}) as processes:
        statuses = [process.wait(TIMEOUT) for process in processes]
    assert all(statuses)
    assert all("arrays has the fields data; the net's inputs are data, label" in (tmp_path / f"err{i}").read_text()
               for i in range(2))


def test_pmap_is_for_one_process(tmp_path):
    with begun(tmp_path, 2, 1, max_iter=10, parallel=dict(by="pmap")) as processes:
        assert all(process.wait(TIMEOUT) for process in processes)
    said = [(tmp_path / f"err{i}").read_text() for i in range(2)]
    assert any('pmap is for one process' in one for one in said)


TRAIN = ["train", "--recipe", "logreg", "--iterations", "200", "--scaling", "strong", "--output", "run"]


def jaffe(*arguments: str, folder: Path, devices: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                   "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=environment)


def test_the_command(tmp_path):
    """Two devices, two processes, and two that mpirun starts: the same rows. Only the first process tells of them."""
    command = [sys.executable, "-c", "from jaffe.cli import main; main()"]
    began = {"devices": [jaffe(*command, *TRAIN, "--devices", "2", folder=tmp_path / "devices", devices=2)]}
    where = ["--distributed", "--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process"]
    began["processes"] = [jaffe(*command, *TRAIN, *where, str(i), folder=tmp_path / "processes") for i in range(2)]
    if MPIRUN:
        began["mpirun"] = [jaffe(MPIRUN, "-n", "2", "--map-by", "slot:OVERSUBSCRIBE", *command, *TRAIN, "--distributed",
                                 folder=tmp_path / "mpirun")]
    said = {name: [process.communicate(timeout=3 * TIMEOUT)[0] for process in processes]
            for name, processes in began.items()}
    for name, processes in began.items():
        assert not any(process.returncode for process in processes), said[name]
    assert "2 devices (cpu), which divide the net's batch: pmap" in said["devices"][0]
    assert "2 devices (cpu) of 2 processes, which divide the net's batch: jit" in said["processes"][0]
    assert "iteration" not in said["processes"][1]
    expected = rows(tmp_path / "devices")
    assert expected[-1]["accuracy"] > 0.9
    for name in list(began)[1:]:
        found = rows(tmp_path / name)
        assert [row["iteration"] for row in found] == [row["iteration"] for row in expected]
        np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in expected], rtol=1e-5)
