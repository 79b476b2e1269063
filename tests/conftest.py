"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published nets, real data and long traces that are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("../shared (published nets and real data) is not here")
    return SHARED
