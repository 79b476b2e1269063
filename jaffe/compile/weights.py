"""Copying weights into a net by layer name, with Caffe's rules, and writing a net's weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaffe.compile.infer import Stored
from jaffe.compile.net import CompiledNet, Variables
from jaffe.netdef.errors import JaffeError, listed
from jaffe.netdef.weights import numbers, read_entries, same_values, write_weights

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Sequence[np.ndarray | None]]
_Entries: TypeAlias = Sequence[tuple[str, Sequence[np.ndarray | None]]]


@dataclass(frozen=True)
class WeightsReport:
    """What ``load_weights`` does with some weights, by layer name.

    Attributes:
        copied: layers whose weights are copied.
        ignored: layers with weights that the net does not have.
        left: layers of the net with weights of their own that keep them.
        problems: a line for each layer whose number or shapes of blobs differ, for which ``load_weights`` refuses.
    """

    copied: tuple[str, ...]
    ignored: tuple[str, ...]
    left: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        kinds = {"copied": self.copied, "ignored": self.ignored, "left": self.left}
        lines = [f"{kind} {listed(layers)}" for kind, layers in kinds.items() if layers]
        return "\n".join([*lines, *self.problems])


def load_weights(net: CompiledNet, variables: Variables, source: Source | Sequence[Source]) -> dict[str, Any]:
    """New variables, with the weights of every layer that the source names too.

    Layers of the net that the source does not have keep their variables; layers of the source that the net
    does not have are passed over (``weights_report`` lists both). To start a layer afresh, rename it. Types of
    layers are not compared. A shape fits when it is equal, or when it is Caffe's old form with four axes: (N) as
    (1, 1, 1, N). A blob that the net shares with an earlier layer may be missing, as in Caffe's HDF5 files.

    Args:
        source: a file that ``read_weights`` reads, or arrays by layer name in Caffe's order; or several, which are
            copied one after another (as text separated by commas, as Caffe has them), as layers of one name in a
            file are.

    Raises:
        SpecError: a file cannot be read.
        JaffeError: lists every layer whose number or shapes of blobs differ; no layer has the same name; there is no
            source at all; or the variables are not the net's.
    """
    sources = _sources(source)
    reports = [_report(net, entries) for _, entries in sources]
    for (name, entries), report in zip(sources, reports, strict=True):
        if not report.copied and not report.problems:
            raise JaffeError(f"no layer of {name} is in net {net.name!r}: found {listed(_with_blobs(entries))}; "
                             f"expected any of {listed(k for k, v in net.stored.items() if v)}")
    if any(report.problems for report in reports):
        raise JaffeError("\n".join(
            f"net {net.name!r} and {name} do not fit (rename a layer to start it afresh):\n  "
            + "\n  ".join(report.problems)
            for (name, _), report in zip(sources, reports, strict=True) if report.problems
        ))
    copied = [(one, array) for _, entries in sources for layer, arrays in entries
              for one, array in zip(net.stored.get(layer, ()), arrays, strict=False) if array is not None]
    shapes = [np.shape(_held(net, variables, one)) for one, _ in copied]
    result = {group: {layer: dict(arrays) for layer, arrays in variables[group].items()} for group in variables}
    for (one, array), shape in zip(copied, shapes, strict=True):
        group, (owner, weight) = _group(one), one.owner
        with np.errstate(over="ignore"):  # beyond float32: infinity, as in Caffe
            result[group][owner][weight] = jnp.asarray(np.reshape(array, shape), net.dtype)
    return result


def weights_report(net: CompiledNet, source: Source | Sequence[Source]) -> WeightsReport:
    """What ``load_weights`` would copy from the source, pass over, leave and refuse. Prints as text.

    Raises:
        SpecError: a file cannot be read.
    """
    reports = [_report(net, entries) for _, entries in _sources(source)]
    copied = tuple(dict.fromkeys(layer for report in reports for layer in report.copied))
    return WeightsReport(
        copied=copied,
        ignored=tuple(dict.fromkeys(layer for report in reports for layer in report.ignored)),
        left=tuple(layer for layer in net.stored if all(layer in report.left for report in reports)),
        problems=tuple(problem for report in reports for problem in report.problems),
    )


def save_weights(net: CompiledNet, variables: Variables, path: str | os.PathLike[str]) -> None:
    """Write a net's weights to a file that ``load_weights`` reads, and Caffe where the format is Caffe's.

    Formats by suffix: ``.caffemodel`` (with the net's declaration), ``.caffemodel.h5``, ``.h5`` or ``.hdf5``,
    ``.safetensors`` and ``.npz`` (arrays named ``layer/0``, ``layer/1``, ...). Numbers are float32, in Caffe's
    layouts; BatchNorm's state is its three blobs. The file appears whole or not at all.

    Raises:
        SpecError: the suffix is none of them, a layer's name does not fit the format, or the file cannot be written.
        JaffeError: the variables are not the net's.
    """
    weights = {
        layer: [np.reshape(_variable(net, variables, layer, one), one.weight.shape) for one in stored]
        for layer, stored in net.stored.items()
        if stored
    }
    write_weights(path, weights, net.graph)


def _group(stored: Stored) -> str:
    return "params" if stored.weight.trained else "state"


def _held(net: CompiledNet, variables: Variables, stored: Stored) -> Any:
    """What the variables have for a stored weight, from the layer that owns it."""
    owner, name = stored.owner
    try:
        return variables[_group(stored)][owner][name]
    except (KeyError, TypeError):
        raise JaffeError(f"the variables have no {_group(stored)!r} {owner!r} {name!r}; "
                         f"expected those of net {net.name!r}") from None


def _variable(net: CompiledNet, variables: Variables, layer: str, stored: Stored) -> np.ndarray:
    """The array of a stored weight."""
    array = np.asarray(_held(net, variables, stored))
    if array.size != int(np.prod(stored.weight.shape, dtype=object)):
        raise JaffeError(f"layer {layer!r}: {stored.weight.name}: expected shape {stored.weight.shape}; "
                         f"found {array.shape}")
    return array


def _sources(source: Source | Sequence[Source]) -> list[tuple[str, _Entries]]:
    """What messages call each source, and its layers, of which several may have one name. Not empty."""
    if isinstance(source, Mapping):
        return [("the given weights", list(source.items()))]
    if isinstance(source, str) and "," in source and not os.path.exists(source):
        source = [part.strip() for part in source.split(",") if part.strip()]
    if isinstance(source, (str, os.PathLike)):
        return [(os.fspath(source), [(name, blobs) for name, blobs, _ in read_entries(source)])]
    if not isinstance(source, Sequence):
        raise JaffeError(f"weights are a file, arrays by layer name, or a list of those; received "
                         f"{type(source).__name__}")
    if not source:
        raise JaffeError("weights are a file, arrays by layer name, or a list of those; received none")
    return [pair for one in source for pair in _sources(one)]


def _report(net: CompiledNet, entries: _Entries) -> WeightsReport:
    given = _with_blobs(entries)
    problems = tuple(
        problem for layer, arrays in entries
        if layer in net.stored and not (layer in given and _is_empty(arrays))  # of several, those with blobs count
        for problem in _mismatches(net, layer, arrays)
    )
    return WeightsReport(
        copied=tuple(layer for layer in given if layer in net.stored),
        ignored=tuple(layer for layer in given if layer not in net.stored),
        left=tuple(layer for layer in net.stored if layer not in given and net.inferred.owned(layer)),
        problems=problems,
    )


def _with_blobs(entries: _Entries) -> dict[str, None]:
    return {layer: None for layer, arrays in entries if not _is_empty(arrays)}


def _is_empty(arrays: Any) -> bool:
    return isinstance(arrays, (list, tuple)) and not arrays


def _mismatches(net: CompiledNet, layer: str, arrays: Sequence[np.ndarray | None]) -> list[str]:
    expected = net.stored[layer]
    if not isinstance(arrays, (list, tuple)):
        return [f"layer {layer!r}: expected a list of arrays of numbers; found {type(arrays).__name__}"]
    for i, array in enumerate(arrays):
        try:
            numbers(0 if array is None else array)
        except ValueError as error:
            return [f"layer {layer!r}: blob {i} {error}"]
    found = sum(array is not None for array in arrays)
    missing = [stored for stored, array in zip(expected, [*arrays, *[None] * len(expected)], strict=False)
               if array is None]
    if len(arrays) > len(expected) or any(stored.owner == (layer, stored.weight.name) for stored in missing):
        names = ", ".join(stored.weight.name for stored in expected) or "no weights"
        return [f"layer {layer!r}: expected {len(expected)} blobs ({names}); found {found}"]
    return [
        f"layer {layer!r}: {stored.weight.name}: expected shape {stored.weight.shape}; found {np.shape(array)}"
        for stored, array in zip(expected, arrays, strict=False)
        if array is not None and not same_values(np.shape(array), stored.weight.shape)
    ]
