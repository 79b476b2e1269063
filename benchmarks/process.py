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


def run(task: Task, cache: str, *options: str, stored: bool = False) -> dict[str, Any]:
    """What ``benchmarks.worker`` prints of the task.

    Args:
        cache: a folder for compiled programs.
        options: further ones of the worker.
        stored: whether JAX uses the folder; jaffe then leaves oneDNN, whose programs cannot be stored.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.worker", task.framework, task.net, task.mode, f"--batch={task.batch}",
               f"--variant={task.variant}", f"--precision={task.precision}", *options]
    if task.size:
        command.append(f"--size={task.size}")
    # As jaffe's command line has it: small programs are kept too.
    caches = {"JAX_ENABLE_COMPILATION_CACHE": str(stored).lower(), "JAX_COMPILATION_CACHE_DIR": cache,
              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_fresh_cache(task: Task, *options: str) -> dict[str, Any]:
    """As ``run``, with an empty folder. Of jaffe's training also ``cold_s`` and ``warm_s``: ``first_s`` of a process
    that stores its programs, and of one that finds them."""
    with tempfile.TemporaryDirectory() as cache:
        found = run(task, cache, *options)
        if task.framework == "jaffe" and task.mode == "train":
            found["cold_s"], found["warm_s"] = (
                run(task, cache, "--seconds=0", stored=True)["first_s"] for _ in range(2))
        return found
