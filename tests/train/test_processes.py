"""Several processes over loopback: what they do together, and how they end when one of them dies."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jaffe.train.processes import EXIT_STATUS
from jaffe.train.processes.open_mpi import open_mpi
from tests.conftest import ROOT

TIMEOUT = 120  # seconds, on a machine that is busy with much else
START = """
import sys, time, threading
import jax, numpy as np
from jaffe.netdef.errors import JaffeError
from jaffe.train import processes

port, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
processes.join(f"localhost:{port}", count, number)
"""
COLLECTIVES = """
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((count,), ("data",))
total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()))
mine = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), np.full((1, 3), number + 1.0))
"""
FOREVER = START + COLLECTIVES + """
processes.advise(lambda: f"Go on with --snapshot runs/{number}")
for i in range(10**9):
    total(mine).block_until_ready()
    if i == 10:
        print("under way", flush=True)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@contextmanager
def started(
    program: str, count: int, folder: Path, *arguments: str, devices: int = 1
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes with that program and so many devices each; their output goes to files. None is left
    afterwards."""
    port = str(free_port())
    processes = []
    try:
        for i in range(count):
            with open(folder / f"out{i}", "w") as out, open(folder / f"err{i}", "w") as err:
                processes.append(subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", program, port, str(count), str(i), *arguments], cwd=ROOT,
                    stdout=out, stderr=err, text=True, start_new_session=True, env={
                        **os.environ, "JAX_PLATFORMS": "cpu",
                        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}))
        yield processes
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(processes: list[subprocess.Popen[str]], folder: Path) -> tuple[list[int], list[str], list[str]]:
    """Exit statuses, outputs and errors, once all have ended."""
    statuses = [process.wait(TIMEOUT) for process in processes]
    outputs, errors = ([(folder / f"{kind}{i}").read_text() for i in range(len(processes))] for kind in ("out", "err"))
    return statuses, outputs, errors


def named(number: int, processes: list[subprocess.Popen[str]]) -> str:
    return f"process {number} (host {socket.gethostname()}, pid {processes[number].pid})"


def under_way(processes: list[subprocess.Popen[str]], folder: Path) -> None:
    """Wait until all are within collectives."""
    until = time.monotonic() + TIMEOUT
    while not all("under way" in (folder / f"out{i}").read_text() for i in range(len(processes))):
        assert time.monotonic() < until
        for i, process in enumerate(processes):
            assert process.poll() is None, (folder / f"err{i}").read_text()
        time.sleep(0.05)


TOGETHER = START + COLLECTIVES + """
processes.join(f"localhost:{port}", count, number)  # a second time: nothing
got = processes.broadcast({"number": number, "list": [1, "two", None]}), processes.broadcast(number + 10)
assert got == ({"number": 0, "list": [1, "two", None]}, 10), got
assert processes.first() == (number == 0)
assert jax.process_count() == count == jax.device_count()

before = time.monotonic()
if number == 1:
    time.sleep(1)
# Two barriers at once, of which one waits in a thread while the devices work.
thread = threading.Thread(target=processes.barrier, args=("thread",))
thread.start()
for _ in range(5):
    result = total(mine)
processes.barrier("main")
processes.barrier("main")
thread.join()
assert time.monotonic() - before > 0.9
np.testing.assert_array_equal(np.asarray(result.addressable_data(0)), np.full((1, 3), count * (count + 1) / 2))
time.sleep(0.3 * number)  # they need not leave at the same moment
processes.leave()
processes.leave()
print("left")
"""


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_together(count, tmp_path):
    with started(TOGETHER, count, tmp_path) as processes:
        statuses, outputs, errors = ended(processes, tmp_path)
    assert statuses == [0] * count, errors
    assert [output.splitlines()[-1] for output in outputs] == ["left"] * count
    assert not any("jaffe:" in error for error in errors)


@pytest.mark.parametrize(("count", "victim"), [
    (2, 0), (3, 2), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((2, 1), (3, 0)))])
def test_killed(count, victim, tmp_path):
    with started(FOREVER, count, tmp_path) as processes:
        under_way(processes, tmp_path)
        processes[victim].kill()
        began = time.monotonic()
        statuses, _, errors = ended(processes, tmp_path)
        took = time.monotonic() - began
    assert took < 20  # a fraction of a second where the machine does nothing else
    who = named(victim, processes)
    for i in set(range(count)) - {victim}:
        assert statuses[i] == EXIT_STATUS, errors[i]
        assert errors[i].splitlines()[-1] == (
            f"jaffe: {who} ended; this run cannot go on without it. Go on with --snapshot runs/{i}.")
        assert errors[i].count("jaffe:") == 1
        assert "Traceback" not in errors[i]
        assert "Terminating process" not in errors[i]


FAILS = START + COLLECTIVES + """
total(mine).block_until_ready()
print("under way", flush=True)
try:
    if number == 1:
        raise JaffeError("the data of process 1 are missing.\\nmore lines")
    while True:
        total(mine).block_until_ready()
except BaseException as error:
    if HANDLED:
        processes.leave(error)
        sys.exit(f"jaffe: {error}")
    raise
"""


@pytest.mark.parametrize("handled", [True, False])
def test_error(handled, tmp_path):
    with started(FAILS.replace("HANDLED", str(handled)), 2, tmp_path) as processes:
        statuses, _, errors = ended(processes, tmp_path)
    assert statuses == [EXIT_STATUS, 1], errors
    assert errors[0].splitlines()[-1] == (
        f"jaffe: {named(1, processes)} ended with an error: the data of process 1 are missing; this run cannot go on "
        "without it. Start all again with --snapshot and the last snapshot; fewer processes will do.")
    assert "more lines" in errors[1]
    assert ("Traceback" in errors[1]) != handled


def test_end_without_leaving(tmp_path):
    program = START + "if number == 0: sys.exit(5)\nprocesses.barrier('never')"
    with started(program, 2, tmp_path) as processes:
        statuses, _, errors = ended(processes, tmp_path)
    assert statuses == [5, EXIT_STATUS], errors
    assert f"{named(0, processes)} ended; this run" in errors[1]


def test_forked_children_do_not_hide_a_death(tmp_path):
    forks = "if number == 0:\n    import os\n    if not os.fork():\n        time.sleep(1000)\n"
    program = FOREVER.replace("import sys", "import warnings; warnings.simplefilter('ignore')\nimport sys").replace(
        "for i in", f"{forks}for i in")
    with started(program, 2, tmp_path) as processes:
        under_way(processes, tmp_path)
        processes[0].kill()
        statuses, _, errors = ended(processes, tmp_path)
    assert statuses[1] == EXIT_STATUS, errors
    assert f"{named(0, processes)} ended; this run" in errors[1]


def alone(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a process that finds no other."""
    outer = {name: value for name, value in os.environ.items()
             if not name.startswith(("SLURM_", "OMPI_", "PMIX_", "KUBERNETES_", "JAX_COORD"))}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT,
        check=False, env={**outer, "JAX_PLATFORMS": "cpu", **environment})


WRONG = """
import ast, sys
from jaffe.netdef.errors import JaffeError
from jaffe.train import processes
try:
    eval(sys.argv[1])
except JaffeError as error:
    print(error)
    processes.barrier("none")  # as in one process
    assert processes.first()
    assert processes.broadcast({"a": (1,)}) == {"a": (1,)}
    processes.leave()
"""


@pytest.mark.parametrize(("call", "message"), [
    ("join()", "no cluster was found .* expected a start by srun, .*--coordinator HOST:PORT --processes N --process I"),
    ("join('localhost:1234')", "no cluster was found"),
    ("join('localhost:1234', 2)", "no cluster was found"),
    ("join('localhost', 2, 0)", "coordinator: expected HOST:PORT, of process 0; found 'localhost'"),
    ("join('localhost:70000', 2, 0)", "coordinator: expected HOST:PORT"),
    ("join('localhost:1234', 0, 0)", "processes: expected at least 1; found 0"),
    ("join('localhost:1234', 2, 2)", "process: expected its number, from 0 to 1; found 2"),
    ("join('localhost:1', 2, 1, timeout=3)", "process 0 was not to be reached at localhost:1 within 3 s: .*refused"),
    ("(__import__('jax').devices(), processes.join('localhost:1234', 1, 0))", "JAX was used before"),
])
def test_wrong(call, message):
    done = alone(WRONG, call if "processes" in call else f"processes.{call}")
    assert done.returncode == 0, done.stderr
    assert re.match(message, done.stdout), done.stdout


def test_one_that_is_alone_gives_up():
    done = alone("from jaffe.train import processes; import sys\n"
                 "processes.join(f'localhost:{sys.argv[1]}', 2, 0, timeout=4)", str(free_port()))
    assert done.returncode == 1
    assert "jaffe: process 0 waited 4 s for the others; expected 2 processes started" in done.stderr


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        done = alone(WRONG, f"processes.join('localhost:{taken.getsockname()[1]}', 1, 0)")
    assert "Address already in use; try another port" in done.stdout, done.stderr


def test_slurm_is_detected(tmp_path):
    """As srun would start it: one process of one."""
    done = alone("from jaffe.train import processes; processes.join(); import jax\n"
                 "print(jax.process_count(), processes.first()); processes.leave()",
                 SLURM_JOB_ID=str(free_port()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="1", SLURM_PROCID="0",
                 SLURM_LOCALID="0")
    assert done.stdout.split() == ["1", "True"], done.stderr


OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMIX_NAMESPACE": "prterun-node-7-4711@1"}


def test_open_mpi(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("OMPI_", "PMIX_", "JAX_"))]:
        monkeypatch.delenv(name)
    assert open_mpi() is None
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    found = open_mpi()
    host, port = found.pop("coordinator_address").split(":")
    assert host == "node-7"
    assert 61440 <= int(port) <= 65535
    assert found == {"num_processes": 4, "process_id": 3, "local_device_ids": [1],
                     "cluster_detection_method": "deactivate"}
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "other:1234")
    assert (open_mpi()["coordinator_address"], open_mpi()["local_device_ids"]) == ("other:1234", [0, 1])
    assert open_mpi("given:5")["coordinator_address"] == "given:5"
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    assert open_mpi()["coordinator_address"] == f"localhost:{port}"
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")  # Open MPI 4, which JAX knows
    assert open_mpi() is None


MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
BY_MPIRUN = """
import os, sys, time, jax, numpy as np
from jaffe.train import processes
processes.join()
count, number = jax.process_count(), jax.process_index()
""" + COLLECTIVES + """
print("total", np.asarray(total(mine).addressable_data(0))[0, 0], flush=True)
if sys.argv[1] == "dies":
    if number == 1:
        os.kill(os.getpid(), 9)
    while True:
        total(mine).block_until_ready()
processes.leave()
"""


@pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun")
@pytest.mark.parametrize("how", ["lives", pytest.param("dies", marks=pytest.mark.slow)])
def test_mpirun(how):
    environment = {"JAX_PLATFORMS": "cpu", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [MPIRUN, "--oversubscribe", "--bind-to", "none", "-n", "2", sys.executable, "-c", BY_MPIRUN, how], cwd=ROOT,
        capture_output=True, text=True, timeout=TIMEOUT, check=False, env={**os.environ, **environment})
    assert done.stdout.count("total 3.0") == 2, done.stderr
    if how == "lives":
        assert done.returncode == 0, done.stderr
    else:  # mpirun ends the others, too: who is first to say why is not certain
        assert done.returncode != 0
        assert re.search(r"process 1 \(host .*\) ended|signal 9", done.stdout + done.stderr)
