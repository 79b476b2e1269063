"""How fast training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Images a second since the last question, without compiling, testing and saving."""

    def __init__(self, images: int):
        self.images = images
        self.began: float | None = None
        self.steps = 0

    def tick(self) -> None:
        """A step is done. The first one, which compiles, only starts the clock."""
        if self.began is None:
            self.began = time.perf_counter()
        else:
            self.steps += 1

    def rate(self) -> float | None:
        """``None`` when no step was timed."""
        if not self.steps or self.began is None:
            return None
        now = time.perf_counter()
        rate = self.steps * self.images / max(now - self.began, 1e-9)
        self.began, self.steps = now, 0
        return round(rate, 1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        at = time.perf_counter()
        yield
        if self.began is not None:
            self.began += time.perf_counter() - at
