"""What two files of weights differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaffe.netdef.weights.blob import same_values


@dataclass(frozen=True)
class Difference:
    """One blob, or all blobs of a layer, that two sets of weights differ in.

    Attributes:
        layer: its name.
        blob: its index in the layer; ``None`` for the whole layer.
        problem: ``"only in A"``, ``"only in B"`` or two shapes; ``""`` where only numbers differ.
        absolute: the largest absolute difference; infinite where one side is infinite or NaN.
        relative: the largest difference relative to the larger magnitude of the two numbers, 0 to 2.
        count: how many numbers differ.
    """

    layer: str
    blob: int | None
    problem: str = ""
    absolute: float = 0.0
    relative: float = 0.0
    count: int = 0


_Layers = Mapping[str, Sequence[np.ndarray | None]]


def differences(a: _Layers, b: _Layers) -> list[Difference]:
    """What differs, layer by layer: A's in A's order, then those only in B. Shapes are compared as in ``load_weights``.

    NaN equals NaN, and a blob that is left out equals one that is left out.
    """
    result = []
    for layer in [*a, *(layer for layer in b if layer not in a)]:
        if layer not in a or layer not in b:
            result.append(Difference(layer, None, "only in B" if layer in b else "only in A"))
            continue
        for i in range(max(len(a[layer]), len(b[layer]))):
            left = a[layer][i] if i < len(a[layer]) else None
            right = b[layer][i] if i < len(b[layer]) else None
            found = _difference(layer, i, left, right)
            if found:
                result.append(found)
    return result


def _difference(layer: str, blob: int, left: np.ndarray | None, right: np.ndarray | None) -> Difference | None:
    if left is None or right is None:
        one = "only in B" if left is None else "only in A"
        return None if left is right else Difference(layer, blob, one)
    if not (same_values(left.shape, right.shape) or same_values(right.shape, left.shape)):
        return Difference(layer, blob, f"{left.shape} and {right.shape}")
    x, y = left.ravel(), right.ravel()
    different = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not different.any():
        return None
    x, y = x[different].astype(np.float64), y[different].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(x - y)
        relative = apart / np.maximum(np.abs(x), np.abs(y))
    apart, relative = (np.where(np.isfinite(values), values, np.inf) for values in (apart, relative))
    return Difference(layer, blob, "", float(apart.max()), float(relative.max()), len(x))
