"""Net: a net as pycaffe's scripts know it, run by jaffe's compiler."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import jax
import numpy as np

from jaffe.compile.net import CompiledNet, compile_net
from jaffe.compile.weights import load_weights, save_weights
from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.netdef.source import Spec, load
from jaffe.netdef.weights.files import SUFFIXES
from jaffe.pycaffe.batches import BatchSource, FeedSource, MemorySource, open_sources
from jaffe.pycaffe.blob import NetBlob, ParamBlob
from jaffe.pycaffe.machine import Machine
from jaffe.pycaffe.names import MissingName, Named
from jaffe.pycaffe.stacks import batches, items_of, stacked

TRAIN, TEST = 0, 1

Path_: TypeAlias = str | os.PathLike[str]
Outputs: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True)
class NetLayer:
    """A layer of a net: its type and its parameters."""

    type: str
    blobs: list[ParamBlob]


class Net:
    """A net with its blobs and parameters as NumPy arrays, as ``caffe.Net`` of pycaffe is one.

    >>> net = Net("deploy.prototxt", "net.caffemodel", TEST)           # doctest: +SKIP
    >>> net.blobs["data"].data[...] = images                           # doctest: +SKIP
    >>> net.forward()["prob"].argmax(1)                                # doctest: +SKIP
    >>> net.params["conv1"][0].data[...] = filters                     # doctest: +SKIP

    What is written to arrays counts in the next call. Numbers are those of ``jaffe.compile_net``; whole passes are
    jitted, once for each shape of the inputs. As in Caffe, a value that several layers read has a Split layer, data
    layers read a batch at every ``forward``, and diffs of parameters add up until ``clear_param_diffs``.
    ``backward`` takes each layer's gradient at what the blobs hold; what a layer wrote over in place it computes again,
    the first time, if the net was not made for training.

    Args:
        network_file: path of a prototxt; or all else that ``compile_net`` reads.
        phase: ``TRAIN`` (0) or ``TEST`` (1). pycaffe's old order ``Net(file, weights, phase)`` works too, and warns.
        level, stages: what ``include`` and ``exclude`` rules are held against.
        weights: a file of weights, or several separated by commas. Layers that it does not have start as declared.
        python_modules: names of the modules whose code Python layers may run (pycaffe runs any).

    Raises:
        SpecError: a file is missing, or the net is wrong.
        JaffeError: weights or arguments do not fit the net.
    """

    def __init__(
        self,
        network_file: Spec,
        phase: Any = None,
        level: Any = None,
        stages: Sequence[str] | None = None,
        weights: Path_ | None = None,
        *,
        python_modules: Sequence[str] = (),
    ):
        if isinstance(phase, (str, os.PathLike)) and phase not in ("TRAIN", "TEST"):
            warnings.warn("Net(file, weights, phase) is pycaffe's old form; Net(file, phase, weights=weights)",
                          DeprecationWarning, stacklevel=2)
            phase, level, weights = level, None, phase
        if phase not in (TRAIN, TEST, "TRAIN", "TEST"):
            raise JaffeError(f"a net's phase is caffe.TRAIN (0) or caffe.TEST (1); received {phase!r}")
        name = phase if isinstance(phase, str) else ("TRAIN", "TEST")[phase]
        source = load(network_file)
        level = 0 if level is None else level
        sources = open_sources(resolve(source, NetState(name, level, (*source.net.state.stage, *(stages or ())))))
        shapes = {blob: shape for one in sources.values() if isinstance(one, FeedSource)
                  for blob, shape in one.feed.shapes.items()}
        self._assemble(
            compile_net(source, phase=name, level=level, stages=tuple(stages or ()), inputs=shapes,
                        python_modules=python_modules), sources)
        if weights is not None:
            self.copy_from(weights)

    def _assemble(self, net: CompiledNet, sources: Mapping[str, BatchSource]) -> None:
        self._machine = Machine(net)
        nodes = self._machine.parts.net.graph.nodes
        self._layer_names = [node.name for node in nodes]
        self._machine.sources = [(self._layer_names.index(layer), source) for layer, source in sources.items()]
        self._callbacks: dict[str, list[Callable[[int], Any]]] = {
            f"{when}_{way}": [] for when in ("before", "after") for way in ("forward", "backward")
        }

    @classmethod
    def _of(cls, net: CompiledNet, sources: Mapping[str, BatchSource]) -> Net:
        """A net that is compiled already, with what fills its data layers."""
        made = cls.__new__(cls)
        made._assemble(net, sources)
        return made

    @cached_property
    def blobs(self) -> Named:
        """Every blob by name, in the order in which they are made, with those of Split layers."""
        return Named.of("blob", self._machine.blobs.items())

    @cached_property
    def params(self) -> Named:
        """The parameters of each layer that has any, in the order of Caffe's files: weight, bias."""
        return Named.of("parameters of layer", self._machine.params.items())

    @cached_property
    def layers(self) -> list[NetLayer]:
        """Every layer, in order, with ``type`` and ``blobs``."""
        return [NetLayer(node.type, self._machine.params.get(node.name, []))
                for node in self._machine.parts.net.graph.nodes]

    @cached_property
    def layer_dict(self) -> Named:
        """The layers by name."""
        return Named.of("layer", zip(self._layer_names, self.layers, strict=True))

    @property
    def inputs(self) -> list[str]:
        """Names of the tops of Input layers, in the order of the net."""
        nodes = self._machine.parts.net.graph.nodes
        return [self._machine.parts.blob[top] for node in nodes if node.type == "Input" for top in node.tops]

    @property
    def outputs(self) -> list[str]:
        """Names of the blobs that no layer reads, in alphabetical order."""
        return list(self._machine.parts.net.outputs)

    @cached_property
    def bottom_names(self) -> Named:
        """For each layer the names of the blobs that it reads."""
        blob = self._machine.parts.blob
        return Named.of("layer", ((node.name, [blob[value] for value in node.bottoms])
                               for node in self._machine.parts.net.graph.nodes))

    @cached_property
    def top_names(self) -> Named:
        """For each layer the names of the blobs that it writes."""
        blob = self._machine.parts.blob
        return Named.of("layer", ((node.name, [blob[value] for value in node.tops])
                               for node in self._machine.parts.net.graph.nodes))

    @cached_property
    def blob_loss_weights(self) -> Named:
        """For each blob its weight in the net's loss, 0 for most."""
        return Named.of("blob", ((name, self._machine.loss_weights.get(name, 0.0)) for name in self.blobs))

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[NetBlob]:
        return list(self.blobs.values())

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self.blob_loss_weights.values())

    def _bottom_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self.bottom_names[self._layer_names[layer]]]

    def _top_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self.top_names[self._layer_names[layer]]]

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Outputs:
        """Run the layers from ``start`` to ``end``, both included; by default all.

        Args:
            blobs: names of blobs to return beside the outputs.
            start, end: names of layers. What layers before ``start`` computed is read from the blobs.
            kwargs: an array for each of ``self.inputs``, of the shape of its blob.

        Returns:
            The data of the outputs, or of the tops of ``end``, by name: the arrays of the blobs, not copies.

        Raises:
            JaffeError: a name is unknown, arrays do not fit; or a layer does not take its bottoms.
        """
        first = 0 if start is None else self._index(start)
        last = len(self._layer_names) - 1 if end is None else self._index(end)
        wanted = [*(self.outputs if end is None else self.top_names[end]), *(blobs or ())]
        found = {name: self.blobs[name] for name in wanted}
        if kwargs:
            self._write(kwargs, self.inputs, "input", lambda blob: blob.data)
        self._run_forward(first, last)
        return {name: blob.data for name, blob in found.items()}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Outputs:
        """Run the layers backward from ``start`` to ``end``, both included; by default from the last to the first.

        The gradients that it begins with are the diffs of the blobs that these layers write and do not read: the
        loss weight in those of losses, 0 in others, unless they are written. Parameters' diffs are added to, all others
        replaced. Inputs have their gradients too, without ``force_backward``; ``lr_mult: 0`` and
        ``propagate_down: false`` hold gradients up unless the net says that.

        Args:
            diffs: names of blobs whose diffs to return beside those of the inputs.
            start, end: names of layers.
            kwargs: a gradient for each of ``self.outputs``, of the shape of its blob.

        Returns:
            The diffs of the inputs, or of the bottoms of ``end``, by name: the arrays of the blobs, not copies.

        Raises:
            JaffeError: as ``forward``.
        """
        last = len(self._layer_names) - 1 if start is None else self._index(start)
        first = 0 if end is None else self._index(end)
        wanted = [*(self.inputs if end is None else self.bottom_names[end]), *(diffs or ())]
        found = {name: self.blobs[name] for name in wanted}
        if kwargs:
            self._write(kwargs, self.outputs, "output", lambda blob: blob.diff)
        self._backward(last, first)
        return {name: blob.diff for name, blob in found.items()}

    def _forward(self, first: int, last: int) -> float:
        """Run layers by their places; the part of the loss that they compute."""
        self._run_forward(first, last)
        tops = {name for layer in self._layer_names[first : last + 1] for name in self.top_names[layer]}
        return float(sum(np.vdot(self.blobs[name].data, self.blobs[name].diff)
                         for name in self._machine.loss_weights if name in tops))

    def _run_forward(self, first: int, last: int) -> None:
        self._check_range(first, last)
        before, after = self._callbacks["before_forward"], self._callbacks["after_forward"]
        if before or after:
            for i in range(first, last + 1):
                _call(before, i)
                self._machine.forward(i, i)
                _call(after, i)
        else:
            self._machine.forward(first, last)

    def _backward(self, start: int, end: int) -> None:
        """Run layers backward by their places."""
        self._check_range(end, start)
        before, after = self._callbacks["before_backward"], self._callbacks["after_backward"]
        if before or after:
            for i in range(start, end - 1, -1):
                _call(before, i)
                self._machine.backward(i, i)
                _call(after, i)
        else:
            self._machine.backward(end, start)

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> Outputs:
        """Run any number of items, in batches of the net's batch size, the last filled up with zeros.

        Returns:
            The outputs, and the blobs asked for, of all items: copies.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in [*self.outputs, *(blobs or ())]}
        for batch in self._batch(kwargs):
            for name, array in self.forward(blobs, **batch).items():
                found[name].extend(items_of(name, array))
        return stacked(found, kwargs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: Any
    ) -> tuple[Outputs, Outputs]:
        """As ``forward_all``, forward and backward: outputs and blobs, and diffs of inputs and of others asked for.

        Args:
            kwargs: arrays for the inputs, and gradients for the outputs.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in [*self.outputs, *(blobs or ())]}
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in [*self.inputs, *(diffs or ())]}
        unknown = [name for name in kwargs if name not in (*self.inputs, *self.outputs)]
        if unknown:
            raise JaffeError(f"the net has no input or output {unknown[0]!r}"
                             f"{suggest(unknown[0], [*self.inputs, *self.outputs])}")
        ways = [self._batch({name: kwargs[name] for name in names if name in kwargs})
                for names in (self.inputs, self.outputs)]
        for forward, backward in zip_longest(*ways, fillvalue={}):
            for name, array in self.forward(blobs, **forward).items():
                found[name].extend(items_of(name, array))
            for name, array in self.backward(diffs, **backward).items():
                gradients[name].extend(items_of(name, array))
        return stacked(found, kwargs), stacked(gradients, kwargs)

    def _batch(self, blobs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The arrays cut into batches of the net's batch size, the last filled up with zeros."""
        return batches(blobs, next(iter(self.blobs.values())).shape[0])

    def reshape(self) -> None:
        """Give every blob the shape that follows from those of the inputs. ``forward`` does it by itself."""
        self._machine.reshape()

    def copy_from(self, weights: Path_) -> None:
        """Copy the parameters of every layer that the file names too; see ``jaffe.load_weights``.

        Raises:
            SpecError: the file is missing or damaged.
            JaffeError: a layer's parameters have other shapes; or no layer of the file is in the net.
        """
        net = self._machine.net
        declared = jax.eval_shape(net.init, jax.random.key(0))  # what is not in the file is not computed here
        self._machine.set_variables(load_weights(net, declared, weights))

    def load_hdf5(self, weights: Path_) -> None:
        """As ``copy_from``."""
        self.copy_from(weights)

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net's layers of the same names, in one memory, from now on."""
        self._machine.share(other._machine)

    def save(self, filename: Path_) -> None:
        """Write the parameters in the format that the name says, as ``jaffe.save_weights``; else as ``.caffemodel``."""
        self._save(Path(filename), ".caffemodel", SUFFIXES)

    def save_hdf5(self, filename: Path_) -> None:
        """Write the parameters as HDF5, whatever the name."""
        self._save(Path(filename), ".h5", (".h5", ".hdf5"))

    def _save(self, path: Path, suffix: str, suffixes: Sequence[str]) -> None:
        variables = self._machine.variables()
        if path.suffix in suffixes:
            save_weights(self._machine.net, variables, path)
            return
        with TemporaryDirectory() as folder, replacing(path) as new:
            named = Path(folder, "weights").with_suffix(suffix)
            save_weights(self._machine.net, variables, named)
            shutil.copyfile(named, new)

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to 0."""
        for blob in (blob for blobs in self.params.values() for blob in blobs):
            blob.gradient.clear()

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """The images and labels that a MemoryData layer, the first of the net, gives batch by batch.

        Args:
            data: (n, channels, height, width), n a multiple of the layer's ``batch_size``.
            labels: (n,) or (n, 1, 1, 1).

        Raises:
            JaffeError: the first layer is another one, or the arrays do not fit.
        """
        source = next((source for index, source in self._machine.sources if index == 0), None)
        if not isinstance(source, MemorySource):
            raise JaffeError(f"set_input_arrays is for nets whose first layer is MemoryData; found "
                             f"{self.layers[0].type}: write to net.blobs[{self._blob_names[0]!r}].data instead")
        source.set(data, labels)

    def before_forward(self, callback: Callable[[int], Any]) -> None:
        """Call this with a layer's place before it runs forward. The layers are then run one by one, more slowly."""
        self._callbacks["before_forward"].append(callback)

    def after_forward(self, callback: Callable[[int], Any]) -> None:
        """Call this with a layer's place after it has run forward; see ``before_forward``."""
        self._callbacks["after_forward"].append(callback)

    def before_backward(self, callback: Callable[[int], Any]) -> None:
        """Call this with a layer's place before it runs backward; see ``before_forward``."""
        self._callbacks["before_backward"].append(callback)

    def after_backward(self, callback: Callable[[int], Any]) -> None:
        """Call this with a layer's place after it has run backward; see ``before_forward``."""
        self._callbacks["after_backward"].append(callback)

    def _index(self, layer: str) -> int:
        if layer not in self._layer_names:
            raise MissingName(f"the net has no layer {layer!r}{suggest(str(layer), self._layer_names)}")
        return self._layer_names.index(layer)

    def _check_range(self, first: int, last: int) -> None:
        if not 0 <= first <= last < len(self._layer_names):
            raise JaffeError(f"layers {first} to {last} are no part of the net, which has layers 0 to "
                             f"{len(self._layer_names) - 1}: the first of them comes first")

    def _write(
        self, arrays: Mapping[str, Any], names: Sequence[str], kind: str, part: Callable[[NetBlob], np.ndarray]
    ) -> None:
        """Write arrays to data or diffs of the blobs of these names, of which none may be missing."""
        if set(arrays) != set(names):
            unknown = [name for name in arrays if name not in names]
            problem = (f"no {kind} {unknown[0]!r}{suggest(unknown[0], names)}" if unknown else
                       f"{kind} {next(name for name in names if name not in arrays)!r} is missing")
            raise JaffeError(f"{problem}; expected all of {', '.join(names) or 'none'}")
        for name, value in arrays.items():
            blob = self.blobs[name]
            try:
                array = np.asarray(value, np.float32)
                if array.shape[:1] != blob.shape[:1]:  # NumPy would repeat one item
                    raise ValueError
                part(blob)[...] = array
            except (TypeError, ValueError):
                found = getattr(value, "shape", None) or type(value).__name__
                raise JaffeError(f"{kind} {name!r}: expected an array of shape {blob.shape}; received {found}; "
                                 f"net.blobs[{name!r}].reshape(...) changes it") from None


def _call(callbacks: Sequence[Callable[[int], Any]], layer: int) -> None:
    for callback in callbacks:
        callback(layer)
