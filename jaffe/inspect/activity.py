"""What each layer puts out for some inputs: sizes, zeros, and units that are off for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaffe.compile.layer import Array
from jaffe.compile.net import CompiledNet, Variables
from jaffe.inspect.part import Part
from jaffe.inspect.table import Table


@dataclass(frozen=True)
class Activity:
    """A value's statistics over the inputs.

    Attributes:
        layer, type: what wrote it.
        shape: of the value.
        mean, std, least, most: of all its numbers.
        zeros: share of them that are 0.
        units: its channels, axis 1; 1 for a value of one axis or none.
        dead: how many of those are 0 at every place of every item.
    """

    layer: str
    type: str
    shape: tuple[int, ...]
    mean: float
    std: float
    least: float
    most: float
    zeros: float
    units: int
    dead: int


def activity(net: CompiledNet, variables: Variables, inputs: Any) -> Table[Activity]:
    """What every value of a net is for these inputs: a table by value, which prints as text.

    A ReLU unit that is 0 for every item of a large, varied batch learns no more: it is dead. A layer with many such, or
    whose numbers are huge or all alike, is where to look first. Values that in-place layers wrote over are rows too,
    under the names ``name``, ``name#1``, ...

    Args:
        inputs: arrays by name, or the array of the only input; labels may be missing, and what needs them then is.

    Raises:
        JaffeError: inputs do not fit.
    """
    known = set(inputs if isinstance(inputs, Mapping) else list(net.inputs)[:1]) & set(net.inputs)
    written = {}
    for node in net.graph.nodes:
        if known.issuperset(node.bottoms) and known.isdisjoint(node.tops) and not set(node.tops) & set(net.inputs):
            known.update(node.tops)
            written.update(dict.fromkeys(node.tops, node))
    part = Part(net, tuple(written))
    fed = part.feed(inputs)
    shapes = part.shapes({name: x.shape for name, x in fed.items()})
    found = jax.device_get(_activity(part, variables, fed))
    rows = {}
    for value, node in written.items():
        mean, std, least, most, zeros, units, dead = map(float, found[value])
        rows[value] = Activity(node.name, node.type, shapes[value], mean, std, least, most, zeros, int(units),
                               int(dead))
    return Table(rows, ("value", "layer", "type", "shape", "mean", "std", "least", "most", "zeros", "dead"), _cells)


@partial(jax.jit, static_argnums=0)
def _activity(part: Part, variables: Variables, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {value: _statistics(x) for value, x in part(variables, inputs).items()}


def _statistics(x: Array) -> Array:
    units = x.reshape(*x.shape[:2], -1) if x.ndim > 1 else x.reshape(1, 1, -1)
    off = jnp.all(units == 0, axis=(0, 2))
    return jnp.stack([x.mean(), x.std(), x.min(), x.max(), (x == 0).mean(), off.size, off.sum()])


def _cells(value: str, row: Activity) -> list[str]:
    numbers = (f"{one:.4g}" for one in (row.mean, row.std, row.least, row.most))
    return [value, row.layer, row.type, "x".join(map(str, row.shape)) or "scalar", *numbers, f"{row.zeros:.1%}",
            f"{row.dead} of {row.units}" if row.dead else ""]
