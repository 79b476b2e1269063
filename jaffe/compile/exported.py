"""What of a net is exported: the layers that lead to the outputs asked for, and which sizes grow with the batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jaffe.compile.infer import Inferred, infer
from jaffe.compile.layer import Shape
from jaffe.compile.passes import SIMPLIFICATIONS, run
from jaffe.netdef.errors import JaffeError, SpecError, suggest
from jaffe.netdef.graph import Graph
from jaffe.netdef.sizes import sizes

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet

BatchChoice = Literal["polymorphic"] | int | None


@dataclass(frozen=True)
class Growing:
    """A size that grows with the batch N: ``each * N + more``.

    Arithmetic that keeps this form works; any other use as a number raises FixedBatch, so that a size of one
    batch is never written down as if it held for all.
    """

    each: int
    more: int = 0

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, Growing):
            return growing(self.each + other.each, self.more + other.more)
        return Growing(self.each, self.more + other)

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, Growing):
            raise FixedBatch(f"the size {self} * {other}")
        return growing(self.each * other, self.more * other)

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __floordiv__(self, other: int) -> Dim:
        if self.each % other or self.more % other:
            raise FixedBatch(f"the size ({self}) / {other}")
        return Growing(self.each // other, self.more // other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __index__(self) -> int:
        raise FixedBatch(f"the size {self}")

    def __lt__(self, other: object) -> bool:
        raise FixedBatch(f"the size {self}")

    __gt__ = __le__ = __ge__ = __lt__

    def __str__(self) -> str:
        """``N``, ``3*N`` or ``3*N + 1``."""
        times = "N" if self.each == 1 else f"{self.each}*N"
        return f"{times} + {self.more}" if self.more > 0 else f"{times} - {-self.more}" if self.more else times


Dim = int | Growing
Dims = tuple[Dim, ...]


class FixedBatch(JaffeError):
    """Something needs a size as a number that differs from batch to batch."""


def growing(each: int, more: int) -> Dim:
    """``each * N + more``; a plain number where each is 0."""
    return Growing(each, more) if each else more


@dataclass(frozen=True)
class Part:
    """The part of a net that is exported.

    Attributes:
        graph: its layers, after the passes that leave layers as they are.
        outputs: the value behind each output blob, in the order asked for.
        inputs: declared shapes of the inputs that these layers read.
        batched: inputs whose first axis is the batch: those as long there as the first input is.
    """

    graph: Graph
    outputs: Mapping[str, str]
    inputs: Mapping[str, Shape]
    batched: frozenset[str]

    @property
    def length(self) -> int | None:
        """The declared batch; ``None`` for a net without inputs that have one."""
        return next((self.inputs[name][0] for name in self.inputs if name in self.batched), None)

    def with_batch(self, size: Dim) -> dict[str, Dims]:
        """The inputs' shapes with another batch."""
        return {name: (size, *shape[1:]) if name in self.batched else shape for name, shape in self.inputs.items()}


def exported_part(net: CompiledNet, outputs: Iterable[str] | None) -> Part:
    """The layers of a net in phase TEST that lead to ``outputs`` (by default to all the net's outputs).

    Raises:
        JaffeError: the net's phase is TRAIN; or it has no blob of that name.
    """
    if net.phase != "TEST":
        raise JaffeError(f"net {net.name!r} is in phase {net.phase}; expected TEST: what is exported is the "
                         'forward pass that a trained net is used for; compile it with phase="TEST"')
    if isinstance(outputs, str) or not isinstance(outputs, Iterable | None):
        raise JaffeError(f"outputs is a list of blobs; received {outputs!r}")
    wanted: dict[str, str] = {}
    for blob in net.outputs if outputs is None else outputs:
        if not isinstance(blob, str):
            raise JaffeError(f"outputs is a list of blobs; received {blob!r} in it")
        if blob not in net.graph.blobs:
            raise JaffeError(f"the net has no blob {blob!r}{suggest(blob, net.graph.blobs)}")
        wanted[blob] = net.graph.blobs[blob]
    if not wanted:
        raise JaffeError(f"net {net.name!r} has no outputs to export")
    context = replace(net.context(frozenset(wanted.values())), effects=frozenset())
    graph = run(net.graph, SIMPLIFICATIONS, context)
    read = {value for node in graph.nodes for value in node.bottoms} | set(wanted.values())
    inputs = {name: shape for name, shape in net.inferred.inputs.items() if name in read}
    lengths = [shape[0] for shape in inputs.values() if shape]
    batched = frozenset(name for name, shape in inputs.items() if shape and shape[0] == lengths[0])
    return Part(graph, wanted, inputs, batched)


def rebatched(net: CompiledNet, part: Part, batch: int) -> Inferred:
    """Shapes with another batch size; the weights must stay the same.

    Raises:
        SpecError: a layer does not fit another batch.
    """
    (batch,) = sizes("batch", [batch])
    length = part.length
    again = infer(net.graph, {  # all inputs: those that only other layers read, such as labels, still have to fit
        name: (batch, *shape[1:]) if shape and shape[0] == length else shape
        for name, shape in net.inferred.inputs.items()
    })
    for node in part.graph.nodes:
        for old, new in zip(net.inferred.stored[node.name], again.stored[node.name], strict=True):
            if old.weight.shape != new.weight.shape:
                raise node.error(f"with batch {batch} its {new.weight.name} would be {new.weight.shape}; "
                                 f"expected {old.weight.shape}, as compiled")
    return again


def growing_shapes(net: CompiledNet, part: Part) -> dict[str, Dims]:
    """The shape of every value with batch N, found by inferring shapes with three batches.

    Raises:
        SpecError: names the first layer that does not fit another batch than the declared one.
    """
    first = part.length
    if first is None:
        raise FixedBatch("there is no input with a batch")
    runs = [net.inferred, rebatched(net, part, first + 1), rebatched(net, part, first + 2)]
    shapes: dict[str, Dims] = {}
    for node in part.graph.nodes:
        for top in node.tops:
            a, b, c = (one.shapes[top] for one in runs)
            if len(a) != len(b) or any(z - y != y - x for x, y, z in zip(a, b, c, strict=True)):
                raise node.error(f"top {top!r} is {a}, {b} and {c} with batches {first}, {first + 1} and {first + 2}; "
                                 "expected sizes that grow evenly")
            shapes[top] = tuple(growing(y - x, x - (y - x) * first) for x, y in zip(a, b, strict=True))
    return shapes


def warn_fixed(net: CompiledNet, part: Part, reason: JaffeError) -> None:
    """Say which layer keeps an export from taking any batch, and which batch it takes instead."""
    kept = f"exported for batch {part.length}, as declared" if part.length else "exported as declared"
    problem = reason if isinstance(reason, SpecError) else f"net {net.name!r}: {reason}"
    warnings.warn(f"{kept}, as not every batch fits. {problem}", stacklevel=4)
