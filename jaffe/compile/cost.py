"""What a net costs: parameters, activations and FLOPs, layer by layer; and the table that shows it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaffe.compile.infer import Inferred
from jaffe.compile.layer import Shape
from jaffe.netdef.graph import Graph, Node


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer in one forward pass.

    Attributes:
        params: trained values that the layer owns. ``state``: untrained ones (BatchNorm's statistics), without what is
            carried from call to call (LSTM's h and c).
        activations: values in its tops.
        flops: floating point operations, two for a multiply-add.
    """

    name: str
    type: str
    outputs: tuple[Shape, ...]
    params: int
    state: int
    activations: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """Costs of all layers, and their sums."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def state(self) -> int:
        return sum(layer.state for layer in self.layers)

    @property
    def activations(self) -> int:
        return sum(layer.activations for layer in self.layers)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    def __getitem__(self, name: str) -> LayerCost:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


def cost(graph: Graph, inferred: Inferred) -> Cost:
    """The cost of a graph for the shapes it was compiled for."""
    layers = []
    for node in graph.nodes:
        tops = [inferred.shapes[value] for value in node.tops]
        owned = [stored.weight for stored in inferred.owned(node.name)]
        layers.append(LayerCost(
            name=node.name,
            type=node.type,
            outputs=tuple(tops),
            params=sum(math.prod(weight.shape) for weight in owned if weight.trained),
            state=sum(math.prod(weight.shape) for weight in owned if not weight.trained),
            activations=sum(math.prod(shape) for shape in tops),
            flops=inferred.layers[node.name].flops([inferred.shapes[value] for value in node.bottoms], tops),
        ))
    return Cost(tuple(layers))


class Summary(str):
    """A table as text; a notebook and an interactive session show it as it prints."""

    def __repr__(self) -> str:
        return str(self)


def summarise(graph: Graph, inferred: Inferred) -> Summary:
    """The net as a table: layer, type, inputs, output shape, parameters (and who owns shared ones), FLOPs."""
    costs = cost(graph, inferred)
    title = Text(f"{graph.name or 'net'} ({graph.phase})")  # Text: names may hold what rich takes for markup
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    table.add_column("layer", "total")
    table.add_column("type")
    table.add_column("inputs")
    table.add_column("output shape")
    table.add_column("params", f"{costs.params:,}", justify="right")
    table.add_column("MFLOPs", f"{costs.flops / 1e6:,.3f}", justify="right")
    table.add_column("remarks")
    for node, layer in zip(graph.nodes, costs.layers, strict=True):
        row = (
            node.name,
            node.type,
            ", ".join(node.bottoms),
            ", ".join("x".join(map(str, shape)) or "scalar" for shape in layer.outputs),
            f"{layer.params:,}" if layer.params else "",
            f"{layer.flops / 1e6:,.3f}" if layer.flops else "",
            "; ".join(_remarks(node, inferred)),
        )
        table.add_row(*map(Text, row))
    text = io.StringIO()
    Console(file=text, width=160, no_color=True, force_jupyter=False).print(table)
    return Summary("\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines()))


def _remarks(node: Node, inferred: Inferred) -> list[str]:
    remarks = []
    stored = inferred.stored[node.name]
    owners = dict.fromkeys(one.owner[0] for one in stored if one.owner[0] != node.name)
    remarks += [f"shares the weights of {owner}" for owner in owners]
    trained = [one for one in stored if one.weight.trained]
    if trained and all(one.lr_mult == 0 for one in trained):
        remarks.append("frozen")
    if inferred.carried[node.name]:
        remarks.append(f"carries {', '.join(weight.name for weight in inferred.carried[node.name])} to the next call")
    remarks += [f"loss weight {weight:g}" for weight in node.loss_weights if weight]
    return remarks
