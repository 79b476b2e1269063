"""Tests on several virtual CPU devices: JAX takes their number when it starts, so each runs in a process of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.conftest import ROOT

_INSIDE = "JAFFE_TEST_DEVICES"


def on_devices(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: run the test by a pytest of its own, which sees so many CPU devices."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            if os.environ.get(_INSIDE) == str(count):
                test(*args, **kwargs)
                return
            name = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
            done = run("-m", "pytest", "-p", "no:xdist", "-x", name, devices=count, inside=str(count))
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]

        return wrapper

    return decorate


def run(*arguments: str, devices: int, inside: str = "", timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run Python with so many CPU devices. LLVM optimises nothing: what these tests compare is how work is spread, and
    most of their time is compiling."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", _INSIDE: inside}
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout, check=False)
