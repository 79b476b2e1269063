"""Which steps of a net are run as one, and why others are not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

from jaffe.compile.layers.convolution import Convolution
from jaffe.compile.passes.run import PassContext
from jaffe.compile.reroll.families import FEWEST_STEPS, Family, Wiring, find_families, node_kinds
from jaffe.compile.reroll.schedule import Refusal, Region, find_regions
from jaffe.netdef.graph import Graph

# XLA:CPU runs its own convolutions inside a loop many times as slowly as outside, those of oneDNN still more slowly. A
# program of so many steps takes seconds to compile.
MOST_STEPS_OF_CONVOLUTIONS = {"onednn": 64, "xla": 256}
MOST_PERIOD = 4  # steps may be alike every second, third or fourth time only


@dataclass(frozen=True)
class Loops:
    """What can be run as one, and why other layers that share weights cannot.

    Attributes:
        regions: to be run as one: loops, and layers around them.
        refusals: what looked like time steps.
        chains: layers of one kind that share weights and depend on each other one after another.
    """

    wiring: Wiring
    regions: list[Region]
    refusals: list[Refusal]
    chains: list[Family]

    @cached_property
    def looped(self) -> frozenset[int]:
        """The places of all that is in a loop."""
        return frozenset(
            place for region in self.regions if region.loops for column in region.columns for place in column)


def find_loops(graph: Graph, context: PassContext) -> Loops:
    """The loops of a graph, and the layers around them that take all steps at once."""
    wiring, kinds = Wiring.of(graph), node_kinds(graph, context)
    best = Loops(wiring, [], [], [])
    for period in range(1, MOST_PERIOD + 1):
        found = find_families(graph, context, wiring, kinds, period)
        if not found.chains:
            break
        regions, refusals = find_regions(graph, wiring, found.families, context.inferred.shapes)
        loops = _paying(graph, context, Loops(wiring, regions, refusals, found.chains))
        if period == 1 or len(loops.looped) > len(best.looped):
            best = loops
        settled = loops.looped.union(*(refusal.places for refusal in loops.refusals if refusal.slow))
        if all(settled.intersection(chain) for chain in found.chains):
            break
    return best


def _paying(graph: Graph, context: PassContext, loops: Loops) -> Loops:
    """Without loops that would be slow."""
    paying, refusals = [], list(loops.refusals)
    for region in loops.regions:
        slow = _slow(graph, context, region)
        if slow:
            places = frozenset(place for column in region.columns for place in column)
            refusals.append(Refusal(places, slow, slow=True))
        else:
            paying.append(region)
    return replace(loops, regions=paying, refusals=refusals)


def _slow(graph: Graph, context: PassContext, region: Region) -> str:
    """Why the region would be slow as a loop; empty if it would not."""
    layers = context.inferred.layers
    leaves = [leaf for column in region.columns for leaf in graph.nodes[column[0]].leaves]
    convolution = next((leaf.name for leaf in leaves if isinstance(layers[leaf.name], Convolution)), None)
    if convolution is None or not (region.loops and context.lowering.on_cpu):
        return ""
    most = MOST_STEPS_OF_CONVOLUTIONS["onednn" if context.lowering.onednn else "xla"]
    if region.steps > most:
        return ""
    return f"{region.steps} steps (up to {most}) with a convolution, {convolution!r}, are faster one by one on the CPU"


def explain_loops(graph: Graph, context: PassContext) -> list[str]:
    """A line for each loop, and for each chain of layers that became none."""
    found = find_loops(graph, context)
    lines = []
    for region in found.regions:
        if region.loops:
            first, last = ([graph.nodes[column[k]].name for column in region.columns] for k in (0, -1))
            lines.append(f"one loop: {region.steps} steps from {', '.join(first)} to {', '.join(last)}")
    for chain in found.chains:
        left = [place for place in chain if place not in found.looped]
        if left:
            reasons = [refusal.reason for refusal in found.refusals if refusal.places.intersection(left)]
            names = [graph.nodes[place].name for place in left]
            shown = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)})"
            lines.append(f"no loop: {shown}: {(reasons or ['their steps depend on no common layers'])[0]}")
    return lines + _unlike(graph, context, {place for chain in found.chains for place in chain})


def _unlike(graph: Graph, context: PassContext, known: set[int]) -> list[str]:
    """Layers that share all their weights, but differ otherwise."""
    sharing = defaultdict(list)
    for place, node in enumerate(graph.nodes):
        owners = tuple(one.owner for leaf in node.leaves for one in context.inferred.stored[leaf.name])
        if owners and node.plan is None:
            sharing[owners].append(place)
    lines = []
    for places in sharing.values():
        alone = [place for place in places if place not in known]
        if len(places) >= FEWEST_STEPS and alone and len(alone) < len(places):
            one, other = (graph.nodes[place].name for place in (alone[0], next(p for p in places if p in known)))
            lines.append(f"no loop: {one}: it shares its weights with {other}, but not its settings or sizes")
    return lines
