"""A run that is killed, again and again, comes to what the whole run comes to. `python -m tests.kill` does more."""

from __future__ import annotations

import pytest

from tests import kill


def test_killed_three_times(tmp_path):
    done = kill.check(tmp_path, kills=3, seed=1)
    assert len(done) == 3


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    done = kill.check(tmp_path, kills=20, seed=0)
    assert len(done) == 20
    assert any(one.within_snapshot for one in done)
