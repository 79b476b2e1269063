"""compare: a net against a reference, layer by layer, and the report of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jaffe.compile.layer import Shape
from jaffe.compile.net import CompiledNet, Variables
from jaffe.compile.summary import as_text
from jaffe.netdef.errors import JaffeError, listed
from jaffe.netdef.graph import Node
from jaffe.parity.explain import Explanation, explain
from jaffe.parity.measure import Difference
from jaffe.parity.reference import Reference, align
from jaffe.parity.walk import Walk

EQUAL, WRONG, CARRIED, UNJUDGED, UNKNOWN = "equal", "wrong", "carried", "differs", "not recorded"


@dataclass(frozen=True)
class Row:
    """One value of the net.

    Attributes:
        layer, type, location: the layer that computes it, and where that stands (``file:line``, or ``""``).
        value: its name; ``blob#k`` is what the k-th in-place layer made of a blob.
        shape: in the net.
        difference: of the value computed from the net's inputs; ``None`` when the reference does not have it.
        alone: of the value computed from the reference's own blobs before it; ``None`` when that cannot be.
        verdict: ``"equal"``; ``"wrong"``: differs on the reference's own bottoms; ``"carried"``: equal on those,
            so that an earlier difference is carried on; ``"differs"``: cannot be computed alone;
            ``"not recorded"``.
        explanation: what is known of the difference, for wrong rows.
    """

    layer: str
    type: str
    location: str
    value: str
    shape: Shape
    difference: Difference | None
    alone: Difference | None
    verdict: str
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Comparison:
    """The rows of a net in its order, and what they come to. Prints as a table and the first difference.

    Attributes:
        reference: its name.
        tolerance: the largest error that counts as equal, as a part of a blob's scale.
        unused: names of the reference that the net does not have.
    """

    net: str
    reference: str
    tolerance: float
    rows: tuple[Row, ...]
    unused: tuple[str, ...]

    @property
    def first(self) -> Row | None:
        """The first row that is wrong by itself; else the first that differs; ``None`` when all are equal."""
        differing = [row for row in self.rows if row.verdict not in (EQUAL, UNKNOWN)]
        return next((row for row in differing if row.verdict == WRONG), differing[0] if differing else None)

    @property
    def agrees(self) -> bool:
        """Whether every value that the reference has is equal."""
        return self.first is None

    @property
    def error(self) -> float:
        """The largest relative error of all values compared."""
        return max(row.difference.relative for row in self.rows if row.difference)

    def __str__(self) -> str:
        return as_text(self.table(), self.verdict())

    def table(self) -> Table:
        """The rows, as ``rich`` prints them."""
        title = Text(f"{self.net} against {self.reference}, tolerance {self.tolerance:g} of each blob's scale")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for name in ("layer", "type", "value", "shape"):
            table.add_column(name)
        for name in ("max error", "scale", "relative", "alone"):
            table.add_column(name, justify="right")
        table.add_column("verdict")
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            cells = (row.layer, row.type, row.value, shape, *_numbers(row), row.verdict)
            style = {WRONG: "bold red", UNJUDGED: "red", CARRIED: "yellow", UNKNOWN: "dim"}.get(row.verdict, "")
            table.add_row(*map(Text, cells), style=style)
        return table

    def verdict(self) -> str:
        """The first difference and its cause in words, or that there is none."""
        compared = sum(row.verdict != UNKNOWN for row in self.rows)
        unused = f"not in the net: {', '.join(self.unused)}" if self.unused else ""
        first = self.first
        if first is None:
            words = f"equal: {compared} of {len(self.rows)} values compared, largest relative error {self.error:.2g}"
            return "\n".join(filter(None, (words, unused)))
        others = [row for row in self.rows if row.verdict == WRONG and row is not first]
        also = "also wrong by themselves: " + ", ".join(map(_briefly, others))
        return "\n".join(filter(None, (*_describe(first), also if others else "", unused)))


def _briefly(row: Row) -> str:
    """The layer, and the cause where there is one."""
    causes = row.explanation.confirmed if row.explanation else ()
    return f"{row.layer!r} ({causes[0].what})" if causes else repr(row.layer)


def _numbers(row: Row) -> tuple[str, str, str, str]:
    if row.difference is None:
        return "", "", "", ""
    alone = f"{row.alone.relative:.1e}" if row.alone else "?"
    if row.difference.shapes:
        return "shape", f"{row.difference.scale:.3g}", "", "shape" if row.alone and row.alone.shapes else alone
    return f"{row.difference.error:.2e}", f"{row.difference.scale:.3g}", f"{row.difference.relative:.1e}", alone


def _describe(row: Row) -> list[str]:
    """The first difference, whose fault it is, and why."""
    where = f" ({row.location})" if row.location else ""
    lines = [f"first difference: layer {row.layer!r}{where}, {row.type}, value {row.value!r}", f"  {row.difference}"]
    if row.verdict == CARRIED:
        return [*lines, "  on the reference's own blobs every layer is equal: rounding errors add up"]
    if row.verdict == UNJUDGED:
        return [*lines, "  the layer cannot be computed from the reference's own blobs"]
    lines.append(f"  on the reference's own blobs: {row.alone}")
    found = row.explanation
    if found is None:
        return lines
    if len(found.suspects) > 1:
        lines.append("  the reference has no value between these layers, any of which may be at fault: "
                     + listed(map(repr, found.suspects)))
    lines += [f"  confirmed: equal (relative error {cause.difference.relative:.1e}) when {cause}"
              for cause in found.confirmed]
    if not found.confirmed:
        lines += ["  none of the known causes makes it equal; worth checking:"]
        lines += [f"    {check}" for check in found.worth_checking]
    return lines


def compare(
    net: CompiledNet,
    variables: Variables,
    reference: Reference | Mapping[str, Any] | str | os.PathLike[str],
    *,
    inputs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    rng: jax.Array | None = None,
) -> Comparison:
    """Compare every value of a net with a reference's, and find the first layer that is wrong, and why.

    Each layer runs twice: in the net, and on the reference's own bottoms, which tells a layer that is wrong
    from one that carries an earlier difference on. A cause is confirmed only when the layer, changed so,
    gives the reference's value.

    Args:
        reference: arrays by blob name, an ``.npz`` file of them (see ``Reference``), or a ``Reference``:
            ``run_onnx``, ``run_opencv``, ``run_net`` and ``in_float64`` in ``jaffe.parity`` make them.
        inputs: what the net is fed; by default what the reference says that it was fed.
        tolerance: the largest error that counts as equal, as a part of the largest value of a blob.
        rng: key for random layers.

    Raises:
        JaffeError: an input is missing, or the reference has no blob of the net.
    """
    source = Reference.of(reference)
    fed = _inputs(net, source, inputs)
    jax.eval_shape(lambda: net.apply(variables, fed, jax.random.key(0) if rng is None else rng))  # refuses wrong ones
    known, unused = align(net.graph, source)
    tops = [top for node in net.graph.nodes for top in node.tops if top not in net.inputs]
    if not any(top in known for top in tops):
        raise JaffeError(f"{source.name} has no blob of net {net.name!r}: found {listed(unused)}; "
                         f"expected any of {listed(tops)}")
    walk = Walk(net, variables, fed, known, rng)
    rows = [
        _row(walk, node, top, tolerance)
        for node in net.graph.nodes if not net.inferred.layers[node.name].source for top in node.tops
    ]
    name = f"{net.name or 'the net'} ({net.phase})"
    return Comparison(name, source.name, tolerance, tuple(rows), unused)


def _inputs(net: CompiledNet, reference: Reference, given: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    found = {**reference.blobs, **reference.inputs, **(given or {})}
    missing = [name for name in net.inputs if name not in found]
    if missing:
        raise JaffeError(f"input {missing[0]!r} {net.inputs[missing[0]].shape} is neither given nor in "
                         f"{reference.name}: expected inputs={{{missing[0]!r}: ...}}")
    return {name: np.asarray(found[name]) for name in net.inputs}


def _row(walk: Walk, node: Node, value: str, tolerance: float) -> Row:
    shape = tuple(walk.free[value].shape)
    if value not in walk.known:
        return Row(node.name, node.type, node.location, value, shape, None, None, UNKNOWN)
    difference = walk.difference(value, walk.free[value])
    forced = walk.forced[value]
    alone = None if forced is None else walk.difference(value, forced)
    if difference.within(tolerance):
        verdict = EQUAL
    elif alone is None:
        verdict = UNJUDGED
    else:
        verdict = CARRIED if alone.within(tolerance) else WRONG
    found = explain(walk, value, tolerance) if verdict == WRONG else None
    return Row(node.name, node.type, node.location, value, shape, difference, alone, verdict, found)
