"""What a node that stands for many time steps reads, and how: the part of the compiler's result that is data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaffe.netdef.graph import Node


@dataclass(frozen=True)
class Cut:
    """A blob that a Slice cuts into equal pieces along ``axis``.

    Attributes:
        value: the blob.
        axis: not negative.
        pieces: how many.
        size: of a piece along the axis, as declared.
        exact: whether it is so whatever the size of the blob.
        layer: the Slice, for messages.
    """

    value: str
    axis: int
    pieces: int
    size: int
    exact: bool
    layer: Node = field(compare=False)

    def size_in(self, shape: Sequence[int]) -> int:
        """The size of a piece of a blob of this shape. Raises SpecError when the pieces are not equal."""
        size = self.size if self.exact else shape[self.axis] // self.pieces
        if shape[self.axis] != size * self.pieces:
            raise self.layer.error(f"its tops are steps of one loop: expected {self.pieces} of {size} along axis "
                                   f"{self.axis}; found a bottom of shape {tuple(shape)}")
        return size


@dataclass(frozen=True)
class Run:
    """Values that are had together: ``count`` of a stack from place ``first`` on, every ``stride``-th.

    Attributes:
        source: a stack by its name, or the pieces of a Slice.
        stride: negative for backwards.
        alone: the source is one value instead, ``count`` times.
    """

    source: str | Cut
    first: int = 0
    count: int = 1
    stride: int = 1
    alone: bool = False

    @property
    def value(self) -> str:
        """What it reads."""
        return self.source.value if isinstance(self.source, Cut) else self.source


Series = tuple[Run, ...]
Location = tuple[str | Cut, int]  # of a value: in which stack or Slice, and its place there


def runs(values: Iterable[str], located: Mapping[str, Location]) -> Series:
    """The values, as few runs."""
    found: list[Run] = []
    for value in values:
        if value not in located:
            again = bool(found) and found[-1].alone and found[-1].source == value
            count = found.pop().count + 1 if again else 1
            found.append(Run(value, count=count, alone=True))
            continue
        source, place = located[value]
        if found and found[-1].source == source and not found[-1].alone:
            last = found[-1]
            stride = place - (last.first + (last.count - 1) * last.stride)
            if stride and (last.count == 1 or stride == last.stride):
                found[-1] = Run(source, last.first, last.count + 1, stride)
                continue
        found.append(Run(source, place))
    return tuple(found)


@dataclass(frozen=True)
class Carried:
    """A value that a step gets from an earlier one.

    Attributes:
        value: the body's name for it, as the earlier step wrote it.
        delay: how many steps ago.
        before: what it is in the first ``delay`` steps.
    """

    value: str
    delay: int
    before: Series


@dataclass(frozen=True)
class Steps:
    """Layers that are the same at every step, as the body of a loop, or run for all steps at once.

    Attributes:
        count: of steps.
        body: the layers of a step, in order. Their names, and those of their tops, are of the first step; what they
            read has names of its own.
        names: for each layer of the body, what it is called at each step.
        sequences: what differs from step to step, by the body's name for it.
        carried: what comes from earlier steps, likewise.
        constants: what is the same at every step: the body's name, and the value.
        stacks: names of stacks that come out, and the body's value that each is of.
        picked: values of single steps that come out: the body's value, and the step.
        sizes: of the tops: how many values each has.
        again: whether a step is run once more in the backward pass, which then keeps none of its inner values.
    """

    count: int
    body: tuple[Node, ...]
    names: Mapping[str, tuple[str, ...]]
    sequences: Mapping[str, Series]
    carried: Mapping[str, Carried]
    constants: Mapping[str, str]
    stacks: Mapping[str, str] = field(default_factory=dict)
    picked: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    again: bool = False

    def reads(self) -> list[str]:
        """Values of the graph, each once."""
        runs = [run for one in self.sequences.values() for run in one]
        runs += [run for one in self.carried.values() for run in one.before]
        return list(dict.fromkeys([*(run.value for run in runs), *self.constants.values()]))

    def __str__(self) -> str:
        layers = ", ".join(node.name for node in self.body)
        return f"{self.count} x {layers}{', each run again' if self.again else ''}"


@dataclass(frozen=True)
class Join:
    """A Concat of many values, as few runs of them along ``axis``.

    Attributes:
        sizes: of the top, as ``Steps`` has it.
    """

    series: Series
    axis: int
    sizes: Mapping[str, int]

    def reads(self) -> list[str]:
        """Values of the graph, each once."""
        return list(dict.fromkeys(run.value for run in self.series))

    def __str__(self) -> str:
        return "joined"

