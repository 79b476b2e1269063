"""What jaffe's and Flax's processes share."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def count(tree: Any) -> int:
    """Numbers in arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def any_weights(shapes: Any) -> Any:
    """Weights to infer with: small normal numbers; statistics are ones. Drawn by NumPy, since JAX compiles a program
    for each shape, which takes longer than all steps."""
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.05 * random.standard_normal(leaf.shape, np.float32), shapes["params"])
    others = {name: jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), tree)
              for name, tree in shapes.items() if name != "params"}
    return jax.device_put({"params": params, **others})


def device() -> str:
    """What computes: ``"cpu"``, or the accelerator's name."""
    return jax.devices()[0].device_kind


def peak_bytes() -> int | None:
    """Most memory of the accelerator so far; ``None`` on the CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def matmul_ms(flops: int, precision: str) -> float:
    """What so many operations take at the speed of a product of 2048 x 2048 matrices; the median of several."""
    size = 2048
    a = jnp.ones((size, size), precision)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    times = []
    for _ in range(9):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times) * flops / (2 * size**3)
