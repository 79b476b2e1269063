"""What a small net for tests is, and the pieces that such nets are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } } }\n'
Y = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } } }\n'
FILL = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 }'


@dataclass(frozen=True)
class Case:
    """A net with one layer of interest, ``l``, and what the tests of all layers must know of it.

    Attributes:
        net: prototxt.
        integers: inputs that hold whole numbers, and the number below which they stay (labels, indices).
        fixed: other inputs by which the layer is not differentiated.
        no_gradient: tops that are not differentiable (places of maxima, counts).
        values: inputs whose numbers cannot be any: given here.
    """

    net: str
    integers: Mapping[str, int] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    no_gradient: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)


def input_layer(name: str, *dims: int) -> str:
    """An Input layer. Sizes are different primes on each axis, so that no axis is taken for another."""
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


def one(kind: str, settings: str = "", bottoms: str = "x", tops: str = "t", inputs: str = X) -> str:
    """A net of inputs and one layer named ``l``."""
    blobs = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'{inputs}layer {{ name: "l" type: "{kind}"{blobs} {settings} }}\n'
