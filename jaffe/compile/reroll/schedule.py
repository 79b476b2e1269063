"""Which families become a loop together, in which order a step runs them, and which take all steps at once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaffe.compile.reroll.components import components
from jaffe.compile.reroll.families import FEWEST_STEPS, Family, Wiring
from jaffe.netdef.graph import Graph

Slot = tuple[int, int]  # a column, and which of its bottoms


@dataclass(frozen=True)
class Inside:
    """What a bottom reads inside its region: top ``top`` of column ``column``, ``delay`` steps ago."""

    column: int
    top: int
    delay: int


@dataclass(frozen=True)
class Region:
    """Steps that are run as one.

    Attributes:
        columns: for each layer of a step, in the order in which a step runs them, the place of the node of each step.
        inside: for bottoms that read what the region itself computes, what that is. In the first ``delay`` steps they
            read something else.
    """

    columns: tuple[Family, ...]
    inside: Mapping[Slot, Inside]

    @property
    def steps(self) -> int:
        return len(self.columns[0])

    @property
    def loops(self) -> bool:
        """Whether a step waits for the one before."""
        return any(read.delay for read in self.inside.values())


@dataclass(frozen=True)
class _Column:
    """A family, and the time of its first member."""

    family: Family
    start: int

    def at(self, time: int) -> int | None:
        index = time - self.start
        return self.family[index] if 0 <= index < len(self.family) else None


@dataclass(frozen=True)
class Refusal:
    """Why layers that share weights and depend on each other are not run as one.

    Attributes:
        places: of the layers.
        slow: whether they could be, but would be slower.
    """

    places: frozenset[int]
    reason: str
    slow: bool = False


def find_regions(
    graph: Graph, wiring: Wiring, families: Sequence[Family], shapes: Mapping[str, Sequence[int]]
) -> tuple[list[Region], list[Refusal]]:
    """The regions of a graph, none of which depends on another that depends on it; and what came to be none.

    Families that depend on each other in a circle are a loop, as far as their steps are alike. Others take all steps
    at once.
    """
    unit = list(range(len(graph.nodes)))  # the number of a family stands for all its members
    for number, family in enumerate(families, len(graph.nodes)):
        for place in family:
            unit[place] = number
    regions: list[Region] = []
    refusals: list[Refusal] = []
    for component in _components(graph, wiring, unit):
        members = [families[one - len(graph.nodes)] for one in component if one >= len(graph.nodes)]
        if len(component) == 1 and members and not _reads_itself(graph, wiring, members):
            regions.append(Region((members[0],), {}))
        elif members:
            others = [graph.nodes[one].name for one in component if one < len(graph.nodes)]
            found = [loop for part in _circles(graph, wiring, members) for loop in _loops(graph, wiring, part, shapes)]
            regions += found
            places = frozenset(place for family in members for place in family)
            left = places.difference(place for loop in found for column in loop.columns for place in column)
            if left:
                refusals.append(Refusal(left, _difference(others)))
    return _untangled(graph, wiring, regions, refusals), refusals


def _difference(others: Sequence[str]) -> str:
    if others:
        return f"{others[0]!r} is like no layer of the steps before and after it"
    return f"what they read is not alike for {FEWEST_STEPS} steps one after another"


def _components(graph: Graph, wiring: Wiring, unit: Sequence[int]) -> list[list[int]]:
    successors: dict[int, dict[int, None]] = defaultdict(dict)
    for i, node in enumerate(graph.nodes):
        for value in node.bottoms:
            successors[unit[wiring.writer[value][0]]][unit[i]] = None
    return components(dict.fromkeys(unit), {one: list(theirs) for one, theirs in successors.items()})


def _reads_itself(graph: Graph, wiring: Wiring, families: Sequence[Family]) -> bool:
    places = {place for family in families for place in family}
    return any(wiring.writer[value][0] in places for place in places for value in graph.nodes[place].bottoms)


def _untangled(graph: Graph, wiring: Wiring, regions: list[Region], refusals: list[Refusal]) -> list[Region]:
    """Without those that depend on what depends on them, by a way through layers that are in no region."""
    while True:
        unit = list(range(len(graph.nodes)))
        for number, region in enumerate(regions, len(unit)):
            for column in region.columns:
                for place in column:
                    unit[place] = number
        tangles = [found for found in _components(graph, wiring, unit) if len(found) > 1]
        if not tangles:
            return regions
        for tangle in tangles:
            others = [graph.nodes[one].name for one in sorted(tangle) if one < len(unit)]
            places = (place for one in tangle if one >= len(unit)
                      for column in regions[one - len(unit)].columns for place in column)
            refusals.append(Refusal(frozenset(places), _difference(others)))
        tangled = {one for tangle in tangles for one in tangle}
        regions = [region for i, region in enumerate(regions, len(unit)) if i not in tangled]


def _circles(graph: Graph, wiring: Wiring, families: Sequence[Family]) -> list[list[Family]]:
    """The families that depend on each other in circles, without the help of nodes that are in none."""
    number = {place: i for i, family in enumerate(families) for place in family}
    successors: dict[int, dict[int, None]] = defaultdict(dict)
    for place, i in number.items():
        for value in graph.nodes[place].bottoms:
            if wiring.writer[value][0] in number:
                successors[number[wiring.writer[value][0]]][i] = None
    found = components(range(len(families)), {one: list(theirs) for one, theirs in successors.items()})
    return [[families[i] for i in one] for one in found if len(one) > 1 or one[0] in successors[one[0]]]


def _loops(
    graph: Graph, wiring: Wiring, families: Sequence[Family], shapes: Mapping[str, Sequence[int]]
) -> list[Region]:
    """The longest stretches of time in which all steps of these families are alike."""
    for some in (list(families), [family[::-1] for family in families]):  # a recurrence may have been found backwards
        offsets = _offsets(graph, wiring, some)
        starts = [_starts(offsets, len(some), root) for root in range(len(some))]
        fitting = [one for one in starts if one is not None]
        if fitting:
            best = min(fitting, key=lambda one: _cost(graph, wiring, some, offsets, one, shapes))
            columns = [_Column(family, start) for family, start in zip(some, best, strict=True)]
            return _stretches(graph, wiring, columns)
    return []


Offsets = Mapping[tuple[int, int, int, int], int]


def _offsets(graph: Graph, wiring: Wiring, families: Sequence[Family]) -> Offsets:
    """By how many places in their families a reader and what it reads are apart, by reader, its bottom, what it reads
    and which top of that: as most of the members have it."""
    index = {place: (f, k) for f, family in enumerate(families) for k, place in enumerate(family)}
    counts: dict[tuple[int, int, int, int], Counter[int]] = defaultdict(Counter)
    for place, (f, k) in index.items():
        for slot, value in enumerate(graph.nodes[place].bottoms):
            writer, top = wiring.writer[value]
            if writer in index:
                g, other = index[writer]
                counts[f, slot, g, top][other - k] += 1
    return {key: found.most_common(1)[0][0] for key, found in counts.items()}


def _starts(offsets: Offsets, count: int, root: int) -> list[int] | None:
    """The time of each family's first member, if no step may wait for a later one and ``root`` ends each step: all
    others run as late as they can. None where there are no such times."""
    times = [math.inf] * count
    times[root] = 0
    for _ in range(count):
        changed = False
        for (f, _slot, g, _top), offset in offsets.items():
            if g != root and times[f] - offset < times[g]:
                times[g], changed = times[f] - offset, True
        if not changed:
            break
    else:
        return None
    if math.inf in times or any(times[f] < times[g] + offset for (f, _, g, _), offset in offsets.items()):
        return None
    return [int(time) for time in times]


def _cost(
    graph: Graph, wiring: Wiring, families: Sequence[Family], offsets: Offsets, starts: Sequence[int],
    shapes: Mapping[str, Sequence[int]],
) -> tuple[int | str, ...]:
    """What is to be least: the numbers that go from step to step; the time from the first layer to the last, which is
    longer where fewer of them fit into whole steps; blobs that go from step to step but are read nowhere else, as those
    in the midst of what a person would call a step are. Then whatever tells ways apart that are equal."""
    delays: dict[tuple[int, int], int] = defaultdict(int)
    for (f, _, g, top), offset in offsets.items():
        delays[g, top] = max(delays[g, top], starts[f] - starts[g] - offset)
    carried = {one: graph.nodes[families[one[0]][-1]].tops[one[1]] for one, delay in delays.items() if delay}
    members = {place for family in families for place in family}
    inner = sum(all(place in members for place, _ in wiring.readers[value]) for value in carried.values())
    ends = [start + len(family) for start, family in zip(starts, families, strict=True)]
    names = sorted(graph.nodes[family[0]].name for family, start in zip(families, starts, strict=True)
                   if start == min(starts))
    return (sum(delays[one] * math.prod(shapes[value]) for one, value in carried.items()), max(ends) - min(starts),
            inner, sum(starts) - len(starts) * min(starts), *names)


def _stretches(graph: Graph, wiring: Wiring, columns: Sequence[_Column]) -> list[Region]:
    placed = {place: (c, column.start + k) for c, column in enumerate(columns) for k, place in enumerate(column.family)}
    begin = min(column.start for column in columns)
    last = max(column.start + len(column.family) for column in columns)
    regions = []
    while begin < last:
        end, inside = _stretch(graph, wiring, columns, placed, begin, last)
        order = _order([c for c, column in enumerate(columns) if column.at(begin) is not None], inside)
        if end - begin >= FEWEST_STEPS and order is not None:
            new = {c: i for i, c in enumerate(order)}
            regions.append(Region(
                tuple(columns[c].family[begin - columns[c].start : end - columns[c].start] for c in order),
                {(new[c], slot): Inside(new[read.column], read.top, read.delay)
                 for (c, slot), read in inside.items()}))
        begin = max(end, begin + 1)
    return regions


def _stretch(
    graph: Graph, wiring: Wiring, columns: Sequence[_Column], placed: Mapping[int, tuple[int, int]], begin: int,
    last: int,
) -> tuple[int, dict[Slot, Inside]]:
    """Up to which time steps are like those from ``begin`` on, and what they read of each other. ``placed``: column and
    time of each node."""
    inside: dict[Slot, Inside] = {}
    active = [column.at(begin) is not None for column in columns]
    for time in range(begin, last):
        new: dict[Slot, Inside] = {}
        for c, column in enumerate(columns):
            place = column.at(time)
            if (place is not None) != active[c]:
                return time, inside
            for slot, value in enumerate(() if place is None else graph.nodes[place].bottoms):
                writer, top = wiring.writer[value]
                other, when = placed.get(writer, (-1, -math.inf))
                read = Inside(other, top, time - int(when)) if when >= begin else None
                known = inside.get((c, slot))
                if read == known:
                    continue
                # What a step reads of an earlier one, the first steps read from before the loop.
                if known is not None or read is None or time - begin != read.delay:
                    return time, inside
                new[c, slot] = read
        inside.update(new)
    return last, inside


def _order(columns: Sequence[int], inside: Mapping[Slot, Inside]) -> list[int] | None:
    """The columns, each after those whose tops of the same step it reads. None where they go in a circle."""
    needs: dict[int, set[int]] = defaultdict(set)
    for (c, _), read in inside.items():
        if read.delay < 0:
            return None
        if read.delay == 0:
            needs[c].add(read.column)
    order: list[int] = []
    while len(order) < len(columns):
        ready = [c for c in columns if c not in order and needs[c] <= set(order)]
        if not ready:
            return None
        order += ready
    return order
