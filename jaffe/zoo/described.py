"""What a net of the zoo costs, and its card as text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaffe.zoo.cards import Card, Figure
from jaffe.zoo.recipes import RECIPES
from jaffe.zoo.weights import WEIGHTS

if TYPE_CHECKING:
    from jaffe.compile import CompiledNet

# Layers that multiply by weights.
PRODUCTS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution", "InnerProduct",
            "LocallyConnected", "LSTM", "RNN")


@dataclass(frozen=True)
class Counted:
    """Counts of a net in phase TEST, for one item: layers, trained parameters, multiply-adds by weights, and the shapes
    of its inputs."""

    layers: int
    params: int
    multiply_adds: int
    inputs: tuple[tuple[str, tuple[int, ...]], ...]


@functools.cache
def counted(card: Card) -> Counted:
    """What the net with its own options costs, found from its declaration alone."""
    from jaffe.compile import compile_net

    net = compile_net(card.declared(1), phase="TEST")
    inputs = tuple((name, value.shape) for name, value in net.inputs.items())
    return Counted(len(net.graph.nodes), net.cost().params, multiply_adds(net), inputs)


def multiply_adds(net: CompiledNet) -> int:
    """Of the layers that multiply by weights; additions of a bias are none."""
    total = 0
    for layer in net.cost().layers:
        if layer.type in PRODUCTS:
            biased = any(one.weight.name == "bias" for one in net.stored[layer.name])
            total += (layer.flops - biased * layer.activations) // 2
    return total


def described(card: Card) -> str:
    """The card as text: what the net is, what was published of it and what it has here, how to call it."""
    own = counted(card)
    rows = [
        ("task", card.task), ("source", card.paper), ("input", card.input),
        *(("", f"{name} {'x'.join(map(str, shape))}") for name, shape in own.inputs),
        ("layers", f"{own.layers:,}"),
        ("parameters", f"{own.params:,}"), *_published(card.params),
        ("multiply-adds", f"{own.multiply_adds:,} for one item"), *_published(card.multiply_adds),
        *(("accuracy", f"{figure.value} ({figure.source})") for figure in card.accuracy),
        ("options", ", ".join(map(_option, inspect.signature(card.build).parameters.values()))),
        *(("recipe", f"jaffe train --recipe {name}") for name in recipes_of(card)),
        *(("weights", f"{one.name}: {one.url}" + (f" ({one.licence})" if one.licence else ""))
          for one in WEIGHTS.get(card.name, ())),
    ]
    width = max(len(key) for key, _ in rows)
    return "\n".join([f"{card.title} (zoo.{card.name})", "", card.about, "",
                      *(f"{key:{width}}  {value}" for key, value in rows)])


def _option(option: inspect.Parameter) -> str:
    default = getattr(option.default, "__name__", option.default)  # functions by their names
    return option.name if option.default is option.empty else f"{option.name}={default}"


def recipes_of(card: Card) -> list[str]:
    """Names of the recipes that train the net: those whose declaration has its name."""
    name = card.build().to_proto().name
    return [recipe for recipe in RECIPES if _net_of(recipe) == name]


@functools.cache
def _net_of(recipe: str) -> str:
    return RECIPES[recipe]().net.to_proto().name


def _published(figure: Figure | None) -> Iterator[tuple[str, str]]:
    if figure:
        difference = f"; not the same, because: {figure.difference}" if figure.difference else ""
        yield "", f"published: {figure.value} ({figure.source}){difference}"
