"""What a layer reads of the variables: its weights, those it shares, and what the last call left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.infer import Stored
from jaffe.compile.layer import Layer
from jaffe.netdef.graph import Node

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet, State, Variables


class WeightReader:
    """The arrays that a layer works with, taken from the variables and checked against what it expects.

    Raises:
        SpecError: when called, if the variables lack an array of the layer, or have it in another shape.
    """

    def __init__(self, net: CompiledNet, variables: Variables):
        self.net = net
        self.variables = variables

    def __call__(
        self, node: Node, layer: Layer, bottoms: Sequence[jax.Array], state: State
    ) -> dict[str, jax.Array]:
        result = self._carried(node, layer, bottoms, state) if self.net.inferred.carried[node.name] else {}
        for stored in self.net.inferred.stored[node.name]:
            array = self._find(node, stored, state)
            if stored.lr_mult == 0 and not self.net.graph.force_backward:
                array = lax.stop_gradient(array)
            result[stored.weight.name] = array.reshape(stored.weight.shape)
        return result

    def _carried(self, node: Node, layer: Layer, bottoms: Sequence[jax.Array], state: State) -> dict[str, jax.Array]:
        """What the last call left, shaped as these bottoms ask."""
        result = {}
        for weight in layer.weights([x.shape for x in bottoms]):
            if weight.carried:
                array = self._get(node, "state", node.name, weight.name, state)
                if array.shape != weight.shape:
                    raise node.error(f"its state {weight.name!r} is carried from call to call: expected shape "
                                     f"{weight.shape} for these inputs; found {array.shape}; zeros start anew")
                result[weight.name] = lax.stop_gradient(array.astype(self.net.dtype))
        return result

    def _get(self, node: Node, group: str, layer: str, name: str, state: State) -> jax.Array:
        """From the variables, or for state from its newest values."""
        try:
            return jnp.asarray((self.variables["params"] if group == "params" else state)[layer][name])
        except (KeyError, TypeError):
            raise node.error(f"the variables have no {group!r} {layer!r} {name!r}; "
                             "make them with net.init(key)") from None

    def _find(self, node: Node, stored: Stored, state: State) -> jax.Array:
        group = "params" if stored.weight.trained else "state"
        layer, name = stored.owner
        array = self._get(node, group, layer, name, state)
        owned = next(one.weight for one in self.net.inferred.stored[layer] if one.weight.name == name)
        if array.shape != owned.shape:
            raise node.error(f"{group} {layer!r} {name!r}: expected shape {owned.shape}; found {array.shape}")
        return array.astype(self.net.dtype)
