"""What is made of the processes' findings: ratios within rounds, medians, tables. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.nets import NETS

TITLES = {"jaffe": "jaffe", "flax": "Flax", "torch": "PyTorch"}

Round = Mapping[str, Mapping[str, Any]]  # of each framework what its process printed


@dataclass(frozen=True)
class Case:
    """A net as it was timed in several rounds.

    Attributes:
        net: a key of ``NETS``.
        mode: ``"train"`` or ``"infer"``.
        variant: of PyTorch, the fastest; empty without it.
        rounds: what was found in each.
    """

    net: str
    mode: str
    batch: int
    variant: str
    rounds: Sequence[Round]

    @property
    def title(self) -> str:
        return f"{NETS[self.net].title}, {self.batch}"

    @property
    def frameworks(self) -> list[str]:
        return list(self.rounds[0])

    @property
    def others(self) -> list[str]:
        """What jaffe is held against, if it is there."""
        return [one for one in self.frameworks if one != "jaffe" and "jaffe" in self.frameworks]

    def spread(self, framework: str, key: str) -> Spread:
        """Of one framework's findings."""
        return Spread.of(one[framework][key] for one in self.rounds)

    def ratio(self, above: tuple[str, str], below: tuple[str, str]) -> Spread:
        """Of two findings, (framework, key) each, within each round, since the machine's speed drifts."""
        return Spread.of(one[above[0]][above[1]] / one[below[0]][below[1]] for one in self.rounds)

    def speed(self, other: str) -> Spread:
        """How many times as fast as the other jaffe's step is."""
        return self.ratio((other, "step_ms"), ("jaffe", "step_ms"))


@dataclass(frozen=True)
class Spread:
    """Median, least and most of several numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.least)} to {number(self.most)})"


def number(value: float) -> str:
    """With three digits, or all those before the point."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(digits, 0)}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def speeds(cases: Sequence[Case]) -> str:
    """Milliseconds a step, and how many times as fast as the others jaffe is, with the geometric mean over the nets;
    when training also the bound, and how much of it is reached."""
    first = cases[0]
    bound = first.mode == "train" and "jaffe" in first.frameworks
    head = ["net, batch", *(f"{TITLES[one]}, ms" for one in first.frameworks)]
    head += ["variant"] * ("torch" in first.frameworks) + [f"against {TITLES[one]}" for one in first.others]
    head += ["bound, ms", "of the bound"] * bound
    rows: list[list[object]] = []
    for case in cases:
        row: list[object] = [case.title, *(case.spread(one, "step_ms") for one in case.frameworks)]
        row += [case.variant.replace("_", " ")] * ("torch" in case.frameworks)
        row += [case.speed(one) for one in case.others]
        if bound:
            row.append(number(case.spread("jaffe", "bound_ms").median))
            row.append(f"{case.ratio(('jaffe', 'bound_ms'), ('jaffe', 'step_ms')).median:.0%}")
        rows.append(row)
    if first.others:
        means = [number(statistics.geometric_mean(case.speed(one).median for case in cases)) for one in first.others]
        before = len(head) - 1 - len(means) - 2 * bound
        rows.append(["geometric mean", *[""] * before, *means, *[""] * (2 * bound)])
    return markdown(head, rows)


def starts(cases: Sequence[Case]) -> str:
    """Seconds to the end of the first training step."""
    first = cases[0]
    warm = "jaffe" in first.frameworks
    head = ["net, batch", *(f"{TITLES[one]}, s" for one in first.frameworks)]
    head += [f"{TITLES[one]} / jaffe" for one in first.others]
    head += ["jaffe, stored, s", "found, s", "found / stored"] * warm
    rows: list[list[object]] = []
    for case in cases:
        row: list[object] = [case.title, *(case.spread(one, "first_s") for one in case.frameworks)]
        row += [case.ratio((one, "first_s"), ("jaffe", "first_s")) for one in case.others]
        if warm:
            share = case.ratio(("jaffe", "warm_s"), ("jaffe", "cold_s"))
            row += [case.spread("jaffe", "cold_s"), case.spread("jaffe", "warm_s"), f"{share.median:.0%}"]
        rows.append(row)
    return markdown(head, rows)


def drawings(cases: Sequence[Case]) -> str:
    """Seconds to draw the first weights, and how much longer the others take for that and the first step together."""
    first = cases[0]
    head = ["net, batch", *(f"{TITLES[one]}, s" for one in first.frameworks)]
    head += [f"with the first step, {TITLES[one]} / jaffe" for one in first.others]
    rows: list[list[object]] = []
    for case in cases:
        both = [{name: one["first_s"] + one["drawn_s"] for name, one in found.items()} for found in case.rounds]
        row: list[object] = [case.title, *(case.spread(one, "drawn_s") for one in case.frameworks)]
        rows.append(row + [Spread.of(one[other] / one["jaffe"] for one in both) for other in case.others])
    return markdown(head, rows)


def memory(cases: Sequence[Case]) -> str:
    """Most memory of a training process in MiB; of it, what the imports take."""
    first = cases[0]
    head = ["net, batch", *(f"{TITLES[one]}, MiB" for one in first.frameworks)]
    head += [f"jaffe / {TITLES[one]}" for one in first.others]
    rows: list[list[object]] = []
    for case in cases:
        row: list[object] = [case.title]
        for one in case.frameworks:
            peak, imports = (case.spread(one, key).median for key in ("peak_mb", "import_mb"))
            row.append(f"{peak:.0f} ({imports:.0f})")
        rows.append(row + [case.ratio(("jaffe", "peak_mb"), (one, "peak_mb")) for one in case.others])
    return markdown(head, rows)


def report(cases: Sequence[Case]) -> str:
    """All tables of what was timed, for the docs."""
    parts = []
    train = [case for case in cases if case.mode == "train"]
    infer = [case for case in cases if case.mode == "infer"]
    if train:
        parts += ["### Training step", speeds(train), "### First training step", starts(train),
                  "### First weights", drawings(train), "### Memory of training", memory(train)]
    if infer:
        parts += ["### Inference", speeds(infer)]
    return "\n\n".join(parts) + "\n"


def replaced(page: str, section: str, text: str) -> str:
    """The page with this text between the section's two marks. Raises ValueError when it has not both."""
    begin, end = (f"<!-- {section}: {mark} -->" for mark in ("begin", "end"))
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"expected {begin} and {end} after it; found {'only the first' if found else 'none'}")
    return f"{before}{begin}\n{text}{end}{after}"
