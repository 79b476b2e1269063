"""What a net reads: its inputs, and of the variables weights, own or shared, and what the last call left."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.fused import Fused
from jaffe.compile.infer import Stored, infer
from jaffe.compile.layer import Layer, Shape, Weight
from jaffe.compile.partition import local_shape
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Node

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet, State, Variables


class WeightReader:
    """The arrays that a layer works with, taken from the variables and checked against what it expects; of a node of
    several parts, those of each by its name.

    Args:
        anew: carried state is zero, whatever the variables have.

    Raises:
        SpecError: when called, if the variables lack an array of the layer, or have it in another shape.
    """

    def __init__(self, net: CompiledNet, variables: Variables, anew: bool = False):
        self.net = net
        self.anew = anew
        self.variables = variables

    def __call__(
        self, node: Node, layer: Layer, bottoms: Sequence[jax.Array], state: State
    ) -> dict[str, Any]:
        if node.parts:
            assert isinstance(layer, Fused)
            pairs = zip(node.parts, layer.parts, strict=True)
            return {part.name: self(part, own, bottoms, state) for part, own in pairs}
        result = self._carried(node, layer, bottoms, state) if self.net.inferred.carried[node.name] else {}
        for stored in self.net.inferred.stored[node.name]:
            array = self._find(node, stored, state)
            if stored.lr_mult == 0 and not self.net.graph.force_backward:
                array = lax.stop_gradient(array)
            result[stored.weight.name] = array.reshape(self._local(node.name, stored.weight))
        return result

    def part(self, leaves: Iterable[Node], state: State) -> dict[str, dict[str, dict[str, jax.Array]]]:
        """Of the variables those that these layers read."""
        found: dict[str, dict[str, dict[str, jax.Array]]] = {"params": {}, "state": {}}
        for leaf in leaves:
            for stored in self.net.inferred.stored[leaf.name]:
                layer, name = stored.owner
                group = found["params" if stored.weight.trained else "state"]
                group.setdefault(layer, {})[name] = self._find(leaf, stored, state)
            for weight in () if self.anew else self.net.inferred.carried[leaf.name]:
                array = self._get(leaf, "state", leaf.name, weight.name, state)
                found["state"].setdefault(leaf.name, {})[weight.name] = array
        return found

    def _carried(self, node: Node, layer: Layer, bottoms: Sequence[jax.Array], state: State) -> dict[str, jax.Array]:
        """What the last call left, shaped as these bottoms ask."""
        result = {}
        for weight in layer.weights([x.shape for x in bottoms]):
            if weight.carried and self.anew:
                result[weight.name] = jnp.zeros(weight.shape, self.net.dtype)
            elif weight.carried:
                array = self._get(node, "state", node.name, weight.name, state)
                if array.shape != weight.shape:
                    raise node.error(f"its state {weight.name!r} is carried from call to call: expected shape "
                                     f"{weight.shape} for these inputs; found {array.shape}; zeros start anew")
                result[weight.name] = lax.stop_gradient(self._cast(node, weight.name, array))
        return result

    def _get(self, node: Node, group: str, layer: str, name: str, state: State) -> jax.Array:
        """From the variables, or for state from its newest values."""
        try:
            found = (self.variables["params"] if group == "params" else state)[layer][name]
        except (KeyError, TypeError):
            raise node.error(f"the variables have no {group!r} {layer!r} {name!r}; "
                             "make them with net.init(key)") from None
        try:
            return jnp.asarray(found)
        except (TypeError, ValueError):
            raise node.error(f"{group} {layer!r} {name!r}: expected an array of numbers; "
                             f"found {reprlib.repr(found)}") from None

    def _find(self, node: Node, stored: Stored, state: State) -> jax.Array:
        group = "params" if stored.weight.trained else "state"
        layer, name = stored.owner
        array = self._get(node, group, layer, name, state)
        owned = next(one.weight for one in self.net.inferred.stored[layer] if one.weight.name == name)
        expected = self._local(layer, owned)
        if array.shape != expected:
            part = "" if expected == owned.shape else f", the part of {owned.shape} that a device has"
            raise node.error(f"{group} {layer!r} {name!r}: expected shape {expected}{part}; found {array.shape}")
        return self._cast(node, f"{group} {layer!r} {name!r}", array)

    def _local(self, owner: str, weight: Weight) -> Shape:
        """The shape of what a device has of a weight."""
        return local_shape(self.net.partition, self.net.inferred.layers[owner], weight.name, weight.shape)

    def _cast(self, node: Node, what: str, array: jax.Array) -> jax.Array:
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise node.error(f"{what}: expected real numbers; found {array.dtype}")
        return array.astype(self.net.dtype)


def read_inputs(net: CompiledNet, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The inputs as arrays of the net's dtype. Raises JaffeError when they do not fit."""
    if not isinstance(inputs, Mapping):
        raise JaffeError(f"inputs are a dict of arrays by name; received {type(inputs).__name__}")
    if set(inputs) != set(net.inputs):
        reads = ", ".join(f"{name} {value.shape}" for name, value in net.inputs.items()) or "nothing"
        extra = [name for name in inputs if name not in net.inputs]
        missing = [name for name in net.inputs if name not in inputs]
        problem = f"no input {extra[0]!r}" if extra else f"input {missing[0]!r} is missing"
        raise JaffeError(f"{problem}{suggest(extra[0], net.inputs) if extra else ''}; the net reads {reads}")
    feeds = {name: feed(net, name, value) for name, value in inputs.items()}
    shapes = {name: value.shape for name, value in feeds.items()}
    if shapes != dict(net.inferred.inputs) and all(isinstance(s, int) for shape in shapes.values() for s in shape):
        _check_refit(net, shapes)
    return feeds


def feed(net: CompiledNet, name: str, value: Any) -> jax.Array:
    """One input as an array of the net's dtype, of any shape. Raises JaffeError when it is no array of numbers."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        array = None
    if array is None or jnp.issubdtype(array.dtype, jnp.complexfloating):
        kind = type(value).__name__ if array is None else array.dtype
        expected = f"an array of numbers, {net.inputs[name].shape}"
        raise JaffeError(f"input {name!r}: expected {expected}; received {kind}")
    return array.astype(net.dtype)


def _check_refit(net: CompiledNet, shapes: Mapping[str, Shape]) -> None:
    """Other input shapes than declared: the net must still fit, with the same weights."""
    again = infer(net.graph, shapes)
    for layer, stored in again.stored.items():
        for old, new in zip(net.inferred.stored[layer], stored, strict=True):
            if old.weight.shape != new.weight.shape:
                raise net.graph.node(layer).error(
                    f"with inputs of shape {shapes} its {new.weight.name} would be {new.weight.shape}; expected "
                    f"{old.weight.shape}, as compiled for {dict(net.inferred.inputs)}"
                )


def read_state(variables: Variables | None) -> State:
    """A copy of the state in the variables, to be updated.

    Raises:
        JaffeError: the variables are not dicts of dicts, as ``net.init`` makes them.
    """
    groups = {} if variables is None else variables
    found = [groups.get(kind, {}) for kind in ("params", "state")] if isinstance(groups, Mapping) else [None]
    if not all(isinstance(group, Mapping) and all(isinstance(one, Mapping) for one in group.values())
               for group in found):
        raise JaffeError('variables are {"params": {layer: {name: array}}, "state": ...}, as net.init(key) makes '
                         f"them; received {reprlib.repr(variables)}")
    return {layer: dict(one) for layer, one in groups.get("state", {}).items()}
