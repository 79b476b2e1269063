"""Joining a run of several processes, and leaving it."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import jax
from jax._src import distributed

from jaffe.netdef.errors import JaffeError
from jaffe.train.processes import keeper as keeper_module
from jaffe.train.processes.open_mpi import open_mpi
from jaffe.train.processes.watch import Watch

# Barriers and values wait for processes that are slow, never for one that has ended: the watch sees to that.
LONG = 7 * 24 * 3600 * 1000  # milliseconds
TO_END = 20  # seconds that a process has to end by itself after an error


class Keeper:
    """The keeper as process 0 holds it; in JAX's hands it is the service."""

    def __init__(self, address: str, processes: int, **options: Any) -> None:
        self.token = secrets.token_hex(16)
        with _blocked_signals():  # the keeper ends after process 0, which is asked to save and stop, whoever else is
            process: Any = subprocess.Popen(
                [sys.executable, "-P", keeper_module.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, bufsize=0)
        self._process = process
        os.register_at_fork(after_in_child=process.stdin.close)  # else a child would hold it open after our end
        task = {"address": address, "processes": processes, "options": options, "token": self.token}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        answer = json.loads(process.stdout.readline() or '{"error": "its keeper did not start"}')
        if "error" in answer:
            self.end()
            raise JaffeError(f"process 0 cannot serve at {address}: {answer['error']}; try another port")
        self.port: int = answer["port"]

    def shutdown(self) -> None:
        """What JAX calls; the others may still need the service: ``end`` is called when they do not."""

    def end(self) -> None:
        """Let the keeper end, as it does once no process needs it, and wait for it."""
        self._process.stdin.close()
        try:
            self._process.wait(2 * keeper_module.GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Membership:
    """What this process holds while it belongs to a run."""

    def __init__(self, watch: Watch, keeper: Keeper | None) -> None:
        self.watch = watch
        self.keeper = keeper
        self._before = sys.excepthook
        sys.excepthook = self._uncaught
        atexit.register(self.end, orderly=False)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        leave(error)
        self._before(kind, error, trace)

    def failed(self, error: BaseException) -> None:
        """Tell the others; the rest waits for the end of this process."""
        sys.excepthook = self._before
        self.watch.failed(_short(error))
        # What JAX has begun with the others may never end, and Python would wait for it.
        faulthandler.dump_traceback_later(TO_END, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115

    def end(self, *, orderly: bool) -> None:
        """Give everything back; the keeper serves as long as the others need it."""
        sys.excepthook = self._before
        atexit.unregister(self.end)
        if orderly:
            self.watch.goodbye()
        else:
            self.watch.close()  # for the others, a death
        jax.distributed.shutdown()
        self.watch.close()
        if self.keeper is not None:
            self.keeper.end()


_membership: Membership | None = None
_barriers: Counter[str] = Counter()
_broadcasts = 0


def join(
    coordinator: str = "", processes: int | None = None, number: int | None = None, *, timeout: int = 300
) -> None:
    """Join the other processes of this run; before anything else that uses JAX. A second call does nothing.

    From then on, when one of the processes ends without ``leave``, the others do so too, with a message and
    ``EXIT_STATUS``.

    Args:
        coordinator: ``HOST:PORT`` where process 0 is to be found; by default, with the other two, what the cluster
            says: SLURM, Open MPI, Kubernetes or Cloud TPU, as JAX detects them.
        processes: how many there are.
        number: of this one, from 0.
        timeout: seconds to wait for the others.

    Raises:
        JaffeError: no cluster was found and the arguments do not say enough; or the others could not be reached.
    """
    global _membership
    if distributed.global_state.client is not None:
        return
    _check(coordinator, processes, number)
    where: dict[str, Any] = {"coordinator_address": coordinator or None, "num_processes": processes,
                             "process_id": number}
    if None in (processes, number) or not coordinator:
        where = open_mpi(coordinator) or where
    # It would listen for SIGTERM, and hide it from whoever else does.
    jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(timeout, _too_late, [timeout])
    late.daemon = True
    late.start()
    try:
        with _kept_apart(timeout):
            jax.distributed.initialize(**where, initialization_timeout=2 * timeout + 60)
        _membership = _watched()
        barrier("join")  # so that none ends before all would know
    except BaseException as error:
        _undo()
        problem = _in_words(error)
        if problem:
            raise JaffeError(problem) from error
        raise
    finally:
        late.cancel()


def leave(error: BaseException | None = None) -> None:
    """Leave the run: at the end, when all others do so too, or with the error that ends this process alone.

    With an error, the others are told of it, and end; this process goes on to end by itself. An error that came of
    another process's end is not told: it ends this process here, with the message that names the other.
    """
    global _membership
    if _membership is None:
        return
    membership, _membership = _membership, None
    if error is not None:
        membership.failed(error)
        return
    barrier("leave")
    membership.end(orderly=True)


def advise(advice: Callable[[], str]) -> None:
    """Give what the message says to do, when another process has ended: called at that moment, from a thread."""
    if _membership is not None:
        _membership.watch.advice = advice


def first() -> bool:
    """Whether this process is the one that writes logs."""
    return distributed.global_state.process_id == 0


def barrier(name: str) -> None:
    """Wait until all processes are here. No device takes part: it may be called from any thread, with steps under way.

    Barriers of one name are told apart by their count.
    """
    client = distributed.global_state.client
    if client is not None:
        _barriers[name] += 1
        client.wait_at_barrier(f"jaffe/{name}/{_barriers[name]}", LONG)


def broadcast(value: Any) -> Any:
    """The value that process 0 has, in all; small, and one that JSON can hold. Processes call it in the same order."""
    global _broadcasts
    client = distributed.global_state.client
    if client is None:
        return value
    _broadcasts += 1
    key = f"jaffe/broadcast/{_broadcasts}"
    if first():
        client.key_value_set(key, json.dumps(value))
    return json.loads(client.blocking_key_value_get(key, LONG))


def _check(coordinator: str, processes: int | None, number: int | None) -> None:
    found = re.fullmatch(r".+:(\d+)", coordinator)
    if coordinator and not (found and 0 < int(found[1]) < 2**16):
        raise JaffeError(f"coordinator: expected HOST:PORT, of process 0; found {coordinator!r}")
    if processes is not None and processes < 1:
        raise JaffeError(f"processes: expected at least 1; found {processes}")
    if number is not None and (number < 0 or (processes is not None and number >= processes)):
        most = "" if processes is None else f" to {processes - 1}"
        raise JaffeError(f"process: expected its number, from 0{most}; found {number}")


@contextmanager
def _kept_apart(timeout: int) -> Iterator[None]:
    """Inside, JAX starts its coordination service in a keeper, and its client when that answers: it has no option for
    either."""
    from jaxlib import _jax

    service, client = _jax.get_distributed_runtime_service, _jax.get_distributed_runtime_client

    def reached(address: str, *args: Any, **kwargs: Any) -> Any:
        _reach(address, timeout)
        return client(address, *args, **kwargs)

    _jax.get_distributed_runtime_service, _jax.get_distributed_runtime_client = Keeper, reached
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service, _jax.get_distributed_runtime_client = service, client


def _reach(address: str, timeout: int) -> None:
    """Wait until process 0 serves there. Where it does not, JAX would abort this process."""
    until = time.monotonic() + timeout - 1
    while True:
        try:
            socket.create_connection(_host_and_port(address), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise JaffeError(f"process 0 was not to be reached at {address} within {timeout} s: {error}; expected "
                                 "it started on that host, and the port open between the hosts") from error
        time.sleep(0.2)


def _too_late(timeout: int) -> None:
    """End a process that waits within JAX for others that do not come: an error could not get it out."""
    state = distributed.global_state
    os.write(2, f"jaffe: process {state.process_id} waited {timeout} s for the others; expected {state.num_processes} "
                f"processes started, and that all reach {state.coordinator_address}\n".encode())
    os._exit(1)


def _watched() -> Membership:
    """Connect to the keeper, once process 0 has told where it is."""
    state = distributed.global_state
    client: Any = state.client
    keeper: Any = state.service
    if keeper is not None:
        client.key_value_set("jaffe/keeper", json.dumps([keeper.port, keeper.token]))
    port, token = json.loads(client.blocking_key_value_get("jaffe/keeper", LONG))
    host, _ = _host_and_port(str(state.coordinator_address))
    return Membership(Watch((host, port), token, state.process_id), keeper)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _undo() -> None:
    """Leave nothing of a run that did not come about."""
    state = distributed.global_state
    keeper: Any = state.service
    state.client = state.service = None
    state.process_id = 0
    if keeper is not None:
        keeper.end()


def _in_words(error: BaseException) -> str:
    """What went wrong in joining, for whoever started the processes; ``""`` where the error is to stand as it is."""
    if isinstance(error, JaffeError) or not isinstance(error, Exception):
        return ""
    if "before any JAX" in str(error):
        return "JAX was used before the processes joined; join first: a backend does not change once it is there"
    if isinstance(error, ValueError) and re.search("(must|should) be defined", str(error)):
        kubernetes = " In Kubernetes: pip install jax[k8s]." if "KUBERNETES_SERVICE_HOST" in os.environ else ""
        return ("no cluster was found that says which processes there are; expected a start by srun, by mpirun of Open "
                "MPI, or in a Kubernetes Job; or, for each process, --coordinator HOST:PORT --processes N --process I."
                + kubernetes)
    return f"the processes of this run could not join: {error}"


def _short(error: BaseException) -> str:
    """An error in one line."""
    kind = "" if isinstance(error, JaffeError) else f"{type(error).__name__}: "
    return kind + _first_line(str(error))


def _first_line(text: str, most: int = 300) -> str:
    line = text.strip().partition("\n")[0]
    return (line if len(line) <= most else line[:most] + "...").rstrip(".")


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """A process begun inside never gets the signals that ask a run to stop or save."""
    asked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
