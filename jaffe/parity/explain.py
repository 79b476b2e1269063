"""Why a value differs: every hypothesis that applies to the layers before it is computed, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaffe.netdef.graph import Node
from jaffe.parity.hypotheses import HYPOTHESES, Hypothesis, Suspect
from jaffe.parity.measure import Difference
from jaffe.parity.walk import Function, Walk

MOST_SINGLE = 24  # layers of a segment that are tried one by one; in longer ones only all of a kind together


@dataclass(frozen=True)
class Cause:
    """A change that makes the value equal to the reference's.

    Attributes:
        hypothesis: its name, as ``pool_rounding``.
        layers: the layers that were changed.
        what: what these layers do then.
        difference: what is left of the difference.
    """

    hypothesis: str
    layers: tuple[str, ...]
    what: str
    difference: Difference

    def __str__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        return f"{self.what} (layer{'s' * (len(self.layers) > 1)} {layers})"


@dataclass(frozen=True)
class Explanation:
    """What is known of a difference.

    Attributes:
        suspects: the layers that may be at fault: from the last recorded values before to this one.
        confirmed: the changes that make the value match, each on its own, the best match first.
        worth_checking: what else is known to go wrong in layers of these types.
    """

    suspects: tuple[str, ...]
    confirmed: tuple[Cause, ...]
    worth_checking: tuple[str, ...]


def explain(walk: Walk, value: str, tolerance: float) -> Explanation:
    """Try every hypothesis on every layer between ``value`` and the recorded values before it."""
    segment = walk.segment(value)
    suspects = [one for node in segment if (one := _suspect(walk, node, value, segment)) is not None]
    confirmed: list[Cause] = []
    open_questions: dict[str, None] = {}
    for hypothesis in HYPOTHESES:
        concerned = [one for one in suspects if hypothesis.concerns(one)]
        found = _test(walk, value, segment, hypothesis, concerned, tolerance)
        confirmed += found
        if concerned and not found and hypothesis.check:
            open_questions[hypothesis.check] = None
    confirmed.sort(key=lambda cause: cause.difference.relative)
    return Explanation(tuple(node.name for node in segment), tuple(confirmed), tuple(open_questions))


def _test(
    walk: Walk, value: str, segment: Sequence[Node], hypothesis: Hypothesis, suspects: Sequence[Suspect],
    tolerance: float,
) -> list[Cause]:
    """The variations of one hypothesis that make the value match: in one layer, and in all layers together."""
    trials: dict[str, dict[str, Function]] = {}
    for suspect in suspects:
        for variation in hypothesis.variations(suspect):
            trials.setdefault(variation.what, {})[suspect.node.name] = variation.function

    def judged(what: str, changed: dict[str, Function]) -> list[Cause]:
        after = walk.retry(value, segment, changed)
        if after is None:
            return []
        left = walk.difference(value, after)
        return [Cause(hypothesis.name, tuple(changed), what, left)] if left.within(tolerance) else []

    found: list[Cause] = []
    for what, changed in trials.items():
        one_by_one = len(segment) <= MOST_SINGLE or len(changed) == 1
        for name in changed if one_by_one else ():
            found += judged(what, {name: changed[name]})
        if len(changed) > 1:
            found += judged(what, changed)
    return found


def _suspect(walk: Walk, node: Node, value: str, segment: Sequence[Node]) -> Suspect | None:
    bottoms = [walk.near(bottom) for bottom in node.bottoms]
    if any(bottom is None for bottom in bottoms):
        return None
    target, where = _target(walk, node, value, segment)
    return Suspect(
        node=node,
        layer=walk.net.inferred.layers[node.name],
        weights=walk.weights[node.name],
        bottoms=tuple(bottom for bottom in bottoms if bottom is not None),
        dtype=walk.net.dtype,
        reads_input=any(bottom in walk.net.inputs for bottom in node.bottoms),
        target=target,
        where=where,
    )


def _target(
    walk: Walk, node: Node, value: str, segment: Sequence[Node]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the layer's top should be, and where that is known: after a ReLU, above 0 only."""
    if value in node.tops:
        return (walk.known[value], None) if value == node.tops[0] else (None, None)
    after = segment[-1]
    plain_relu = after.type == "ReLU" and not after.proto.relu_param.ListFields()
    if plain_relu and len(node.tops) == 1 and after.bottoms == node.tops and after.tops == (value,):
        return walk.known[value], walk.known[value] > 0
    return None, None
