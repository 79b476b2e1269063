"""What a net is compared with: recorded blobs, and which of the net's values each of them is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph


@dataclass(frozen=True)
class Reference:
    """Values of a net, computed elsewhere.

    Attributes:
        blobs: arrays by name: of a blob (what the blob ends up with), ``name#k`` (what the k-th in-place layer
            made of it; ``name#0``: before any of them), or one of the copies that Caffe makes of a blob that
            several layers read (``blob_layer_0_split_1``). Where the last ``name#k`` is there, and no ``name#0``,
            ``name`` is that.
        inputs: what the net was fed, by name.
        layers: tops by layer name, for references that know layers rather than blobs; they go before ``blobs``.
        name: of the reference, for the report.
    """

    blobs: Mapping[str, np.ndarray] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    name: str = "the reference"

    @staticmethod
    def of(source: Reference | Mapping[str, Any] | str | os.PathLike[str]) -> Reference:
        """A reference from arrays by name, or an ``.npz`` file of them: ``in:NAME`` inputs, ``top:NAME`` or ``NAME``.

        Raises:
            JaffeError: the file cannot be read, or holds something else than arrays of numbers.
        """
        if isinstance(source, Reference):
            return source
        if isinstance(source, Mapping):
            return _sorted_out(dict(source), "the reference")
        path = Path(source)
        try:
            file = np.load(path)
            arrays = {name: file[name] for name in file.files} if isinstance(file, NpzFile) else None
        except OSError as error:
            raise JaffeError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, EOFError, BadZipFile):
            raise JaffeError(f"{path}: is not an .npz file of arrays") from None
        if arrays is None:
            raise JaffeError(f"{path}: expected an .npz file of arrays by name; found a single array")
        return _sorted_out(arrays, path.name)


def _sorted_out(arrays: Mapping[str, Any], name: str) -> Reference:
    """``in:`` and ``top:`` taken off the names."""
    blobs: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise JaffeError(f"{name}: {key!r}: expected an array of numbers; found {array.dtype}")
        (inputs if key.startswith("in:") else blobs)[key.removeprefix("in:").removeprefix("top:")] = array
    return Reference(blobs, inputs, name=name)


def align(graph: Graph, reference: Reference) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The reference's arrays by the net's values, and the names that are none of the net's."""
    known: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for node in graph.nodes:
        tops = reference.layers.get(node.name, ())
        if len(tops) == len(node.tops):
            known.update(zip(node.tops, tops, strict=True))
            used.add(node.name)
    names = _names(graph, reference.blobs)
    for name, array in reference.blobs.items():
        if name in names:
            known.setdefault(names[name], array)
            used.add(name)
    known |= {name: array for name, array in reference.inputs.items() if name in graph.blobs and name not in known}
    return known, tuple(name for name in (*reference.layers, *reference.blobs) if name not in used)


def _names(graph: Graph, recorded: Mapping[str, Any]) -> dict[str, str]:
    """For each recorded name that the net knows, the value that it stands for."""
    values = {top for node in graph.nodes for top in node.tops}
    copies = {
        f"{_blob(top, graph)}_{node.name}_{i}_split_": top for node in graph.nodes for i, top in enumerate(node.tops)
    }
    found: dict[str, str] = {}
    for name in recorded:
        base, mark, version = name.rpartition("#")
        if name in graph.blobs:
            last = graph.blobs[name]
            found[name] = name if last in recorded and f"{name}#0" not in recorded else last
        elif name in values:
            found[name] = name
        elif mark and version == "0" and base in values:
            found[name] = base
        elif name.rstrip("0123456789") in copies:
            found[name] = copies[name.rstrip("0123456789")]
    return found


def _blob(value: str, graph: Graph) -> str:
    """The blob name of a value."""
    return value if value in graph.blobs else value.rpartition("#")[0] or value
