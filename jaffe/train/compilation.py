"""How long compiling takes, and whether JAX's persistent cache had the programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

from jaffe import heap

REQUEST = "/jax/compilation_cache/compile_requests_use_cache"
HIT = "/jax/compilation_cache/cache_hits"


@dataclass
class Compilation:
    """What it took to make programs ready.

    Attributes:
        seconds: as the clock on the wall has them.
        requests: programs that were wanted.
        hits: those of them that JAX's persistent compilation cache had.
    """

    seconds: float = 0.0
    requests: int = 0
    hits: int = 0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s" + ", from the cache" * (0 < self.hits == self.requests)


@contextmanager
def compiling() -> Iterator[Compilation]:
    """Around what compiles: times it, counts its programs, and then gives back the memory that compiling took.

    What it yields is complete when the context ends.
    """
    compilation = Compilation()

    def count(event: str, **_: object) -> None:
        compilation.requests += event == REQUEST
        compilation.hits += event == HIT

    jax.monitoring.register_event_listener(count)
    began = time.perf_counter()
    try:
        yield compilation
    finally:
        compilation.seconds = time.perf_counter() - began
        jax.monitoring.unregister_event_listener(count)
        heap.give_back()
