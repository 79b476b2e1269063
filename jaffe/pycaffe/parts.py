"""The layers of a net, from one to another, as jitted functions: what ``forward`` and ``backward`` run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.execute import execute
from jaffe.compile.layer import Layer, Shape, make_layer
from jaffe.compile.net import CompiledNet
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import FillerParameter
from jaffe.pycaffe.splits import blob_names

Arrays: TypeAlias = dict[str, jax.Array]
Groups: TypeAlias = dict[str, Arrays]

_FILLED_ONCE = "\0"  # before the names of tops that are filled when the net is made, and then left alone


class Parts:
    """A net whose every value has one reader (``insert_splits``), layer by layer.

    Attributes:
        steps: each layer of the net, as ``execute`` takes them.
        blob: for each value the blob that it is a version of.
        writer: for each value the index of the layer that writes it.
        reader: for each value that is read the index of the layer that reads it.
    """

    def __init__(self, net: CompiledNet):
        self.net = net
        self.steps: list[tuple[Node, Layer]] = [
            (replace(node, tops=tuple(_FILLED_ONCE + top if top in filled_once(node) else top for top in node.tops)),
             make_layer(node))
            for node in net.graph.nodes
        ]
        self.blob = blob_names(net.graph)
        self.writer = {value: i for i, node in enumerate(net.graph.nodes) for value in node.tops}
        self.reader = {value: i for i, node in enumerate(net.graph.nodes) for value in node.bottoms}
        self._learning = _learning(net)
        self.reads = cache(self._reads)
        self.writes = cache(self._writes)
        self.owners = cache(self._owners)
        self.open = cache(self._open)
        self.tapped = cache(self._tapped)
        self.forward = cache(self._forward)
        self.backward = cache(self._backward)

    def _reads(self, first: int, last: int) -> tuple[str, ...]:
        """Values that these layers read and do not write."""
        written = set(self._writes(first, last))
        bottoms = (value for node, _ in self.steps[first : last + 1] for value in node.bottoms)
        return tuple(dict.fromkeys(value for value in bottoms if value not in written))

    def _writes(self, first: int, last: int) -> tuple[str, ...]:
        """Values that these layers compute."""
        return tuple(top for node, layer in self.steps[first : last + 1] if not layer.source
                     for top in node.tops if not top.startswith(_FILLED_ONCE))

    def _owners(self, first: int, last: int) -> tuple[tuple[str, str, bool], ...]:
        """Layer and name of the stored arrays that these layers use, and whether they have a gradient."""
        every = self.net.graph.force_backward
        return tuple(dict.fromkeys(
            (*stored.owner, stored.weight.trained and (every or stored.lr_mult != 0))
            for node, _ in self.steps[first : last + 1] for stored in self.net.stored[node.name]
        ))

    def _open(self, first: int, last: int) -> tuple[str, ...]:
        """Values that these layers compute and do not read: their gradients come from behind them."""
        return tuple(value for value in self._writes(first, last) if self.reader.get(value, last + 1) > last)

    def _tapped(self, first: int, last: int) -> tuple[str, ...]:
        """Values whose gradient these layers compute: what they read."""
        return tuple(value for i in range(first, last + 1) for value in self.steps[i][0].bottoms
                     if not self._stopped(i, value))

    def _stopped(self, i: int, value: str) -> bool:
        """Whether a Python layer must not be asked for the gradient: Caffe asks for what leads to a parameter."""
        return (self.steps[i][0].type == "Python" and value not in self._learning
                and not self.net.graph.force_backward)

    def shapes(self, first: int, last: int, given: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of all values that these layers read and compute, from those of ``reads``.

        Raises:
            SpecError: a layer does not take the shapes, or its parameters would have others.
        """
        shapes = dict(given)
        for node, layer in self.steps[first : last + 1]:
            if layer.source:
                continue
            bottoms = [shapes[value] for value in node.bottoms]
            shapes.update(zip(node.tops, layer.shapes(bottoms), strict=True))
            weights = [one for one in layer.weights(bottoms) if not one.carried]
            for weight, stored in zip(weights, self.net.stored[node.name], strict=True):
                if weight.shape != stored.weight.shape:
                    raise node.error(f"with bottoms of shape {', '.join(map(str, bottoms))} its {weight.name} would be "
                                     f"{weight.shape}; expected {stored.weight.shape}, as the net was made")
        return shapes

    def carried(self, first: int, last: int, shapes: Mapping[str, Shape]) -> dict[str, dict[str, Shape]]:
        """Shapes of what layers carry from call to call (h and c of LSTM), for values of these shapes."""
        return {
            node.name: {one.name: one.shape for one in layer.weights([shapes[value] for value in node.bottoms])
                        if one.carried}
            for node, layer in self.steps[first : last + 1] if self.net.inferred.carried[node.name]
        }

    def _forward(self, first: int, last: int, every: bool) -> Callable[..., tuple[Arrays, Groups]]:
        """``(variables, values of reads, words of a key) -> (values of writes, new state)``.

        Of blobs that layers write in place only the last version, unless ``every`` is wanted.
        """
        final = {self.blob[value]: value for value in self._writes(first, last)}
        wanted = self._writes(first, last) if every else tuple(final.values())

        @jax.jit
        def run(variables: Any, env: Arrays, words: jax.Array) -> tuple[Arrays, Groups]:
            values, state = execute(self.net, self.steps[first : last + 1], variables, env,
                                    jax.random.wrap_key_data(words))
            before = variables["state"]
            new = {layer: {name: array for name, array in group.items() if array is not before[layer][name]}
                   for layer, group in state.items()}
            return {value: values[value] for value in wanted}, new

        return run

    def _backward(self, first: int, last: int, anchor: int) -> Callable[..., tuple[Arrays, Groups]]:
        """``(variables, values, stored, words, cotangents, sums) -> (gradients, new sums)``.

        The gradient of every layer is taken at its bottoms as ``stored`` has them, as in Caffe; what is not stored
        is computed again, from layer ``anchor`` on.

        Args of the function:
            values: of ``reads(anchor, last)``.
            stored: some of those that layers from ``anchor`` on compute.
            words: for each layer from ``anchor`` on those of the key that its forward had.
            cotangents: gradients of ``open(first, last)``.
            sums: gradients of parameters so far.
        """
        tapped = self._tapped(first, last)

        @jax.jit
        def run(
            variables: Any, env: Arrays, stored: Arrays, words: jax.Array, cotangents: Arrays, sums: Groups
        ) -> tuple[Arrays, Groups]:
            shapes = self.shapes(anchor, last, {value: array.shape for value, array in env.items()})

            def outputs(i: int, params: Any, values: Arrays) -> Arrays:
                node, layer = self.steps[i]
                if layer.source:
                    return {}
                bottoms = {value: lax.stop_gradient(values[value]) if self._stopped(i, value) else values[value]
                           for value in node.bottoms}
                found, _ = execute(self.net, [self.steps[i]], {**variables, "params": params}, bottoms,
                                   jax.random.wrap_key_data(words[i - anchor]))
                return {top: found[top] for top in node.tops}

            values = dict(env)
            for i in range(anchor, first):
                found = outputs(i, variables["params"], values)
                values |= {top: stored.get(top, value) for top, value in found.items()}
            known = {value: values[value] for value in self._reads(first, last)}

            def part(params: Any, taps: Arrays) -> Arrays:
                values = {value: array + taps[value] if value in taps else array for value, array in known.items()}
                for i in range(first, last + 1):
                    for top, value in outputs(i, params, values).items():
                        value = _as_stored(value, stored[top]) if top in stored else value
                        values[top] = value + taps[top] if top in taps else value
                return {value: values[value] for value in cotangents}

            taps = {value: jnp.zeros(shapes[value], self.net.dtype) for value in tapped}
            _, pull = jax.vjp(part, variables["params"], taps)
            weights, gradients = pull(cotangents)
            sums = {layer: {name: total + weights[layer][name] for name, total in group.items()}
                    for layer, group in sums.items()}
            return gradients, sums

        return run


@jax.custom_vjp
def _as_stored(computed: jax.Array, stored: jax.Array) -> jax.Array:
    """The stored value, with the gradient of the computed one."""
    return stored


def _as_stored_forward(computed: jax.Array, stored: jax.Array) -> tuple[jax.Array, None]:
    return stored, None


def _as_stored_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, None]:
    return gradient, None


_as_stored.defvjp(_as_stored_forward, _as_stored_backward)


def filled_once(node: Node) -> dict[str, float]:
    """Tops of a DummyData layer that are filled once, when the net is made, and with what: those with constants."""
    if node.type != "DummyData":
        return {}
    fillers = list(node.proto.dummy_data_param.data_filler) or [FillerParameter()]
    fillers = fillers * len(node.tops) if len(fillers) == 1 else fillers
    return {top: filler.value for top, filler in zip(node.tops, fillers, strict=True) if filler.type == "constant"}


def _learning(net: CompiledNet) -> set[str]:
    """Values that depend on a parameter that learns."""
    found: set[str] = set()
    for node in net.graph.nodes:
        own = any(stored.weight.trained and stored.lr_mult for stored in net.stored[node.name])
        if own or not found.isdisjoint(node.bottoms):
            found.update(node.tops)
    return found
