"""The connection of a process to the keeper, and what happens when it brings word that another process ended."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from jaffe.train.processes.keeper import keep_alive

EXIT_STATUS = 3  # of a process that ended because another did
ADVICE = "Start all again with --snapshot and the last snapshot; fewer processes will do"

T = TypeVar("T")


class Watch:
    """Tells the keeper how this process ends; ends this process when another did, wherever it is at that moment.

    Nothing else would get a process out of a collective that waits for one that is no more.

    Args:
        address: host and port of the keeper.
        token: what tells the processes of this run from strangers.
        number: of this process.
    """

    def __init__(self, address: tuple[str, int], token: str, number: int) -> None:
        self.advice: Callable[[], str] = lambda: ADVICE
        self._host = address[0]
        self._noted = threading.Event()
        self._closed = False
        self._connection = socket.create_connection(address, timeout=60)
        self._connection.settimeout(None)
        keep_alive(self._connection)
        self._lines = self._connection.makefile("r")
        self._say({"token": token, "process": number, "host": socket.gethostname(), "pid": os.getpid()})
        threading.Thread(target=self._listen, name="watch", daemon=True).start()
        # A forked child must not hold it open after our end. By its number: the object waits for its readers.
        os.register_at_fork(after_in_child=self._drop)

    def goodbye(self) -> None:
        """This process is about to end as it should."""
        self._say({"bye": True})

    def failed(self, error: str) -> None:
        """This process is about to end with an error; returns when the others have been told."""
        self._say({"error": error})
        self._noted.wait(5)

    def close(self) -> None:
        """End the connection; for the keeper, the process has ended."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):  # the keeper was first
                self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that listens
            self._connection.close()

    def _drop(self) -> None:
        if not self._closed:
            os.close(self._connection.fileno())

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the keeper is gone: the thread that listens sees it too
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        while True:
            try:
                line = self._lines.readline()
            except (OSError, ValueError):
                line = ""
            if self._closed:
                return
            message = json.loads(line) if line else {"cause": f"the host of process 0 ({self._host}), or the process "
                                                              "there that holds the others together, ended"}
            if "cause" in message:
                self._end(message["cause"])
            self._noted.set()

    def _end(self, cause: str) -> None:
        """Say why, and end at once: what this process waits for will not come, and its threads cannot be stopped."""
        advice = _within(2, self.advice) or ADVICE
        _within(1, lambda: (sys.stdout.flush(), sys.stderr.flush()))
        start = "\n" if os.isatty(2) else ""  # a line of progress may stand there
        os.write(2, f"{start}jaffe: {cause}; this run cannot go on without it. {advice.rstrip('.')}.\n".encode())
        os._exit(EXIT_STATUS)


def _within(seconds: float, function: Callable[[], T]) -> T | None:
    """What the function returns, or None where it fails or takes longer, as on a file system that does not answer."""
    results: list[T] = []

    def call() -> None:
        with suppress(Exception):  # whatever it is, this process ends, and with the message that matters
            results.append(function())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
