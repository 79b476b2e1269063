"""Families: layers that are the same at every step of an unrolled net, found from the weights that they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from jaffe.compile.passes.run import PassContext
from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import LayerParameter

FEWEST_STEPS = 4  # fewer are compiled as fast as they stand
Family = tuple[int, ...]  # places of its members in the graph, in the order of the steps


@dataclass(frozen=True)
class Wiring:
    """Who writes and who reads each value.

    Attributes:
        writer: place of the node that writes a value, and which of its tops that is.
        readers: places of the nodes that read it, and which of their bottoms that is, in the order of the graph.
    """

    writer: dict[str, tuple[int, int]]
    readers: dict[str, list[tuple[int, int]]]

    @classmethod
    def of(cls, graph: Graph) -> Wiring:
        writer = {top: (i, j) for i, node in enumerate(graph.nodes) for j, top in enumerate(node.tops)}
        readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, node in enumerate(graph.nodes):
            for j, value in enumerate(node.bottoms):
                readers[value].append((i, j))
        return cls(writer, readers)


@dataclass(frozen=True)
class Found:
    """What looks like time steps.

    Attributes:
        families: each in the order in which a recurrence goes through them.
        chains: those families that share weights and depend on each other one after another, where it all began.
    """

    families: list[Family]
    chains: list[Family]


def find_families(
    graph: Graph, context: PassContext, wiring: Wiring, kinds: Sequence[int | None], period: int
) -> Found:
    """The families of a graph. ``kinds``: of ``node_kinds``.

    A family begins as a chain: layers of one kind that share all their weights, of which each depends on the one
    before. Where it goes from one member to the next, so do the layers around it: what they read, and what reads
    them, pair by pair, as far as those are of one kind too.

    ``period``: how many members further in a chain the next of a family is: 2 where steps are alike every second time,
    or where a weight is used twice a step.
    """
    after: dict[int, int] = {}  # from a member of a family to the next
    before: dict[int, int] = {}
    chains = []
    for group in _sharing(graph, context, kinds):
        if group[0] in after:
            continue  # found on the way from another one
        links = _links(graph, group)
        chains += _paths(links)
        pairs = [(a, b) for a, b in _further(links, period) if a not in after and b not in before]
        while pairs:
            a, b = pairs.pop()
            if a in after or b in before:
                continue
            after[a], before[b] = b, a
            pairs += _neighbours(graph, wiring, kinds, a, b)
    return Found(_paths(after), chains)


def node_kinds(graph: Graph, context: PassContext) -> list[int | None]:
    """For each node a number, equal for nodes that differ in names only; None for inputs, layers with state and
    Python's."""
    numbers: dict[Hashable, int] = {}
    kinds: list[int | None] = []
    for node in graph.nodes:
        kind = _kind(node, context)
        kinds.append(None if kind is None else numbers.setdefault(kind, len(numbers)))
    return kinds


def _kind(node: Node, context: PassContext) -> Hashable | None:
    """All that decides what a node computes, but for names. None: it must stay where it is."""
    layers, stored, shapes = context.inferred.layers, context.inferred.stored, context.inferred.shapes
    if node.plan is not None or any(
        leaf.name in context.effects or layers[leaf.name].source or leaf.type == "Python" for leaf in node.leaves
    ):
        return None
    return (
        node.type,
        tuple(_settings(leaf.proto) for leaf in node.leaves),
        tuple(tuple(one.owner for one in stored[leaf.name]) for leaf in node.leaves),
        node.phase,
        node.loss_weights,
        tuple(shapes[value] for value in node.bottoms),
        tuple(shapes[value] for value in node.tops),
    )


def _settings(proto: LayerParameter) -> bytes:
    copy = LayerParameter()
    copy.CopyFrom(proto)
    for field in ("name", "top", "bottom", "param", "include", "exclude", "phase", "blobs"):
        copy.ClearField(field)
    return copy.SerializeToString(deterministic=True)


def _sharing(graph: Graph, context: PassContext, kinds: Sequence[int | None]) -> list[list[int]]:
    """The nodes of each kind that has weights, where there are enough."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i, (node, kind) in enumerate(zip(graph.nodes, kinds, strict=True)):
        if kind is not None and any(context.inferred.stored[leaf.name] for leaf in node.leaves):
            groups[kind].append(i)
    return [group for group in groups.values() if len(group) >= FEWEST_STEPS]


def _links(graph: Graph, group: Sequence[int]) -> dict[int, int]:
    """From a node of the group to the first that depends on it, and on no later one of the group."""
    members = set(group)
    latest: dict[str, int] = {}  # by value: the last of the group that it depends on, by a way past no other
    links: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        last = max((latest.get(value, -1) for value in node.bottoms), default=-1)
        if i in members:
            if last >= 0:
                links.setdefault(last, i)
            last = i
        if last >= 0:
            latest.update(dict.fromkeys(node.tops, last))
    return links


def _further(links: dict[int, int], period: int) -> list[tuple[int, int]]:
    """Each node, and the one that is so many links further."""
    pairs = [(node, node) for node in links]
    for _ in range(period):
        pairs = [(node, links[last]) for node, last in pairs if last in links]
    return pairs


def _neighbours(
    graph: Graph, wiring: Wiring, kinds: Sequence[int | None], a: int, b: int
) -> list[tuple[int, int]]:
    """If b is to the next step what a is to this one: the pairs of nodes for which that holds too."""
    one, other = graph.nodes[a], graph.nodes[b]
    pairs = []
    for value, following in zip(one.bottoms, other.bottoms, strict=True):
        (p, top), (q, other_top) = wiring.writer[value], wiring.writer[following]
        if p != q and top == other_top and kinds[p] is not None and kinds[p] == kinds[q]:
            pairs.append((p, q))
    for value, following in zip(one.tops, other.tops, strict=True):
        theirs = defaultdict(list)
        for q, slot in wiring.readers[following]:
            theirs[slot, kinds[q]].append(q)
        for p, slot in wiring.readers[value]:
            alike = theirs.get((slot, kinds[p]))
            if kinds[p] is not None and alike:
                q = alike.pop(0)
                if p != q:
                    pairs.append((p, q))
    return pairs


def _paths(after: dict[int, int]) -> list[Family]:
    """The chains of a map that takes no two to one place; those that are long enough."""
    later = set(after.values())
    paths = []
    for start in sorted(set(after) - later):
        path = [start]
        while path[-1] in after:
            path.append(after[path[-1]])
        if len(path) >= FEWEST_STEPS:
            paths.append(tuple(path))
    return paths
