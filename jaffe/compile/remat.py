"""Rematerialisation: values that a training step does not keep, but computes once more in its backward pass."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaffe.compile.infer import Inferred
from jaffe.compile.ordering import after
from jaffe.netdef.errors import JaffeError

REMATS = ("auto", "none", "full")


@dataclass(frozen=True)
class Remat:
    """Whether a training step keeps its inner values.

    Attributes:
        policy: ``"none"`` keeps them; ``"full"`` keeps few, and computes the others once more; ``"auto"`` does so
            where they would not fit into ``memory``.
        memory: bytes; None: those of the device that JAX computes on.
    """

    policy: str = "auto"
    memory: int | None = None

    def room(self, inferred: Inferred, dtype: np.dtype, precision: np.dtype) -> int | None:
        """How many values of a layer's tops a training step may keep; None: any number.

        Weights of ``dtype`` are counted three times: themselves, their gradients, and what an update remembers of each.
        """
        if self.policy == "full":
            return 0
        memory = device_memory() if self.memory is None else self.memory
        if self.policy == "none" or memory is None:
            return None
        owned = [one.weight for node in inferred.stored for one in inferred.owned(node)]
        weights = sum(math.prod(weight.shape) * (3 if weight.trained else 1) for weight in owned)
        return max(memory - weights * dtype.itemsize, 0) // precision.itemsize


def remat_of(policy: str, memory: int | None) -> Remat:
    """What ``compile_net`` is told as an object. Raises JaffeError."""
    if policy not in REMATS:
        raise JaffeError(f'remat is "auto", "none" or "full"; received {policy!r}')
    if memory is not None and policy != "auto":
        raise JaffeError(f'memory is what remat="auto" goes by; received it with remat="{policy}"')
    if memory is not None and not (isinstance(memory, int) and memory > 0):
        raise JaffeError(f"memory is a positive number of bytes; received {memory!r}")
    return Remat(policy, memory)


def device_memory() -> int | None:
    """Bytes of the first device; of a CPU, those of the machine. None where neither is known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function ``(values, variables, rng)``, whose gradients keep no inner value of it: they run it once more.

    As ``jax.checkpoint``, whose second run XLA:CPU does not put off: it runs both side by side, and keeps all. Here the
    second run reads the gradients that it is for; and random numbers, which XLA would draw for all layers at the start,
    wait for the values that they are for.
    """

    @jax.custom_vjp
    def run(values: Any, variables: Any, rng: Any) -> Any:
        return function(values, variables, rng)

    def forward(values: Any, variables: Any, rng: Any) -> tuple[Any, Any]:
        return function(values, variables, after(values, rng)), (values, variables, rng)

    def backward(arguments: Any, gradients: Any) -> Any:
        values, variables, rng = arguments
        values, rng = after(gradients, (values, rng))
        return jax.vjp(function, values, variables, rng)[1](gradients)

    run.defvjp(forward, backward)
    return run
