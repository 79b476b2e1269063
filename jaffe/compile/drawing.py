"""A compiled net drawn."""

from __future__ import annotations

from jaffe.compile.net import CompiledNet
from jaffe.netdef.draw import Drawing
from jaffe.netdef.draw import draw as draw_graph


def draw(net: CompiledNet, *, direction: str = "LR", shapes: bool = True) -> Drawing:
    """The net drawn; see ``CompiledNet.draw``."""
    frozen = {
        node for node, stored in net.stored.items()
        if (trained := [one for one in stored if one.weight.trained]) and all(one.lr_mult == 0 for one in trained)
    }
    return draw_graph(net.graph, direction=direction, shapes=net.inferred.shapes if shapes else None, frozen=frozen)
