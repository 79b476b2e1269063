"""Freed memory stays with the process, until it is given back: page faults and pages, in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

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

GIVEN_BACK = """
import ctypes, resource
from jaffe import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20
blocks = [libc.malloc(1 << 12) for _ in range(1 << 14)]  # 64 MiB
for block in blocks:
    ctypes.memset(block, 1, 1 << 12)
for block in blocks[:-1]:  # the last one keeps the heap from being cut off at its end
    libc.free(block)
before = resident()
heap.give_back()
print(before - resident())
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with memory")


def printed(program: str, **variables: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@needs_glibc
def test_results_of_64_mib_need_no_new_pages():
    """In most calls: 64 MiB are 16,384 pages of 4 KiB. A user's own setting of malloc is left alone."""
    assert printed(FAULTS) < 500
    assert printed(FAULTS, MALLOC_MMAP_THRESHOLD_="33554432") > 10000


@needs_glibc
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident pages are read from Linux's /proc")
def test_small_blocks_that_are_free_are_given_back():
    """64 MiB of them, of which glibc keeps all by itself."""
    assert 60 <= printed(GIVEN_BACK) <= 70
