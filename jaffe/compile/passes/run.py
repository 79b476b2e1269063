"""What a pass is, and how a list of them is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaffe.compile.backward import Gradients
from jaffe.compile.infer import Inferred
from jaffe.compile.lowering import Lowering
from jaffe.compile.partition import Partition
from jaffe.netdef.graph import Graph


@dataclass(frozen=True)
class PassContext:
    """What passes may know beside the graph.

    Attributes:
        inferred: shapes and layers of the graph before any pass.
        keep: values that must still be produced: outputs, losses, and what the caller asked for.
        effects: names of nodes that do more than produce their tops: those that update state.
        gradients: those that training asks of each layer (``needed_gradients``).
        lowering: how operations are told to XLA.
        partition: layers that are divided over devices, or None.
        rounded: whether products are of a narrower dtype than weights.
        room: how many values of blobs a training step may keep for its backward pass; None: any number.
    """

    inferred: Inferred
    keep: frozenset[str]
    effects: frozenset[str]
    gradients: Mapping[str, Gradients]
    lowering: Lowering
    partition: Partition | None
    rounded: bool
    room: int | None


Pass = Callable[[Graph, PassContext], Graph]


def run(graph: Graph, passes: Sequence[Pass], context: PassContext) -> Graph:
    """Apply the passes in order, checking the graph after each."""
    for one in passes:
        graph = one(graph, context).verify()
    return graph
