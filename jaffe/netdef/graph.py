"""Graph: the net of one phase, resolved: every blob written once, every shared parameter with one owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaffe.netdef.errors import SpecError
from jaffe.netdef.jaffe_pb2 import LayerParameter


@dataclass(frozen=True)
class Node:
    """One layer of a resolved net.

    Attributes:
        name: unique within the graph; parameters are stored under it.
        type: layer type, such as ``"Convolution"``.
        proto: the layer as declared. Read it, do not write to it.
        bottoms, tops: values read and written. A value is a blob name, or ``name#k`` for the k-th time
            that an in-place layer wrote to that name.
        phase: ``"TRAIN"`` or ``"TEST"``: the layer's own, or the net's.
        loss_weights: one per top; the net's loss is the sum of weight times the top's sum.
        shared: for a parameter named like an earlier one (``param { name: "w" }``): its index, and the
            layer and index that own it.
        location: ``file:line``, or ``""``.
        directory: folder of the net's file, where files that the layer names are looked for.
        trusted: for a Python layer: whether its module was named by the caller, so that its code may run.
        parts: for a node that a compiler's pass made of several: those, in order; its name is the first's. ``type``
            then says how they are run as one.
        plan: for such a node what else its pass says of how they are run; of it only ``str`` is used here.
    """

    name: str
    type: str
    proto: LayerParameter
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    phase: str
    loss_weights: tuple[float, ...]
    shared: Mapping[int, tuple[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    location: str = ""
    directory: Path = Path()
    trusted: bool = False
    parts: tuple[Node, ...] = ()
    plan: Any = None

    @property
    def leaves(self) -> tuple[Node, ...]:
        """The declared layers that it consists of: itself, or those of its parts."""
        return tuple(leaf for part in self.parts for leaf in part.leaves) or (self,)

    def error(self, problem: str) -> SpecError:
        """A SpecError that names this layer and where it stands."""
        return SpecError(problem, layer=self.name, location=self.location or None)


@dataclass(frozen=True)
class Graph:
    """A resolved net. Immutable: passes return new graphs.

    Attributes:
        name: of the net.
        phase: ``"TRAIN"`` or ``"TEST"``.
        nodes: layers in the order of the file, which is an order in which they can be computed.
        outputs: blobs that no layer reads, in alphabetical order, as Caffe lists them.
        blobs: for each blob name of the declaration, the value that it ends up with.
    """

    name: str
    phase: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    blobs: Mapping[str, str]
    force_backward: bool = False

    def node(self, name: str) -> Node:
        """The layer of that name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def with_nodes(self, nodes: Iterable[Node], blobs: Mapping[str, str] | None = None) -> Graph:
        """The same net with other nodes, and other final values of blobs where given."""
        return replace(self, nodes=tuple(nodes), blobs=self.blobs if blobs is None else MappingProxyType(dict(blobs)))

    def verify(self) -> Graph:
        """Check the graph's invariants and return it: values written once and before they are read.

        Raises:
            AssertionError: a pass is wrong; never a user's mistake.
        """
        written: set[str] = set()
        for node in self.nodes:
            missing = [value for value in node.bottoms if value not in written]
            assert not missing, f"{node.name} reads {missing} before they are written"
            again = [value for value in node.tops if value in written]
            assert not again, f"{node.name} writes {again} a second time"
            assert len(node.loss_weights) == len(node.tops), f"{node.name}: a loss weight per top"
            written.update(node.tops)
        assert len({node.name for node in self.nodes}) == len(self.nodes), "layer names are unique"
        return self

    def __str__(self) -> str:
        """One line a layer, stable from run to run: what passes and tests compare."""
        lines = [f"net {self.name or '(unnamed)'} {self.phase}"]
        for node in self.nodes:
            left = ", ".join(
                f"{top} *{weight:g}" if weight else top
                for top, weight in zip(node.tops, node.loss_weights, strict=True)
            )
            shares = "".join(f" [{i}]={owner}[{j}]" for i, (owner, j) in sorted(node.shared.items()))
            named = str(node.plan or ", ".join(leaf.name for leaf in node.leaves))
            call = f"{node.type}<{named}>({', '.join(node.bottoms)})"
            lines.append(f"  {left} = {call}{shares}" if left else f"  {call}{shares}")
        return "\n".join([*lines, f"  -> {', '.join(self.outputs)}"])
