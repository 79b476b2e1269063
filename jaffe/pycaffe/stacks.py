"""Any number of items through a net that takes batches of one size: cut, and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError


def batches(given: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """The arrays cut into batches of this size, the last filled up with zeros. None for no arrays.

    Raises:
        JaffeError: they have different numbers of items, or none.
    """
    arrays = {name: np.asarray(array) for name, array in given.items()}
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if arrays and (len(set(counts.values())) != 1 or 0 in counts.values()):
        raise JaffeError(f"expected arrays with as many items, 1 and more; received {counts}")
    for at in range(0, next(iter(counts.values()), 0), size):
        yield {name: _filled(array[at : at + size], size) for name, array in arrays.items()}


def items_of(name: str, array: np.ndarray) -> np.ndarray:
    """A copy of a batch. Raises JaffeError when it is a single number."""
    if not array.ndim:
        raise JaffeError(f"blob {name!r} is a single number, not one an item, so batches of it cannot be put together; "
                         "expected forward() for each batch")
    return array.copy()


def stacked(found: Mapping[str, list[np.ndarray]], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of all items, without those that filled up the last batch."""
    count = len(next(iter(given.values()))) if given else None
    return {name: np.asarray(items)[:count] for name, items in found.items()}


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(array)
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array
