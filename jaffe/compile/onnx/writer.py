"""What the writers of layers work with: nodes, constants and shapes of an ONNX graph, and the registry of writers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from jaffe.compile.exported import Dim, Dims, FixedBatch, Growing
from jaffe.compile.layer import Layer
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Node

OPSET = 18  # what runtimes since early 2023 read; ONNX 1.13, IR 8
IR_VERSION = 8


class NotInOnnx(JaffeError):
    """A layer, with these settings, has no form in ONNX."""


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph: its name, and its shape with batch N."""

    name: str
    shape: Dims

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Writer:
    """The ONNX graph under construction."""

    def __init__(self, dtype: np.dtype, taken: Iterable[str] = ()):
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken = frozenset(taken)
        self._count = 0

    def fresh(self, stem: str) -> str:
        """A name not used before."""
        while True:
            self._count += 1
            if (name := f"{stem}/{self._count}") not in self._taken:
                return name

    def node(self, op: str, inputs: Sequence[str], tops: int, name: str, attributes: Mapping[str, Any]) -> list[str]:
        """Add a node; the names of its outputs."""
        from onnx import helper

        outputs = [self.fresh(f"{name}/{op}") for _ in range(tops)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def identity(self, old: str, new: str) -> None:
        """Give a tensor a second name."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [old], [new], name=new))

    def constant(self, array: np.ndarray, name: str) -> str:
        """The name of a constant; equal ones stand once."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, hashlib.blake2b(array.data).digest())
        if key not in self._known:
            self._known[key] = self.fresh(name)
            self.constants[self._known[key]] = numpy_helper.from_array(array, self._known[key])
        return self._known[key]

    @contextmanager
    def body(self) -> Iterator[list[Any]]:
        """Nodes added inside go into the list given, for the graph that a node such as Scan holds."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def rename(self, old: str, new: str, since: int) -> bool:
        """Give an output of the nodes added after the first ``since`` another name; False if none of them has it."""
        mine = self.nodes[since:]
        if not any(old in node.output for node in mine):
            return False
        for node in mine:
            for names in (node.input, node.output):
                for i, one in enumerate(names):
                    if one == old:
                        names[i] = new
        return True


class Call:
    """One layer to be written: its settings, weights and bottoms, and ways to add nodes.

    Attributes:
        layer, node, p: the layer, as declared, and its settings message.
        bottoms: what it reads.
        tops: shapes of what it gives.
        weights: its stored arrays by name, in the net's dtype.
    """

    def __init__(
        self, layer: Layer, bottoms: Sequence[Value], tops: Sequence[Dims], weights: Mapping[str, np.ndarray],
        writer: Writer,
    ):
        self.layer: Any = layer
        self.node: Node = layer.node
        self.p = layer.p
        self.bottoms = tuple(bottoms)
        self.tops = tuple(tops)
        self.weights = weights
        self.writer = writer
        self.dtype = writer.dtype

    @property
    def x(self) -> str:
        """The name of the first bottom."""
        return self.bottoms[0].name

    @property
    def shape(self) -> Dims:
        """The shape of the first bottom."""
        return self.bottoms[0].shape

    @property
    def names(self) -> list[str]:
        """The names of all bottoms."""
        return [bottom.name for bottom in self.bottoms]

    def op(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node of one output; inputs are names, or numbers and arrays that become constants."""
        return self.ops(op, 1, *inputs, **attributes)[0]

    def ops(self, op: str, tops: int, *inputs: Any, **attributes: Any) -> list[str]:
        """Add a node of several outputs."""
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        return self.writer.node(op, names, tops, self.node.name, attributes)

    def constant(self, value: Any) -> str:
        """The name of a constant: floats in the net's dtype, anything else as it is."""
        array = np.asarray(value)
        if array.dtype == object:
            raise FixedBatch("a constant depends on the batch")
        return self.writer.constant(array.astype(self.dtype) if array.dtype.kind == "f" else array, self.node.name)

    def weight(self, name: str, *shape: int) -> str:
        """The name of a stored array, with another shape where given."""
        array = self.weights[name]
        return self.constant(array.reshape(shape) if shape else array)

    def ints(self, values: Sequence[Dim]) -> str:
        """The name of a constant of whole numbers. Raises FixedBatch when one grows with the batch."""
        return self.constant(np.array([int(value) for value in values], np.int64))

    def floats(self, value: str) -> str:
        """A tensor of another type, as numbers of the net's dtype."""
        from onnx import helper

        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(self.dtype))

    def whole(self, value: str) -> str:
        """Numbers cut to 64 bit integers."""
        from onnx import TensorProto

        return self.op("Cast", value, to=TensorProto.INT64)

    def reshape(self, value: str, shape: Sequence[Dim]) -> str:
        """A Reshape to sizes of which one may grow with the batch."""
        moving = [i for i, size in enumerate(shape) if isinstance(size, Growing)]
        if len(moving) > 1:
            raise FixedBatch(f"the shape ({', '.join(map(str, shape))}) grows in two places")
        return self.op("Reshape", value, self.ints([-1 if i in moving else size for i, size in enumerate(shape)]))

    def slice(self, value: str, axis: int, start: int, end: Dim, step: int = 1) -> str:
        """The indices start, start + step, ... below end of one axis."""
        last = np.iinfo(np.int64).max if isinstance(end, Growing) else end
        return self.op("Slice", value, self.ints([start]), self.ints([last]), self.ints([axis]), self.ints([step]))

    def pad(self, value: str, pads: Sequence[tuple[int, int]], fill: float = 0.0) -> str:
        """Cells before and after each axis, if there are any to add."""
        if not any(before or after for before, after in pads):
            return value
        flat = [before for before, _ in pads] + [after for _, after in pads]
        return self.op("Pad", value, self.ints(flat), float(fill))

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """Axes in another order."""
        return value if list(order) == list(range(len(order))) else self.op("Transpose", value, perm=list(order))

    def reduce(self, op: str, value: str, axes: Sequence[int], *, keep: bool = False) -> str:
        """ReduceSum, ReduceMean, ... over some axes; without any, of each value alone, where ONNX takes all axes."""
        if not axes:
            if op == "ReduceSumSquare":
                return self.op("Mul", value, value)
            return self.op("Abs", value) if op == "ReduceL1" else value
        return self.op(op, value, self.ints(axes), keepdims=int(keep))

    def size(self, value: str, axis: int) -> str:
        """The length of one axis when the model runs, as a tensor of one whole number."""
        return self.op("Slice", self.op("Shape", value), self.ints([axis]), self.ints([axis + 1]))

    def filled(self, value: float, like: str) -> str:
        """One number, in the shape of another tensor."""
        return self.op("Expand", float(value), self.op("Shape", like))

    def missing(self, reason: str) -> NotInOnnx:
        """An error to raise: this layer, as it is set, has no form in ONNX."""
        return NotInOnnx(reason)


Write = Callable[[Call], Sequence[str]]
W = TypeVar("W", bound=Write)
WRITERS: dict[str, Write] = {}


def writes(*layer_types: str) -> Callable[[W], W]:
    """Register a function that adds a layer's nodes and returns the names of its tops."""

    def register(function: W) -> W:
        for layer_type in layer_types:
            WRITERS[layer_type] = function
        return function

    return register
