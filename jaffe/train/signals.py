"""Signals at a moment when nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and has done so in good order."""


class Signals:
    """While entered, signals only set flags, as in Caffe: SIGINT and SIGTERM ``stop``, SIGHUP ``save``.

    A second SIGINT or SIGTERM raises KeyboardInterrupt at once. Outside the main thread, where Python delivers no
    signals, nothing is changed; nor where the platform has no such signal, or it is ignored (nohup).
    """

    def __init__(self) -> None:
        self.stop = False
        self.save = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for name, handler in (("SIGINT", self._stop), ("SIGTERM", self._stop), ("SIGHUP", self._save)):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def check(self) -> None:
        """Raise Stopped if the run is to stop."""
        if self.stop:
            raise Stopped

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
