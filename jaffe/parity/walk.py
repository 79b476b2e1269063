"""A net run layer by layer: from its inputs, and with each layer on the reference's own blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Array, Context, Layer, make_layer
from jaffe.compile.net import CompiledNet, Variables
from jaffe.netdef.graph import Node
from jaffe.parity.measure import Difference, detections, fit, measure

Weights = Mapping[str, Array]
Function = Callable[[Weights, Sequence[Array]], Sequence[Array]]


def weights_of(net: CompiledNet, variables: Variables, node: Node) -> dict[str, Array]:
    """The stored arrays of a layer by name, those that it shares included, and its carried state."""
    carried = net.inferred.carried[node.name]
    found = {one.name: jnp.asarray(variables["state"][node.name][one.name], net.dtype) for one in carried}
    for stored in net.stored[node.name]:
        layer, name = stored.owner
        array = variables["params" if stored.weight.trained else "state"][layer][name]
        found[stored.weight.name] = jnp.asarray(array, net.dtype).reshape(stored.weight.shape)
    return found


def function_of(layer: Layer, node: Node, rng: jax.Array | None, dtype: Any) -> Function:
    """The layer as a function of weights and bottoms, not compiled: its operations are, once for all layers alike."""
    key = None if rng is None else jax.random.fold_in(rng, len(node.name))
    context = Context(node, key, dtype)
    return lambda weights, bottoms: tuple(layer.apply_with_state(weights, bottoms, context)[0])


class Walk:
    """All values of a net, twice.

    Attributes:
        free: values computed from the inputs alone.
        forced: values computed by each layer from the reference's bottoms where it has them, else from other
            forced values; ``None`` where a layer cannot run on them.
        known: the reference's values, in the shapes of ``free`` where only axes of size one differ.
    """

    def __init__(
        self,
        net: CompiledNet,
        variables: Variables,
        inputs: Mapping[str, Any],
        known: Mapping[str, np.ndarray],
        rng: jax.Array | None = None,
    ):
        self.net = net
        self.rng = rng
        self.writers = {top: node for node in net.graph.nodes for top in node.tops}
        self.weights = {node.name: weights_of(net, variables, node) for node in net.graph.nodes}
        self.free: dict[str, Array] = {name: jnp.asarray(inputs[name], net.dtype) for name in net.inputs}
        self.forced: dict[str, Array | None] = dict(self.free)
        self.known: dict[str, np.ndarray] = {}
        self._near: dict[str, Array] = {}
        for node in net.graph.nodes:
            layer = make_layer(node)
            if not layer.source:
                self._step(node, function_of(layer, node, rng, net.dtype))
            for top in node.tops:
                if top in known:
                    self.known[top] = fit(known[top], self.free[top].shape)

    def _step(self, node: Node, function: Function) -> None:
        """One layer, on both kinds of bottoms."""
        weights = self.weights[node.name]
        tops = function(weights, [self.free[value] for value in node.bottoms])
        self.free.update(zip(node.tops, tops, strict=True))
        bottoms = [self.near(value) for value in node.bottoms]
        again: Sequence[Array | None] = tops
        if any(bottom is not self.free[value] for value, bottom in zip(node.bottoms, bottoms, strict=True)):
            again = attempt(function, weights, bottoms) or [None] * len(node.tops)
        self.forced.update(zip(node.tops, again, strict=True))

    def near(self, value: str) -> Array | None:
        """The reference's value where it has one, else the forced one."""
        if value not in self.known or value in self.net.inputs:
            return self.forced[value]
        if value not in self._near:
            self._near[value] = jnp.asarray(self.known[value], self.net.dtype)
        return self._near[value]

    def difference(self, value: str, array: Array) -> Difference:
        """Between an array and the reference's value; of detections, only rows that hold one count."""
        if self.writers[value].type == "DetectionOutput" and self.known[value].shape[-1:] == array.shape[-1:]:
            return measure(detections(array), detections(self.known[value]))
        return measure(array, self.known[value])

    def segment(self, value: str) -> list[Node]:
        """The layers that lie between this value and the recorded values before it, in the order of the net."""
        found: set[str] = set()
        waiting = [self.writers[value]]
        while waiting:
            node = waiting.pop()
            if node.name not in found and not self.net.inferred.layers[node.name].source:
                found.add(node.name)
                numbers = node.bottoms[: _NUMBERS.get(node.type, len(node.bottoms))]
                waiting += [self.writers[bottom] for bottom in numbers if bottom not in self.known]
        return [node for node in self.net.graph.nodes if node.name in found]

    def retry(self, value: str, segment: Sequence[Node], changed: Mapping[str, Function]) -> Array | None:
        """The value, when these layers of its segment compute other functions; ``None`` where that cannot be."""
        env: dict[str, Array] = {}
        for node in segment:
            if node.name not in changed and not any(bottom in env for bottom in node.bottoms):
                continue
            function = changed.get(node.name) or function_of(make_layer(node), node, self.rng, self.net.dtype)
            bottoms = [env[bottom] if bottom in env else self.near(bottom) for bottom in node.bottoms]
            tops = attempt(function, self.weights[node.name], bottoms)
            if tops is None or len(tops) != len(node.tops):
                return None
            env |= {top: one for top, one in zip(node.tops, tops, strict=True)
                    if top == value or top not in self.known}
        return env.get(value)


_NUMBERS = {"PriorBox": 0, "PriorBoxClustered": 0, "Crop": 1}  # bottoms whose numbers count, not only their shapes


def attempt(function: Function, weights: Weights, bottoms: Sequence[Array | None]) -> Sequence[Array] | None:
    """The tops, or ``None`` where the function does not take these bottoms."""
    if any(bottom is None for bottom in bottoms):
        return None
    try:
        return function(weights, [bottom for bottom in bottoms if bottom is not None])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):  # shapes that do not fit, in whatever words
        return None
