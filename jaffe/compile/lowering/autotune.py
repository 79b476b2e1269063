"""Measuring the candidates for a convolution on the machine at hand, and remembering what was fastest."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.lowering.candidates import Problem, fitting
from jaffe.compile.lowering.costs import predicted, within_nets
from jaffe.compile.lowering.layout import channels_first, channels_last
from jaffe.folders import cache_folder
from jaffe.netdef.atomic import write_file
from jaffe.netdef.errors import SpecError

ROUNDS, MOST_ROUNDS, SECONDS = 5, 100, 0.2  # at least so many, at most so many, and for about so long
MOST_MEASURED = 6  # the candidates that the rules like best; each takes a fraction of a second to compile
WORTH_MS = 0.3  # what takes less by the rules is left to them


def tuned(problem: Problem) -> str:
    """The name of the fastest candidate on the default device: remembered, or measured now and then remembered."""
    path = remembered()
    known = _read(path)
    key = problem.key
    if known.get(key) in fitting(problem):
        return known[key]
    names = sorted(fitting(problem), key=lambda name: predicted(problem, name))
    if len(names) == 1 or predicted(problem, names[0]) < WORTH_MS:
        return names[0]
    times = measure(problem, [name for i, name in enumerate(names) if i < MOST_MEASURED or name == "xla"])
    known[key] = min(times, key=lambda name: times[name] * within_nets(problem, name))
    _write(path, known)
    return known[key]


def remembered() -> Path:
    """The file of what was fastest, by the default device's kind and the version of JAX.

    In the folder ``lowering`` of ``folders.cache_folder``. It may be deleted at any time.
    """
    device = jax.devices()[0].device_kind
    name = "".join(c if c.isalnum() else "-" for c in f"{device}-{os.cpu_count()}-jax-{jax.__version__}")
    return cache_folder() / "lowering" / f"{name}.json"


def measure(problem: Problem, names: Sequence[str]) -> dict[str, float]:
    """Seconds that each of these candidates takes: the lower quartile of some, taken in turn, so that neither what else
    the machine does counts nor a thread's waking is left out. Each is called twice, of which the second counts: what
    the cache holds is then its own. Runs on the default device."""
    with jax.ensure_compile_time_eval():  # a shape may be met while a program is traced
        compiled = {name: _compiled(problem, name) for name in names}
        found: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(MOST_ROUNDS):
            for name, (function, arguments) in compiled.items():
                jax.block_until_ready(function(*arguments))
                began = time.perf_counter()
                jax.block_until_ready(function(*arguments))
                found[name].append(time.perf_counter() - began)
            if turn + 1 >= ROUNDS and sum(map(sum, found.values())) > SECONDS:
                break
    return {name: float(np.quantile(times, 0.25)) for name, times in found.items()}


@cache
def _read(path: Path) -> dict[str, str]:
    """What is remembered; empty where the file cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, known: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(known, indent=0, sort_keys=True))
    except (OSError, SpecError) as error:
        warnings.warn(f"what was tuned is not remembered: {error}", stacklevel=2)


def _compiled(problem: Problem, name: str) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """The candidate as a jitted function that ran once, and arrays for it, channels last in memory as within a net. The
    input comes from a ReLU, as there, which XLA computes once more for every slice that a candidate takes."""
    function = fitting(problem)[name].function
    shapes = (problem.x, problem.weight, problem.out)
    x, weight, out = (
        jax.random.normal(jax.random.key(i), shape, jnp.dtype(problem.dtype)) for i, shape in enumerate(shapes)
    )
    if problem.which == "forward":
        arguments = channels_last(x), weight
        call = lambda x, w: channels_last(function(channels_first(jax.nn.relu(x)), w, problem.geometry))  # noqa: E731
    elif problem.which == "input":
        arguments = channels_last(out), weight
        call = lambda g, w: channels_last(function(channels_first(g), w, problem.geometry, problem.x[2:]))  # noqa: E731
    else:
        arguments = channels_last(x), channels_last(out)
        call = lambda x, g: function(channels_first(x), channels_first(g), problem.geometry, problem.kernel)  # noqa: E731
    jitted = jax.jit(call)
    jax.block_until_ready(jitted(*arguments))
    return jitted, arguments
