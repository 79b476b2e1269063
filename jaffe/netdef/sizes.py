"""Sizes that a caller gives: shapes and batches."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from jaffe.netdef.errors import JaffeError

_MOST = 2**31 - 1  # Caffe's limit on an axis


def sizes(what: str, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape given from outside as a tuple of ints. Raises JaffeError unless all sizes are positive whole numbers."""
    try:
        result = tuple(0 if isinstance(size, bool) else operator.index(size) for size in shape)
    except TypeError:
        result = (0,)
    if any(size < 1 for size in result):
        raise JaffeError(f"{what}: sizes are positive whole numbers; received {shape!r}")
    if any(size > _MOST for size in result):
        raise JaffeError(f"{what}: sizes are at most {_MOST}; received {shape!r}")
    return result
