"""From a compiled net and its variables to an ONNX model."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import jaffe
from jaffe.compile import exported
from jaffe.compile.exported import BatchChoice, Dims, FixedBatch, Part
from jaffe.compile.layer import make_layer
from jaffe.compile.net import CompiledNet, Variables
from jaffe.compile.onnx.writer import IR_VERSION, OPSET, WRITERS, Call, NotInOnnx, Value, Writer
from jaffe.compile.reader import read_state
from jaffe.netdef.atomic import write_file
from jaffe.netdef.errors import JaffeError, SpecError, describe
from jaffe.netdef.graph import Node

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2**31 - 2**24  # of weights: a protobuf file has less than 2 GiB, and the graph takes some


class NoOnnxForm(SpecError):
    """Layers that cannot be written; the message names all of them."""


def export(
    net: CompiledNet,
    variables: Variables,
    path: str | os.PathLike[str] | None = None,
    *,
    outputs: Iterable[str] | None = None,
    batch: BatchChoice = "polymorphic",
) -> onnx.ModelProto:
    """A net as an ONNX model; see ``CompiledNet.export_onnx``."""
    try:
        import onnx
    except ImportError:
        raise JaffeError("ONNX models are written with the onnx package: pip install 'jaffe[onnx]'") from None
    read_state(variables)
    part = exported.exported_part(net, outputs)
    _check_types(part)
    if batch == "polymorphic":
        try:
            model = _Builder(net, variables, part, exported.growing_shapes(net, part)).model()
        except NoOnnxForm:
            raise
        except JaffeError as reason:
            model = _Builder(net, variables, part, net.inferred.shapes).model()
            exported.warn_fixed(net, part, reason)
    else:
        inferred = net.inferred if batch is None else exported.rebatched(net, part, batch)
        model = _Builder(net, variables, part, inferred.shapes).model()
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        write_file(Path(path), model.SerializeToString())
    return model


def _check_types(part: Part) -> None:
    unknown = [node for node in part.graph.nodes if node.type not in WRITERS and not make_layer(node).source]
    if unknown:
        _refuse(part, [(node, "") for node in unknown])


def _refuse(part: Part, problems: Sequence[tuple[Node, str]]) -> None:
    """Name every layer that cannot be written, and the outputs before them that can."""
    named = "; ".join(
        f"{describe(node.name, node.location)} {node.type}{': ' + reason if reason else ''}"
        for node, reason in problems
    )
    bad: set[str] = set()
    for node in part.graph.nodes:
        if node in [node for node, _ in problems] or bad.intersection(node.bottoms):
            bad.update(node.tops)
    read = [value for node in part.graph.nodes if bad.intersection(node.tops) for value in node.bottoms]
    blobs = {value: blob for blob, value in part.graph.blobs.items()}
    inputs = set(part.inputs)
    left = dict.fromkeys(
        blobs[value] for value in [*part.outputs.values(), *read]
        if value in blobs and value not in bad and value not in inputs
    )
    options = " ".join(f"--output {blob}" for blob in left)
    hint = f"; outputs={list(left)} ({options}) leaves them out" if left else ""
    raise NoOnnxForm(f"no ONNX form of {named}{hint}")


class _Builder:
    """Writes the layers of a net one after another.

    Attributes:
        shapes: of every value, with batch N or with a fixed one.
    """

    def __init__(self, net: CompiledNet, variables: Variables, part: Part, shapes: Mapping[str, Dims]):
        self.net = net
        self.part = part
        self.shapes = shapes
        self.variables = variables
        self.outputs = self._output_names()
        values = {value for node in part.graph.nodes for value in node.tops}
        self.writer = Writer(net.dtype, values | set(part.outputs) | set(self.outputs.values()))
        self.env = {name: Value(name, shapes[name]) for name in part.inputs}

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        from onnx import helper

        problems: list[tuple[Node, str]] = []
        for node in self.part.graph.nodes:
            layer = make_layer(node)
            if layer.source:
                continue
            tops = [self.shapes[top] for top in node.tops]
            call = Call(layer, [self.env[value] for value in node.bottoms], tops, self._weights(node), self.writer)
            since = len(self.writer.nodes)
            try:
                names = WRITERS[node.type](call)
            except NotInOnnx as error:
                problems.append((node, str(error)))
                names = node.tops
            except FixedBatch as error:
                raise node.error(f"{node.type} is written with {error} as a number") from None
            self._name_tops(node, names, since)
        if problems:
            _refuse(self.part, problems)
        self._check_size()
        graph = helper.make_graph(
            self.writer.nodes, self.net.name or "jaffe",
            [self._info(name, self.shapes[name]) for name in self.part.inputs],
            [self._info(self.outputs[blob], self.shapes[value]) for blob, value in self.part.outputs.items()],
            list(self.writer.constants.values()),
        )
        return helper.make_model(graph, producer_name="jaffe", producer_version=jaffe.__version__,
                                 opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _weights(self, node: Node) -> dict[str, np.ndarray]:
        """The stored arrays of a layer, checked against what it expects."""
        result = {}
        for stored in self.net.inferred.stored[node.name]:
            group = "params" if stored.weight.trained else "state"
            layer, name = stored.owner
            try:
                found = self.variables[group][layer][name]
            except (KeyError, TypeError):
                raise node.error(f"the variables have no {group!r} {layer!r} {name!r}; "
                                 "make them with net.init(key)") from None
            try:
                array = np.asarray(found, self.net.dtype)
            except (TypeError, ValueError):
                raise node.error(f"{group} {layer!r} {name!r}: expected an array of numbers; "
                                 f"found {reprlib.repr(found)}") from None
            shape = next(one.weight.shape for one in self.net.inferred.stored[layer] if one.weight.name == name)
            if array.shape != shape:
                raise node.error(f"{group} {layer!r} {name!r}: expected shape {shape}; found {array.shape}")
            result[stored.weight.name] = array.reshape(stored.weight.shape)
        return result

    def _output_names(self) -> dict[str, str]:
        """Outputs are called as their blobs; one that is written in place over an input, as its value (``x#1``)."""
        return {
            blob: value if blob in self.part.inputs and value != blob else blob
            for blob, value in self.part.outputs.items()
        }

    def _name_tops(self, node: Node, names: Sequence[str], since: int) -> None:
        """Call what a layer gave as its tops are called."""
        wanted = {value: self.outputs[blob] for blob, value in self.part.outputs.items()}
        given: dict[str, str] = {}
        for top, name in zip(node.tops, names, strict=True):
            public = wanted.get(top, top)
            if top not in wanted and top in wanted.values():
                public = self.writer.fresh(top)  # an earlier value of a blob that is an output
            if name not in given and self.writer.rename(name, public, since):
                given[name] = public
            elif top in wanted:
                self.writer.identity(given.get(name, name), public)
                given.setdefault(name, name)
            else:
                public = given.get(name, name)
            self.env[top] = Value(public, self.shapes[top])

    def _check_size(self) -> None:
        size = sum(len(one.raw_data) for one in self.writer.constants.values())
        if size > MOST_BYTES:
            raise JaffeError(f"the weights take {size / 2**30:.1f} GiB; an ONNX file holds at most 2 GiB")

    def _info(self, name: str, shape: Dims) -> Any:
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(self.net.dtype)
        return helper.make_tensor_value_info(name, kind, [size if isinstance(size, int) else str(size)
                                                          for size in shape])
