"""The keeper: a small process beside process 0 that holds a run of several processes together.

In it run JAX's coordination service and a server to which every process keeps a connection. The kernel closes that
the moment a process ends, however it ends, and the keeper tells the others. The service is not in process 0, as JAX has
it by default, because its end makes JAX abort every other process at once, with a stack trace and no word of the cause.

Run by its path, to start fast: it imports nothing of jaffe's, and of JAX only jaxlib. What it is to do stands in one
line of JSON on its standard input, whose end means that process 0 has ended; it answers with one line.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

GRACE = 10.0  # seconds that the processes have to end once process 0 has
DOUBT = 1.0  # seconds in which an error may turn out to have come of another process's end
# A host that vanishes closes nothing. It is given up after 10 + 6 * 5 seconds, before JAX's own 100.
KEEP_ALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6))


def keep_alive(connection: Any) -> None:
    """Have the kernel ask now and then whether the other end is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE:
        if hasattr(socket, name):  # as the platform has them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Keeper:
    """Knows the processes that are there, those that said goodbye, and the first that ended without: the cause."""

    def __init__(self, token: str, processes: int) -> None:
        self.token = token
        self.cause = ""
        self.left: set[int] = set()
        self.present: dict[int, asyncio.StreamWriter] = {}
        self.awaited = set(range(processes))  # those whose end is still to come, here already or not
        self.done = asyncio.Event()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One process, from its first word to its end."""
        hello = await _said(reader)
        if hello.get("token") != self.token:  # a stranger, as one that looks for open ports
            writer.close()
            return
        keep_alive(writer.get_extra_info("socket"))
        number, who = hello["process"], f"process {hello['process']} (host {hello['host']}, pid {hello['pid']})"
        self.present[number] = writer
        if self.cause:
            _tell(writer, {"cause": self.cause})
        words = await _said(reader)
        if "error" in words:
            await asyncio.sleep(DOUBT)
            self.ended(f"{who} ended with an error: {words['error']}", number)
        elif "bye" in words:
            self.left.add(number)
        else:
            self.ended(f"{who} ended", number)
        _tell(writer, {"noted": True})
        while await reader.read(1024):  # until it closes the connection
            pass
        writer.close()
        del self.present[number]
        self.awaited.discard(number)
        if not self.awaited:
            self.done.set()

    def ended(self, cause: str, number: int) -> None:
        """A process ended before its time: the others are to know, once."""
        if not self.cause:
            self.cause = cause
            for other, writer in self.present.items():
                if other != number:
                    _tell(writer, {"cause": cause})


def _tell(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Send a line; to one that is gone, nothing."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def _said(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next line; nothing where the connection ended, or what came is not ours."""
    try:
        message = json.loads(await reader.readline())
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}


def _serve(task: dict[str, Any]) -> Any:
    """JAX's coordination service."""
    from jaxlib import _jax

    port = int(task["address"].rpartition(":")[2])
    with socket.socket() as free:  # gRPC would share the port with whoever listens there
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("", port))
    # With recoverable the service leaves it to others to end a run that lost a process.
    return _jax.get_distributed_runtime_service(
        task["address"], task["processes"], **{**task["options"], "recoverable": True})


def _listening() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", 0), backlog=4096)


async def main() -> None:
    """Serve until process 0 and all others have ended."""
    loop = asyncio.get_running_loop()
    parent = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(parent), sys.stdin)
    task = json.loads(await parent.readline())
    keeper = Keeper(task["token"], task["processes"])
    listening = _listening()
    try:
        service = await asyncio.to_thread(_serve, task)
    except (OSError, RuntimeError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    await asyncio.start_server(keeper.attend, sock=listening)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    await parent.read()
    if 0 not in keeper.left:
        await asyncio.sleep(DOUBT)  # its own connection may say more
        keeper.ended("process 0 ended", 0)
    try:
        async with asyncio.timeout(GRACE):
            await keeper.done.wait()
    except TimeoutError:
        pass
    del service
    os._exit(0)  # its connections need no farewell


if __name__ == "__main__":
    asyncio.run(main())
