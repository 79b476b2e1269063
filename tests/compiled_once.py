"""Programs that are equal are compiled once in a test process: many tests begin with the same net, and train it anew.

JAX keeps a compiled program by the function it came from, so that an equal function of another test is compiled again.
Its cache on disk would know them as equal, but with it jaffe leaves oneDNN.
"""

from __future__ import annotations

from typing import Any

from jax._src import compiler

_compiled: dict[tuple[Any, ...], Any] = {}
_compile = compiler.backend_compile_and_load


def install() -> None:
    """From now on."""
    compiler.backend_compile_and_load = _known_or_compile


def forget() -> None:
    """Let go of all programs."""
    _compiled.clear()


def _known_or_compile(backend: Any, module: Any, devices: Any, options: Any, callbacks: Any) -> Any:
    text = str(module)  # without the places in Python's code that its operations came from
    if callbacks or "callback" in text:  # belongs to the function that it calls
        return _compile(backend, module, devices, options, callbacks)
    key = (backend, text, str(devices), options.SerializeAsString())
    if key not in _compiled:
        _compiled[key] = _compile(backend, module, devices, options, callbacks)
    return _compiled[key]
