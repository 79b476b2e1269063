"""What is said of compiling."""

from __future__ import annotations

from jaffe.train.compilation import Compilation


def test_from_the_cache_when_it_had_every_program():
    assert str(Compilation(3.21)) == "3.2 s"
    assert str(Compilation(3.21, requests=2)) == "3.2 s"
    assert str(Compilation(3.21, requests=2, hits=1)) == "3.2 s"
    assert str(Compilation(0.46, requests=2, hits=2)) == "0.5 s, from the cache"
