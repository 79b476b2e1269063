"""What a script sets for all of its nets, as in pycaffe: the device, the random numbers, the log."""

from __future__ import annotations

import logging
import operator
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.netdef.errors import JaffeError

_LOG = logging.getLogger("jaffe.pycaffe")
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # glog's 0 to 3


class _Runtime:
    """The settings. Nets read them at every call; nothing else does."""

    def __init__(self) -> None:
        self.device: jax.Device | None = None  # None: JAX's own choice
        self.gpu = 0
        self.seed: int | None = None
        self.random = np.random.default_rng()


_RUNTIME = _Runtime()


def _gpus() -> list[jax.Device]:
    try:
        return jax.devices("gpu")
    except RuntimeError:
        platforms = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise JaffeError(f"there is no GPU that JAX can use; it sees {platforms}: pip install 'jaffe[cuda]', or "
                         "set_mode_cpu()") from None


def set_mode_cpu() -> None:
    """Compute on the CPU from now on. Without a mode, JAX's default device computes: a GPU where there is one."""
    _RUNTIME.device = jax.devices("cpu")[0]


def set_mode_gpu() -> None:
    """Compute on the GPU of ``set_device``, at first number 0. Raises JaffeError when JAX has none."""
    _RUNTIME.device = _gpus()[_RUNTIME.gpu]


def set_device(device_id: int) -> None:
    """The GPU that ``set_mode_gpu`` chooses, or has chosen.

    Raises:
        JaffeError: there is no such GPU.
    """
    gpus = _gpus()
    if device_id not in range(len(gpus)):
        raise JaffeError(f"there is no GPU {device_id}; expected 0 to {len(gpus) - 1}")
    _RUNTIME.gpu = device_id
    if _RUNTIME.device is not None and _RUNTIME.device.platform == "gpu":
        set_mode_gpu()


def chosen_device() -> jax.Device | None:
    """The device of ``set_mode_cpu`` or ``set_mode_gpu``; ``None`` before either."""
    return _RUNTIME.device


@contextmanager
def on_device() -> Iterator[None]:
    """Inside, JAX computes on the chosen device."""
    if _RUNTIME.device is None:
        yield
        return
    with jax.default_device(_RUNTIME.device):
        yield


def set_random_seed(seed: int) -> None:
    """What fillers and random layers draw from now on, the same for the same seed. The numbers are not Caffe's."""
    try:
        _RUNTIME.seed = operator.index(seed)
    except TypeError:
        raise JaffeError(f"a seed is a whole number; received {seed!r}") from None
    _RUNTIME.random = np.random.default_rng(_RUNTIME.seed % 2**64)


def chosen_seed() -> int | None:
    """The number of ``set_random_seed``, if there was a call."""
    return _RUNTIME.seed


def draw() -> np.ndarray:
    """The words of a random key that no other call has had."""
    return _RUNTIME.random.integers(0, 2**32, _words(), np.uint32)


def new_key() -> jax.Array:
    """A random key that no other call has had."""
    return jax.random.wrap_key_data(jnp.asarray(draw()))


@cache
def _words() -> tuple[int, ...]:
    return jax.random.key_data(jax.random.key(0)).shape


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show messages of this level and above on stderr: 0 information, 1 warnings, 2 errors, 3 fatal ones."""
    if level not in range(len(_LEVELS)):
        raise JaffeError(f"a level of the log is 0, 1, 2 or 3; received {level!r}")
    for handler in list(_LOG.handlers):
        _LOG.removeHandler(handler)
    _LOG.setLevel(_LEVELS[level])
    _LOG.propagate = not stderr
    if stderr:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname).1s%(asctime)s %(message)s", "%m%d %H:%M:%S"))
        _LOG.addHandler(handler)


def log(message: str) -> None:
    """A line of information, to Python's logger ``jaffe.pycaffe``."""
    _LOG.info("%s", message)


class Timer:
    """A stopwatch."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._ms = 0.0

    def start(self) -> None:
        """Start it, from 0."""
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop it."""
        if self._began is not None:
            self._ms, self._began = 1e3 * (time.perf_counter() - self._began), None

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop; ``stop`` is called where it was not."""
        self.stop()
        return self._ms


def solver_count() -> int:
    """Solvers that train together: 1."""
    return 1


def solver_rank() -> int:
    """Which of them this is: 0."""
    return 0


def set_solver_count(count: int) -> None:
    """Raises JaffeError unless it is 1: several devices are jaffe.Solver(parallel=...)'s."""
    _only("solver_count", count, 1)


def set_solver_rank(rank: int) -> None:
    """Raises JaffeError unless it is 0."""
    _only("solver_rank", rank, 0)


def set_multiprocess(multiprocess: bool) -> None:
    """Raises JaffeError unless it is False."""
    _only("multiprocess", multiprocess, False)


def has_nccl() -> bool:
    """Whether ``NCCL`` can be used: no."""
    return False


class NCCL:
    """Caffe's way to several GPUs. Raises JaffeError: jaffe.Solver(parallel=...) is jaffe's."""

    def __init__(self, *arguments: Any):
        raise JaffeError("there is no NCCL here: XLA adds gradients up itself; jaffe.Solver(parallel=jaffe.Parallel()) "
                         "or jaffe train --gpu all train on several GPUs")


def _only(name: str, value: Any, possible: Any) -> None:
    if value != possible:
        raise JaffeError(f"{name} is {possible} here; received {value!r}; jaffe.Solver(parallel=jaffe.Parallel()) or "
                         "jaffe train --gpu all train on several GPUs")
