"""Values that a training step need not keep: the layers between two places are run once more in its backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from jaffe.compile.passes.run import PassContext
from jaffe.compile.reroll.plan import Steps
from jaffe.netdef.graph import Graph, Node


def recompute(graph: Graph, context: PassContext) -> Graph:
    """Where a training step would keep more than ``context.room`` values, make ``Recomputed`` nodes of stretches of its
    layers: of each only what is read outside is kept. For n equal layers in a chain these are about sqrt(n) stretches
    of sqrt(n) layers (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").

    Counted as kept is what a layer with a backward pass reads, but for the net's inputs. The stretches are those of the
    least peak: what is kept between all of them, and the most that is inside of one. The last stretch, whose backward
    pass comes first, is not run again; nor are layers without a backward pass, and Python code, which may have effects.
    Of a loop each step is run again.
    """
    if context.room is None or any(node.type == "Recomputed" for node in graph.nodes):
        return graph
    steps = _steps(graph, context)
    if sum(step.inside for step in steps) + _in_loops(graph, context) <= context.room:
        return graph
    graph = graph.with_nodes(
        replace(node, plan=replace(node.plan, again=True)) if _loops(node) else node for node in graph.nodes)
    stretches = _best(steps)
    last = max((stretch for stretch in stretches if len(stretch) > 1), key=lambda one: one.start, default=None)
    nodes: list[Node] = []
    for stretch in stretches:
        some = graph.nodes[stretch.start : stretch.stop]
        spared = sum(steps[i].inside - steps[i].beyond(stretch.stop) for i in stretch)
        nodes += [_as_one(some, steps, stretch)] if spared and len(some) > 1 and stretch != last else some
    return graph.with_nodes(nodes)


def _loops(node: Node) -> bool:
    return isinstance(node.plan, Steps) and bool(node.plan.carried)


def _in_loops(graph: Graph, context: PassContext) -> int:
    """Values that loops keep of their steps."""
    return sum(math.prod(context.inferred.shapes[top]) for node in graph.nodes if _loops(node) and not node.plan.again
               for part in node.parts if context.gradients[part.leaves[0].name].needed for top in part.tops)


@dataclass(frozen=True)
class _Step:
    """A node, as far as memory goes.

    Attributes:
        free: whether it may be run again.
        sizes: of its tops, those values that the backward pass needs; 0 of others.
        ends: of each top, the place of the node that reads it last; behind all where it is kept.
    """

    free: bool
    sizes: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def inside(self) -> int:
        return sum(self.sizes)

    def beyond(self, place: int) -> int:
        """Values that nodes from this place on read."""
        return sum(size for size, end in zip(self.sizes, self.ends, strict=True) if end >= place)


def _steps(graph: Graph, context: PassContext) -> list[_Step]:
    needed = [any(context.gradients[leaf.name].needed for leaf in node.leaves) for node in graph.nodes]
    ends: dict[str, int] = {}
    read: set[str] = set()
    for i, node in enumerate(graph.nodes):
        ends.update(dict.fromkeys(node.bottoms, i))
        read.update(node.bottoms if needed[i] else ())
    ends.update(dict.fromkeys(context.keep, len(graph.nodes)))
    shapes = context.inferred.shapes

    def size(node: Node, top: str) -> int:
        return math.prod(shapes[top]) if top in shapes else node.plan.sizes[top]

    return [
        _Step(
            free=needs and node.type != "Python",
            sizes=tuple(
                size(node, top) if top in read and not context.inferred.layers[node.name].source else 0
                for top in node.tops),
            ends=tuple(ends.get(top, -1) for top in node.tops),
        )
        for node, needs in zip(graph.nodes, needed, strict=True)
    ]


def _best(steps: Sequence[_Step]) -> list[range]:
    """The stretches of the least peak."""
    total, largest = sum(step.inside for step in steps), max(step.inside for step in steps)
    peaks = {}
    for count in range(2, math.isqrt(4 * len(steps)) + 2):
        stretches, between = _split(steps, max(total // count, largest))
        peaks[between + max(sum(steps[i].inside for i in one) for one in stretches)] = stretches
    return peaks[min(peaks)]


def _split(steps: Sequence[_Step], most: int) -> tuple[list[range], int]:
    """The stretches with at most so many values inside that leave the fewest between them, and how many those are."""
    fewest = [0]  # for the steps before each place
    begins = [0]
    for stop in range(1, len(steps) + 1):
        options = []
        inside = between = 0
        for begin in reversed(range(stop)):
            inside += steps[begin].inside
            between += steps[begin].beyond(stop)
            if begin < stop - 1 and (inside > most or not (steps[begin].free and steps[stop - 1].free)):
                break
            options.append((fewest[begin] + between, begin))
        values, begin = min(options)
        fewest.append(values)
        begins.append(begin)
    places = [len(steps)]
    while places[-1]:
        places.append(begins[places[-1]])
    return [range(begin, stop) for begin, stop in pairwise(reversed(places))], fewest[-1]


def _as_one(nodes: Sequence[Node], steps: Sequence[_Step], stretch: range) -> Node:
    written = {top for node in nodes for top in node.tops}
    bottoms = dict.fromkeys(value for node in nodes for value in node.bottoms if value not in written)
    tops = [
        (top, weight)
        for node, i in zip(nodes, stretch, strict=True)
        for top, weight, end in zip(node.tops, node.loss_weights, steps[i].ends, strict=True) if end >= stretch.stop
    ]
    return replace(nodes[0], type="Recomputed", bottoms=tuple(bottoms), tops=tuple(top for top, _ in tops),
                   loss_weights=tuple(weight for _, weight in tops), shared={}, parts=tuple(nodes), plan=None)
