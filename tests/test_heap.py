"""Freed memory stays with the process: counted in page faults, in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, jaffe, jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.outer(x, x))
x = jnp.ones(4096)
found = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(f(x))
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(found)[20])
"""


def faults(**variables: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | variables
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_results_of_64_mib_need_no_new_pages():
    """In most calls: 64 MiB are 16,384 pages of 4 KiB. A user's own setting of malloc is left alone."""
    assert faults() < 500
    assert faults(MALLOC_MMAP_THRESHOLD_="33554432") > 10000
