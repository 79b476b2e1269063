"""``.solverstate``: what Caffe's solvers keep beside the weights, binary and HDF5. Imports no JAX.

    SolverState (binary)   1 iter, 2 learned_net, 3 history (BlobProto, repeated), 4 current_step
    HDF5                   datasets iter, learned_net, current_step; group history with datasets 0, 1, ...

Source: Caffe 1.0, ``solver.cpp`` and ``sgd_solver.cpp``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError, SpecError
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights import hdf5
from jaffe.netdef.weights.blob import MOST_BLOBS, blob_parts, parse_blob, tag, varint
from jaffe.netdef.weights.files import check_kind, check_regular
from jaffe.netdef.weights.wire import BYTES, VARINT, Field, Wire, WireError

SUFFIXES = (".solverstate", ".solverstate.h5")
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4
_LAYER = 100  # of NetParameter
_MOST = 2**31 - 1  # of an int32
_LONGEST = 4096  # of a path


class SolverState(NamedTuple):
    """What Caffe saves of a solver.

    Attributes:
        iteration: updates made so far.
        learned_net: path of the weights as recorded, mostly relative to the folder that Caffe ran in; ``""`` for none.
        history: the solver's arrays in the order of the net's parameters, each shared one once; AdaDelta and Adam have
            two series of them, one after the other. In files of 2014 each has four axes.
        current_step: of ``lr_policy: "multistep"``: how many steps were taken.
    """

    iteration: int
    learned_net: str
    history: tuple[np.ndarray, ...]
    current_step: int = 0


def is_solver_state(path: str | os.PathLike[str]) -> bool:
    """Whether a path is named as Caffe names the states of its solvers."""
    return os.fspath(path).endswith(SUFFIXES)


def read_solver_state(path: str | os.PathLike[str]) -> SolverState:
    """Read a ``.solverstate`` or ``.solverstate.h5``. Nothing in it runs, and its size bounds what is allocated.

    Raises:
        SpecError: the file is missing, damaged or no solver state, such as the ``.caffemodel`` beside it.
    """
    path = Path(path)
    check_regular(path)
    try:
        with path.open("rb") as file:
            begin = file.read(len(hdf5.SIGNATURE))
    except (OSError, ValueError):
        begin = b""  # read_bytes says what is wrong
    if begin == hdf5.SIGNATURE:
        return _checked(_read_hdf5(path), path)
    content = read_bytes(path)
    check_kind(content, path, "a .solverstate")
    try:
        return _checked(_read_binary(Wire(content), path), path)
    except WireError as error:
        raise SpecError(f"is not a .solverstate, or only a part of one: {error}", location=str(path)) from None


def _checked(state: SolverState, path: Path) -> SolverState:
    for name, value in (("iter", state.iteration), ("current_step", state.current_step)):
        if not 0 <= value <= _MOST:
            raise SpecError(f"{name} is from 0 to {_MOST}; found {value}", location=str(path))
    return state


def _weights_only(path: Path) -> SpecError:
    return SpecError("holds weights, and not the state of a solver; expected the .solverstate that Caffe writes "
                     "beside it (weights alone can be taken as such: --weights)", location=str(path))


def _read_binary(wire: Wire, path: Path) -> SolverState:
    numbers = {_ITER: 0, _CURRENT_STEP: 0}
    learned_net = ""
    blobs: list[Field] = []
    found = set()
    for field in wire.fields():
        number, kind = field.number, field.kind
        if kind == BYTES and number in (_LAYER, _ITER):  # _ITER: of NetParameter, its name
            raise _weights_only(path)
        if kind == VARINT and number in numbers:
            numbers[number] = wire.varints(field, 1)[0]
        elif kind == BYTES and number == _LEARNED_NET:
            if (length := field.stop - field.start) > _LONGEST:
                raise SpecError(f"learned_net, a path, has {length} bytes; expected at most {_LONGEST}",
                                location=str(path))
            learned_net = wire.text(field)
        elif kind == BYTES and number == _HISTORY:
            blobs.append(field)
        else:
            continue
        found.add(number)
    if not found & {_ITER, _HISTORY}:
        raise SpecError("is not a .solverstate: it holds neither iter nor history", location=str(path))
    if len(blobs) > MOST_BLOBS:
        raise SpecError(f"has more than {MOST_BLOBS} blobs of history", location=str(path))
    history = tuple(_blob(wire, blob, i, path) for i, blob in enumerate(blobs))
    return SolverState(numbers[_ITER], learned_net, history, numbers[_CURRENT_STEP])


def _blob(wire: Wire, blob: Field, index: int, path: Path) -> np.ndarray:
    try:
        return parse_blob(wire, blob.start, blob.stop).array
    except WireError:
        raise
    except ValueError as error:
        raise SpecError(f"history {index} {error}", location=str(path)) from None


def _read_hdf5(path: Path) -> SolverState:
    h5py = hdf5.h5py_for(path)
    try:
        with h5py.File(path, "r") as file:
            return _StateReader(h5py, path).state(file)
    except JaffeError:
        raise
    except Exception as error:  # as in hdf5.read
        problem = str(error).strip().splitlines()
        raise SpecError(f"is not an HDF5 file, or damaged: {problem[0] if problem else type(error).__name__}",
                        location=str(path)) from None


class _StateReader(hdf5.Reader):
    """Reads one file. Caffe writes it uncompressed, so no more is taken than the file has bytes."""

    def __init__(self, h5py: Any, path: Path):
        super().__init__(h5py, path, path.stat().st_size)

    def state(self, file: Any) -> SolverState:
        names = ("iter", "learned_net", "current_step", "history", "data")
        kinds = {name: self._kind(file, name, "") for name in names}
        dataset, group = self.h5py.Dataset, self.h5py.Group
        if kinds["data"] is group and kinds["history"] is None:
            raise _weights_only(self.path)
        if kinds["iter"] is not dataset or kinds["history"] is not group:
            raise self._error("is not a .solverstate.h5; expected a dataset 'iter' and a group 'history'")
        return SolverState(
            self._whole_number(file["iter"]),
            self._text(file["learned_net"]) if kinds["learned_net"] is dataset else "",
            self._history(file["history"]),
            self._whole_number(file["current_step"]) if kinds["current_step"] is dataset else 0,
        )

    def _history(self, group: Any) -> tuple[np.ndarray, ...]:
        """In the order of the numbers: that of the names would have 10 before 2."""
        names = [str(i) for i in range(min(len(group), MOST_BLOBS + 1))]
        for name in names:
            if self._kind(group, name, "history") is not self.h5py.Dataset:
                raise self._error(f"holds {len(group)} members; expected datasets 0, 1, ... without gaps; "
                                  f"found none called {name}", "history")
        return tuple(self._array(group[name], "history", name) for name in names)

    def _whole_number(self, dataset: Any) -> int:
        if not np.issubdtype(dataset.dtype, np.integer) or dataset.size != 1 or not self._is_stored(dataset):
            raise self._error(f"{_name(dataset)} is of dtype {dataset.dtype}, shape {dataset.shape}; "
                              "expected one whole number")
        return int(np.asarray(dataset[()]).reshape(()))

    def _text(self, dataset: Any) -> str:
        if dataset.dtype.kind != "S" or dataset.size != 1 or not self._is_stored(dataset):
            raise self._error(f"{_name(dataset)} is of dtype {dataset.dtype}, shape {dataset.shape}; "
                              "expected one text of fixed length")
        return bytes(np.asarray(dataset[()]).reshape(()).item()).decode("utf-8", "replace")

    def _is_stored(self, dataset: Any) -> bool:
        """Whether the dataset lies in this file, plainly and whole."""
        within = not dataset.is_virtual and not dataset.external and dataset.id.get_create_plist().get_nfilters() == 0
        return within and dataset.dtype.itemsize <= min(dataset.id.get_storage_size(), _LONGEST)

    def _error(self, problem: str, layer: str = "") -> SpecError:
        return SpecError(f"{layer}: {problem}" if layer else problem, location=str(self.path))


def _name(dataset: Any) -> str:
    return str(dataset.name).lstrip("/")


def write_solver_state(path: str | os.PathLike[str], state: SolverState) -> None:
    """Write a solver's state, arrays as float32, for Caffe to go on from; HDF5 where the name ends in ``.h5``.

    Raises:
        SpecError: it cannot be written; what was there stays.
    """
    path = Path(path)
    if path.suffix == ".h5":
        _write_hdf5(path, state)
        return
    learned_net = state.learned_net.encode()
    pieces: list[bytes | memoryview] = [varint(_ITER << 3), varint(state.iteration),
                                        tag(_LEARNED_NET), varint(len(learned_net)), learned_net]
    for array in state.history:
        head, data = blob_parts(array)
        pieces += [tag(_HISTORY), varint(len(head) + len(data)), head, data]
    pieces += [varint(_CURRENT_STEP << 3), varint(state.current_step)]
    with replacing(path) as new, new.open("wb") as file:
        file.writelines(pieces)


def _write_hdf5(path: Path, state: SolverState) -> None:
    h5py = hdf5.h5py_for(path)
    learned_net = state.learned_net.encode()
    with replacing(path) as new, h5py.File(new, "w") as file:
        file["iter"] = np.array([state.iteration], np.int32)
        file["learned_net"] = np.array(learned_net, f"S{len(learned_net) + 1}")  # Caffe reads up to a zero byte
        file["current_step"] = np.array([state.current_step], np.int32)
        history = file.create_group("history")
        for i, array in enumerate(state.history):
            with np.errstate(over="ignore"):  # beyond float32: infinity, as in Caffe
                history[str(i)] = np.asarray(array, np.float32)
