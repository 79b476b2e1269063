"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests run in several processes, which on a GPU share its memory: none may take it all.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Nothing is compiled into the user's own cache, nor taken from it.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax

from tests import compiled_once

compiled_once.install()

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published nets, real data and long traces that are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("../shared (published nets and real data) is not here")
    return SHARED


@pytest.fixture(autouse=True, scope="module")
def forget_compiled() -> Iterator[None]:
    """JAX keeps every compiled function: gigabytes over all tests."""
    yield
    compiled_once.forget()
    jax.clear_caches()


@pytest.fixture
def unoptimised() -> Iterator[None]:
    """Programs compile in less time and run slower: for hundreds of small ones, each of which runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
