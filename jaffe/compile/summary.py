"""A net as a table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaffe.compile.cost import LayerCost, cost
from jaffe.compile.infer import Inferred
from jaffe.compile.lowering import Lowering
from jaffe.netdef.graph import Graph, Node


class Summary(str):
    """A table as text; a notebook and an interactive session show it as it prints."""

    def __repr__(self) -> str:
        return str(self)


def summarise(
    graph: Graph, inferred: Inferred, lowering: Lowering | None = None, dtype: Any = "float32",
    notes: Sequence[str] = (),
) -> Summary:
    """The net as a table: layer, type, inputs, output shape, parameters (and who owns shared ones), FLOPs.

    A net with a loss has a column of the backward pass too, and remarks on what is frozen and what has none. With a
    lowering and the dtype of products, a column of how each pass that is needed is computed. Notes stand below.
    """
    costs = cost(graph, inferred)
    trains = any(layer.gradients.needed for layer in costs.layers)
    title = Text(f"{graph.name or 'net'} ({graph.phase})")  # Text: names may hold what rich takes for markup
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    table.add_column("layer", "total")
    table.add_column("type")
    table.add_column("inputs")
    table.add_column("output shape")
    table.add_column("params", f"{costs.params:,}", justify="right")
    table.add_column("MFLOPs", f"{costs.flops / 1e6:,.3f}", justify="right")
    if trains:
        table.add_column("backward", f"{costs.backward_flops / 1e6:,.3f}", justify="right")
    if lowering is not None:
        table.add_column("lowering")
    table.add_column("remarks")
    for node, layer in zip(graph.nodes, costs.layers, strict=True):
        row = [
            node.name,
            node.type,
            ", ".join(node.bottoms),
            ", ".join("x".join(map(str, shape)) or "scalar" for shape in layer.outputs),
            f"{layer.params:,}" if layer.params else "",
            f"{layer.flops / 1e6:,.3f}" if layer.flops else "",
            "; ".join(_remarks(node, inferred, layer, trains)),
        ]
        if trains:
            row.insert(-1, f"{layer.backward_flops / 1e6:,.3f}" if layer.backward_flops else "")
        if lowering is not None:
            row.insert(-1, _lowered(node, inferred, layer, lowering, dtype))
        table.add_row(*map(Text, row))
    return Summary("\n".join([as_text(table), *notes]))


def as_text(*parts: Any, width: int = 160) -> str:
    """What ``rich`` prints of tables and texts on a page of so many columns, without colours."""
    text = io.StringIO()
    console = Console(file=text, width=width, no_color=True, force_jupyter=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def _lowered(node: Node, inferred: Inferred, layer: LayerCost, lowering: Lowering, dtype: Any) -> str:
    """A line a pass."""
    bottoms = [inferred.shapes[value] for value in node.bottoms]
    needed = {"forward": True, "input": any(layer.gradients.bottoms), "weight": "weight" in layer.gradients.weights}
    ways = inferred.layers[node.name].lowered(bottoms, lowering, dtype)
    return "\n".join(f"{which}: {how}" for which, how in ways.items() if needed[which])


def _remarks(node: Node, inferred: Inferred, layer: LayerCost, trains: bool) -> list[str]:
    remarks = []
    stored = inferred.stored[node.name]
    owners = dict.fromkeys(one.owner[0] for one in stored if one.owner[0] != node.name)
    remarks += [f"shares the weights of {owner}" for owner in owners]
    trained = [one for one in stored if one.weight.trained]
    frozen = [one.weight.name for one in trained if one.lr_mult == 0]
    if frozen:
        remarks.append("frozen" if len(frozen) == len(trained) else f"{', '.join(frozen)} frozen")
    if trains and not layer.gradients.needed and not inferred.layers[node.name].source:
        remarks.append("forward only")
    if inferred.carried[node.name]:
        remarks.append(f"carries {', '.join(weight.name for weight in inferred.carried[node.name])} to the next call")
    remarks += [f"loss weight {weight:g}" for weight in node.loss_weights if weight]
    return remarks
