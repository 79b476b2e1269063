"""What a process is to time, and what the frameworks make of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.nets import NETS


@dataclass(frozen=True)
class Task:
    """A framework, a net, and what is done with it.

    Attributes:
        framework: ``"jaffe"``, ``"flax"`` or ``"torch"``.
        variant: of the framework; the others have none.
        net: a key of ``NETS``.
        mode: ``"train"`` or ``"infer"``.
        precision: ``"float32"`` or ``"bfloat16"``.
        size: of images, in place of the net's own.
    """

    framework: str
    variant: str
    net: str
    mode: str
    batch: int
    precision: str = "float32"
    size: int | None = None

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """As ``Net.data``."""
        return NETS[self.net].data(self.batch, self.size)


class Stopwatch:
    """Adds up the seconds spent within ``with``."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@dataclass(frozen=True)
class Job:
    """A net that is ready to step.

    Attributes:
        step: begins a step; returns its loss, or what the net puts out.
        wait: returns when a step is done.
        params: numbers that are trained.
        built: seconds spent so far on what the first step needs, weights excepted.
        drawn: seconds spent on first weights.
        device: what computes: ``"cpu"``, or the accelerator's name.
        peak_bytes: most memory of an accelerator so far; ``None`` on the CPU.
        bound_ms: what the net's operations would take at the speed of one large matrix product, if that is known.
    """

    step: Callable[[], Any]
    wait: Callable[[Any], Any]
    params: int
    built: Stopwatch
    drawn: Stopwatch
    device: str
    peak_bytes: Callable[[], int | None]
    bound_ms: Callable[[], float] | None = None
