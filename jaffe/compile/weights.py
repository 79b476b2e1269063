"""Copying weights into a net by layer name, with Caffe's rules."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaffe.compile.infer import same_values
from jaffe.compile.net import CompiledNet, Variables
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.weights import read_weights


def load_weights(
    net: CompiledNet,
    variables: Variables,
    source: str | os.PathLike[str] | Mapping[str, Sequence[np.ndarray]],
) -> dict[str, Any]:
    """New variables, with the weights of every layer that the source names too.

    Layers of the net that the source does not have keep their variables; layers of the source that the net
    does not have are passed over. To start a layer afresh, rename it.

    Args:
        source: a ``.caffemodel`` file, or arrays by layer name in Caffe's order.

    Raises:
        SpecError: the file cannot be read.
        JaffeError: lists every layer whose number or shapes of blobs differ; or no layer has the same name.
    """
    blobs = source if isinstance(source, Mapping) else read_weights(source)
    name = "the given weights" if isinstance(source, Mapping) else os.fspath(source)
    common = [layer for layer in blobs if layer in net.stored]
    if not common:
        raise JaffeError(f"no layer of {name} is in net {net.name!r}: found {_names(blobs)}; "
                         f"expected any of {_names([k for k, v in net.stored.items() if v])}")
    problems = [problem for layer in common for problem in _mismatches(net, layer, blobs[layer])]
    if problems:
        raise JaffeError(f"net {net.name!r} and {name} do not fit (rename a layer to start it afresh):\n  "
                         + "\n  ".join(problems))
    result = {group: {layer: dict(arrays) for layer, arrays in variables[group].items()} for group in variables}
    for layer in common:
        for stored, array in zip(net.stored[layer], blobs[layer], strict=True):
            group = "params" if stored.weight.trained else "state"
            owner, weight = stored.owner
            shape = np.shape(variables[group][owner][weight])
            result[group][owner][weight] = jnp.asarray(np.reshape(array, shape), net.dtype)
    return result


def _mismatches(net: CompiledNet, layer: str, arrays: Sequence[np.ndarray]) -> list[str]:
    expected = net.stored[layer]
    if not isinstance(arrays, (list, tuple)) or not all(np.asarray(array).dtype.kind in "fiub" for array in arrays):
        return [f"layer {layer!r}: expected a list of arrays of numbers; found {type(arrays).__name__}"]
    if len(arrays) != len(expected):
        names = ", ".join(stored.weight.name for stored in expected) or "no weights"
        return [f"layer {layer!r}: expected {len(expected)} blobs ({names}); found {len(arrays)}"]
    return [
        f"layer {layer!r}: {stored.weight.name}: expected shape {stored.weight.shape}; found {np.shape(array)}"
        for stored, array in zip(expected, arrays, strict=True)
        if not same_values(np.shape(array), stored.weight.shape)
    ]


def _names(names: Any, most: int = 8) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
