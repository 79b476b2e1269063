"""Times single operations, forward and backward: XLA's own and jaffe's, and a product with and without kept memory.

    python -m benchmarks.operations

The tables are written to docs/performance.md. One process times an operation both ways in turn; what memory costs is
seen in processes of their own, since a process keeps memory or does not.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaffe  # noqa: F401  keeps memory, unless the environment says otherwise
from benchmarks.__main__ import PAGE
from benchmarks.process import ROOT
from benchmarks.table import number, replaced
from jaffe.compile.lowering import Lowering
from jaffe.compile.lowering.batch_statistics import normalise_batch
from jaffe.compile.lowering.pooling import PoolGeometry, average_pool, max_pool
from jaffe.compile.lowering.response import normalise_response

Call = Callable[[jax.Array, Lowering], jax.Array]
ROUNDS = 15


def window(stride: int, pad: int = 0) -> PoolGeometry:
    """3x3."""
    return PoolGeometry((3, 3), (stride, stride), ((pad, pad), (pad, pad)))


OPERATIONS: dict[str, tuple[tuple[int, ...], Call]] = {
    "max pooling 3x3, stride 2": ((16, 96, 55, 55), lambda x, how: max_pool(x, window(2), how)),
    "max pooling 3x3, stride 1": ((8, 192, 28, 28), lambda x, how: max_pool(x, window(1, 1), how)),
    "average pooling 3x3, stride 2": ((8, 64, 112, 112), lambda x, how: average_pool(x, window(2), how)),
    "LRN across 5 channels": (
        (16, 96, 55, 55), lambda x, how: normalise_response(x, (2, 0, 0), 2e-5, 0.75, 1.0, how)),
    "batch normalisation": ((8, 64, 56, 56), lambda x, how: normalise_batch(x, 1e-5, how)[0]),
}


def milliseconds(functions: list[Callable[[], object]]) -> list[list[float]]:
    """Of each, called in turn; after one call to compile."""
    found: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS + 1):
        for function, times in zip(functions, found, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(function())
            times.append(1e3 * (time.perf_counter() - began))
    return [times[1:] for times in found]


def both_ways(shape: tuple[int, ...], call: Call) -> tuple[list[float], list[float]]:
    """Milliseconds forward and backward, plain as declared and chosen, in the layout of each."""

    def compiled(how: Lowering) -> Callable[[], object]:
        first = jax.random.normal(jax.random.key(0), shape)
        if how.plain:
            x, function = first, call
        else:
            x = jnp.moveaxis(first, 1, -1)
            function = lambda x, how: jnp.moveaxis(call(jnp.moveaxis(x, -1, 1), how), 1, -1)  # noqa: E731

        @jax.jit
        def both(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, pull = jax.vjp(lambda x: function(x, how), x)
            return out, pull(gradient)[0]

        gradient = jnp.ones_like(jax.eval_shape(lambda x: function(x, how), x))
        return lambda: both(x, gradient)

    plain, chosen = milliseconds([compiled(Lowering(plain=True)), compiled(Lowering())])
    return plain, chosen


def product() -> float:
    """Milliseconds of an inner product's weight gradient, 151 MB that are returned at every call."""
    x, gradient = jnp.ones((16, 9216)), jnp.ones((16, 4096))
    update = jax.jit(lambda x, gradient, weight: weight - 0.1 * (gradient.T @ x))
    weight = jnp.zeros((4096, 9216))
    (times,) = milliseconds([lambda: update(x, gradient, weight)])
    return statistics.median(times)


def in_process(**variables: str) -> float:
    """``product`` in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.operations", "product"], cwd=ROOT, text=True, check=True,
                          env={**os.environ, **variables}, capture_output=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Write the tables."""
    if sys.argv[1:] == ["product"]:
        print(json.dumps(product()))
        return
    lines = ["| forward and backward | values | XLA's own, ms | jaffe, ms |", "|---|---|---:|---:|"]
    for name, (shape, call) in OPERATIONS.items():
        plain, chosen = (statistics.median(times) for times in both_ways(shape, call))
        lines.append(f"| {name} | {'x'.join(map(str, shape))} | {number(plain)} | {number(chosen)} |")
        print(lines[-1], flush=True)
    kept, given_back = [], []
    for _ in range(3):
        kept.append(in_process())
        given_back.append(in_process(MALLOC_ARENA_MAX="0"))
    fresh, again = (number(statistics.median(times)) for times in (given_back, kept))
    memory = f"Memory given back {fresh} ms, kept {again} ms (medians of three processes each)."
    print(memory)
    page = replaced(PAGE.read_text(), "operations", "\n".join(lines) + "\n")
    PAGE.write_text(replaced(page, "kept memory", memory + "\n"))


if __name__ == "__main__":
    main()
