"""Starts processes that time a task, and reads what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.job import Task

ROOT = Path(__file__).parents[1]


def run(task: Task, cache: str, *options: str) -> dict[str, Any]:
    """What ``benchmarks.worker`` prints of the task. Programs that it compiles are kept in the folder ``cache``.

    Args:
        options: further ones of the worker.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.worker", task.framework, task.net, task.mode, f"--batch={task.batch}",
               f"--variant={task.variant}", f"--precision={task.precision}", *options]
    if task.size:
        command.append(f"--size={task.size}")
    # As jaffe's command line has it: small programs are kept too.
    caches = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": cache,
              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_fresh_cache(task: Task, *options: str) -> dict[str, Any]:
    """As ``run``, with an empty folder. Of jaffe's training also ``warm_s``: ``first_s`` of a second process, which
    finds the programs of the first."""
    with tempfile.TemporaryDirectory() as cache:
        found = run(task, cache, *options)
        if task.framework == "jaffe" and task.mode == "train":
            found["warm_s"] = run(task, cache, "--seconds=0")["first_s"]
        return found
