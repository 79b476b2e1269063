"""The time steps of an unrolled net become loops."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaffe.compile.layers.routing import Concat, Slice
from jaffe.compile.passes.eliminate_dead import eliminate_dead
from jaffe.compile.passes.run import PassContext
from jaffe.compile.reroll.families import Wiring
from jaffe.compile.reroll.find import find_loops
from jaffe.compile.reroll.plan import Carried, Cut, Join, Location, Series, Steps, runs
from jaffe.compile.reroll.schedule import Region
from jaffe.netdef.graph import Graph, Node


def reroll(graph: Graph, context: PassContext) -> Graph:
    """Where layers of one kind share their weights and depend on each other one after another, make of each stretch of
    steps that are alike one ``Steps`` node, whose program does not grow with their number.

    Layers of the steps that no step waits for (products with the input, the scores of each step) become ``Steps`` nodes
    of their own, which take all steps at once. What is cut from one blob by a Slice, or put together by a Concat, is
    read and written whole. Steps that differ, and layers with state, stay as they are.
    """
    found = find_loops(graph, context)
    if not any(region.loops for region in found.regions):
        return graph
    return eliminate_dead(_Writer(graph, context, found.wiring, found.regions).written(), context)


class _Writer:
    """Writes a graph anew, with one node for each region."""

    def __init__(self, graph: Graph, context: PassContext, wiring: Wiring, regions: Sequence[Region]):
        self.graph = graph
        self.nodes = graph.nodes
        self.context = context
        self.regions = regions
        self.covered = {place for region in regions for column in region.columns for place in column}
        self.located: dict[str, Location] = {}
        self.stacks = [self._stacks(region, wiring) for region in regions]
        for i, node in enumerate(self.nodes):
            if i not in self.covered:
                self._locate_pieces(node)
        self.read: set[str] = set(context.keep)  # stacks, and values on their own

    def written(self) -> Graph:
        units = [(i, self._joined(node)) for i, node in enumerate(self.nodes) if i not in self.covered]
        made = [self._steps(region) for region in self.regions]
        for node in [*(node for _, node in units), *made]:
            self.read.update(node.bottoms)
        for region, stacks, node in zip(self.regions, self.stacks, made, strict=True):
            first = min(place for column in region.columns for place in column)
            units.append((first, self._with_tops(node, region, stacks)))
        return self.graph.with_nodes(_in_order(units))

    def _stacks(self, region: Region, wiring: Wiring) -> dict[str, str]:
        """For each value of a step, by that of the first, the name of the stack of all."""
        names: dict[str, str] = {}
        for column in region.columns:
            for tops in zip(*(self.nodes[place].tops for place in column), strict=True):
                name = f"{tops[0]} .. {tops[-1]}"
                while name in wiring.writer:  # a blob may be called so
                    name += "'"
                names[tops[0]] = name
                self.located.update({top: (name, k) for k, top in enumerate(tops)})
        return names

    def _locate_pieces(self, node: Node) -> None:
        layer, shapes = self.context.inferred.layers[node.name], self.context.inferred.shapes
        if not isinstance(layer, Slice) or node.type != "Slice":
            return
        axis = layer.cut_axis(len(shapes[node.bottoms[0]]))
        sizes = {shapes[top][axis] for top in node.tops}
        if len(sizes) == 1:
            exact = bool(layer.p.slice_point)
            cut = Cut(node.bottoms[0], axis, len(node.tops), sizes.pop(), exact, node)
            self.located.update({top: (cut, k) for k, top in enumerate(node.tops)})

    def _joined(self, node: Node) -> Node:
        """The node; a Concat of values that lie together as one that reads them so."""
        layer, shapes = self.context.inferred.layers[node.name], self.context.inferred.shapes
        if not isinstance(layer, Concat) or node.type != "Concat" or node.proto.propagate_down:  # one for each bottom
            return node
        series = runs(node.bottoms, self.located)
        if len(series) == len(node.bottoms):
            return node
        axis = layer.cut_axis(len(shapes[node.bottoms[0]]))
        plan = Join(series, axis, {node.tops[0]: math.prod(shapes[node.tops[0]])})
        return replace(node, type="Join", bottoms=tuple(plan.reads()), parts=(node,), plan=plan)

    def _steps(self, region: Region) -> Node:
        """The node of a region, without tops: those are what others read."""
        nodes = self.nodes
        sequences: dict[str, Series] = {}
        carried: dict[str, Carried] = {}
        constants: dict[str, str] = {}
        names: dict[object, str] = {}
        body = []
        for c, column in enumerate(region.columns):
            bottoms = []
            for slot in range(len(nodes[column[0]].bottoms)):
                values = tuple(nodes[place].bottoms[slot] for place in column)
                read = region.inside.get((c, slot))
                inner = nodes[region.columns[read.column][0]].tops[read.top] if read else ""
                if read and not read.delay:
                    bottoms.append(inner)
                    continue
                key = (inner, read.delay, values[: read.delay]) if read else values
                name = names.setdefault(key, f"{values[0]} [{len(names)}]")
                bottoms.append(name)
                if read:
                    carried[name] = Carried(inner, read.delay, runs(values[: read.delay], self.located))
                elif len(set(values)) == 1:
                    constants[name] = values[0]
                else:
                    sequences[name] = runs(values, self.located)
            body.append(replace(nodes[column[0]], bottoms=tuple(bottoms)))
        plan = Steps(
            count=region.steps, body=tuple(body), sequences=sequences, carried=carried, constants=constants,
            names={nodes[column[0]].name: tuple(nodes[place].name for place in column) for column in region.columns})
        parts = tuple(nodes[place] for step in zip(*region.columns, strict=True) for place in step)
        return replace(parts[0], type="Steps", bottoms=tuple(plan.reads()), shared={}, parts=parts, plan=plan)

    def _with_tops(self, node: Node, region: Region, stacks: Mapping[str, str]) -> Node:
        shapes = self.context.inferred.shapes
        out, picked, sizes = {}, {}, {}
        weights: dict[str, float] = {}
        for column in region.columns:
            for k, place in enumerate(column):
                for value, top, weight in zip(self.nodes[place].tops, self.nodes[column[0]].tops,
                                              self.nodes[place].loss_weights, strict=True):
                    if value in self.read:
                        picked[value] = (top, k)
                        sizes[value] = math.prod(shapes[value])
                        weights[value] = weight
        for top, name in stacks.items():
            if name in self.read:
                out[name] = top
                sizes[name] = region.steps * math.prod(shapes[top])
        tops = (*out, *picked)
        return replace(node, tops=tops, loss_weights=tuple(weights.get(top, 0.0) for top in tops),
                       plan=replace(node.plan, stacks=out, picked=picked, sizes=sizes))


def _in_order(units: Sequence[tuple[int, Node]]) -> list[Node]:
    """The nodes by their places, but each after those that write what it reads."""
    writers = {top: u for u, (_, node) in enumerate(units) for top in node.tops}
    waiting: list[int] = []
    readers = defaultdict(list)
    for u, (_, node) in enumerate(units):
        before = {writers[value] for value in node.bottoms}
        waiting.append(len(before))
        for one in before:
            readers[one].append(u)
    ready = [(place, u) for u, (place, _) in enumerate(units) if not waiting[u]]
    heapq.heapify(ready)
    order = []
    while ready:
        _, u = heapq.heappop(ready)
        order.append(units[u][1])
        for one in readers[u]:
            waiting[one] -= 1
            if not waiting[one]:
                heapq.heappush(ready, (units[one][0], one))
    return order
