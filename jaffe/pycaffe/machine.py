"""What a net in pycaffe's style holds: its blobs and parameters, and what running layers does to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.infer import infer
from jaffe.compile.layer import Shape
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError, of_callbacks
from jaffe.pycaffe.batches import BatchSource
from jaffe.pycaffe.blob import Buffer, NetBlob, ParamBlob
from jaffe.pycaffe.parts import Parts, filled_once
from jaffe.pycaffe.runtime import draw, new_key, on_device
from jaffe.pycaffe.splits import insert_splits

Variables = dict[str, dict[str, dict[str, jax.Array]]]


class Machine:
    """The blobs of a net, and its layers, which read and write them.

    Attributes:
        net: as declared.
        parts: its layers, with Caffe's Split layers among them.
        blobs: in the order in which they are made.
        params: of each layer, in the order of Caffe's files.
        loss_weights: of the blobs that count in the loss.
        sources: what data layers read, with their places in the net.
        carry: what layers carry from call to call, such as h and c of LSTM.
        pending: what has to be done before the data (False) or diffs (True) of blobs are read: see ``later``.
    """

    def __init__(self, net: CompiledNet):
        self.net = net
        graph = insert_splits(net.graph)
        inferred = infer(graph, net.inferred.inputs)
        self.parts = Parts(CompiledNet(graph, inferred, net.dtype, net.precision, net.lowering))
        self.pending: dict[bool, Callable[[], None]] = {}
        self.loss_weights = {self.parts.blob[top]: weight for node in graph.nodes
                             for top, weight in zip(node.tops, node.loss_weights, strict=True) if weight}
        self.blobs = self._make_blobs()
        self.params = self._make_params()
        self.sources: list[tuple[int, BatchSource]] = []
        self._values = dict(graph.blobs)  # for each blob the value that its data are
        self._older: dict[str, jax.Array] = {}  # values that were written over in place, for backward
        # Other nets are mostly run forward only; their first backward computes these values again, and has them kept.
        self._keeps_older = graph.force_backward or (graph.phase == "TRAIN" and bool(self.loss_weights))
        self._checked: dict[Any, tuple[Mapping[str, Shape], Mapping[str, Mapping[str, Shape]]]] = {}
        self.carry = net.fresh_carry()
        self._carry_before = dict(self.carry)  # as the last forward found it
        self._words = np.tile(draw(), (len(graph.nodes), 1))  # of the key of each layer's last forward

    def _make_blobs(self) -> dict[str, NetBlob]:
        graph, shapes = self.parts.net.graph, self.parts.net.inferred.shapes
        constants = {top: value for node in graph.nodes for top, value in filled_once(node).items()}
        blobs: dict[str, NetBlob] = {}
        for node in graph.nodes:
            for value in node.tops:
                name = self.parts.blob[value]
                weight = self.loss_weights.get(name, 0.0)
                blobs.setdefault(name, NetBlob(shapes[value], constants.get(value, 0.0), weight, self.settle))
            if node.type == "Split":  # its tops are its bottom, in one memory
                source = node.bottoms[0]
                if graph.blobs[self.parts.blob[source]] == source:
                    for top in node.tops:
                        blobs[top].values = blobs[self.parts.blob[source]].values
        return blobs

    def _make_params(self) -> dict[str, list[ParamBlob]]:
        first = cache(partial(self._first, new_key()))  # costly, and needless where a file has all weights
        params: dict[str, list[ParamBlob]] = {}
        owned: dict[tuple[str, str], ParamBlob] = {}
        for layer, stored in self.net.stored.items():
            for one in stored:
                owner, name = one.owner
                if one.owner not in owned:
                    make = partial(_leaf, first, self._groups[one.owner], owner, name)
                    shape = one.weight.shape
                    owned[one.owner] = ParamBlob(shape, Buffer(shape, make), Buffer(shape))
                mine = ParamBlob(one.weight.shape, owned[one.owner].values, owned[one.owner].gradient)
                params.setdefault(layer, []).append(mine)
        return params

    def _first(self, key: jax.Array) -> Variables:
        with on_device():
            return self.net.init(key)

    @cached_property
    def _groups(self) -> dict[tuple[str, str], str]:
        """Whether what a layer and a name own is among ``"params"`` or ``"state"``."""
        return {one.owner: "params" if one.weight.trained else "state"
                for stored in self.net.stored.values() for one in stored}

    @cached_property
    def _places(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Where ``params`` has the array that a layer and a name own."""
        return {one.owner: (layer, i) for layer, stored in self.net.stored.items()
                for i, one in enumerate(stored) if one.owner == (layer, one.weight.name)}

    def param(self, owner: str, name: str) -> ParamBlob:
        """The parameter or state of that name under the layer that owns it."""
        layer, i = self._places[owner, name]
        return self.params[layer][i]

    def variables(self) -> Variables:
        """The parameters and state as the compiled net takes them, without what is carried from call to call."""
        found: Variables = {"params": {}, "state": {}}
        for (owner, name), group in self._groups.items():
            found[group].setdefault(owner, {})[name] = self.param(owner, name).values.device()
        return found

    def set_variables(self, variables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Give parameters and state other values; leaves that are no arrays are passed over."""
        for (owner, name), group in self._groups.items():
            if isinstance(value := variables[group][owner][name], jax.Array):
                self.param(owner, name).values.set(value)

    def share(self, other: Machine) -> None:
        """Use the parameters and state of another net, by layer name, from now on. Raises JaffeError as Caffe fails."""
        common = [layer for layer in self.params if layer in other.params]
        for layer in common:
            mine, theirs = ([blob.shape for blob in params[layer]] for params in (self.params, other.params))
            if mine != theirs:
                raise JaffeError(f"layer {layer!r} cannot be shared: expected parameters of shapes {mine}; found "
                                 f"{theirs}")
        for layer in common:
            for blob, theirs_blob in zip(self.params[layer], other.params[layer], strict=True):
                blob.share(theirs_blob)

    def settle(self, diff: bool) -> None:
        """Do what is pending for the data of blobs, and for their diffs if those are wanted."""
        for kind in (False, True)[: 1 + diff]:
            if (work := self.pending.pop(kind, None)) is not None:
                work()

    def later(self, data: Callable[[], None], diffs: Callable[[], None]) -> None:
        """Do this when data and diffs of blobs are read next; now, if the script holds arrays that it changes."""
        self.pending = {False: data, True: diffs}
        for diff in (False, True):
            if any((blob.gradient if diff else blob.values).held for blob in self.blobs.values()):
                self.settle(diff)

    def reshape(self) -> None:
        """Give every blob the shape that follows from those of the inputs."""
        last = len(self.parts.steps) - 1
        reads = self.parts.reads(0, last)
        shapes = self._check(0, last, {value: self._blob(value).shape for value in reads})
        for value in self.parts.writes(0, last):
            blob = self._blob(value)
            if blob.shape != shapes[value]:
                blob.values.reset(shapes[value])

    def forward(self, first: int, last: int) -> None:
        """Run the layers from one to another, both included: data are read, blobs written, the state is updated."""
        if first > 0:
            self.settle(True)
        self.pending.clear()
        for index, source in self.sources:
            if first <= index <= last:
                self._feed(source.next())
        self._store_state(self._run(first, last, None, draw()))

    def replay(self, inputs: Mapping[str, jax.Array], variables: Variables, key: jax.Array) -> None:
        """What ``forward`` of the whole net does, for these inputs, variables and key; the state stays."""
        self._feed(inputs)
        self._run(0, len(self.parts.steps) - 1, variables, np.asarray(jax.random.key_data(key)))

    def _feed(self, inputs: Mapping[str, jax.Array]) -> None:
        for name, array in inputs.items():
            self.blobs[name].values.set(jnp.asarray(array, jnp.float32))

    def _run(
        self, first: int, last: int, variables: Variables | None, words: np.ndarray
    ) -> dict[str, dict[str, jax.Array]]:
        """Run layers and write their blobs. Returns the new state."""
        parts = self.parts
        env = {value: self._blob(value).values.device() for value in parts.reads(first, last)}
        self._check(first, last, {value: array.shape for value, array in env.items()})
        self._words[first : last + 1] = words
        self._carry_before |= self.carry
        used = self._used(first, last, variables, self.carry)
        with on_device(), of_callbacks():
            values, state = jax.block_until_ready(
                parts.forward(first, last, self._keeps_older)(used, env, words))
        written = parts.writes(first, last)
        for value in written:
            self._older.pop(value, None)
            if value in values:
                self._values[parts.blob[value]] = value
        for name in dict.fromkeys(parts.blob[value] for value in written):
            self.blobs[name].values.set(values[self._values[name]])
        if self._keeps_older:
            self._older |= {value: array for value, array in {**env, **values}.items()
                            if self._values[parts.blob[value]] != value}
        return state

    def _used(
        self, first: int, last: int, variables: Variables | None, carry: Mapping[str, Mapping[str, jax.Array]]
    ) -> Variables:
        """What some layers take of the variables: those given, or what the parameters hold."""
        found: Variables = {"params": {}, "state": {name: dict(group) for name, group in carry.items()}}
        if variables is not None:
            return {"params": variables["params"], "state": {**found["state"], **variables["state"]}}
        for owner, name, _ in self.parts.owners(first, last):
            group = found[self._groups[owner, name]]
            group.setdefault(owner, {})[name] = self.param(owner, name).values.device()
        return found

    def _store_state(self, state: Mapping[str, Mapping[str, jax.Array]]) -> None:
        for layer, group in state.items():
            for name, array in group.items():
                if (layer, name) in self._places:
                    self.param(layer, name).values.set(array)
                else:
                    self.carry[layer] = {**self.carry[layer], name: array}

    def backward(self, first: int, last: int) -> None:
        """Run the layers backward from ``last`` to ``first``: diffs of what they read are written, those of their
        parameters are added to.

        Raises:
            JaffeError: a blob behind them has another shape than these layers give it: forward was not run.
        """
        self.settle(True)
        for layer, group in self._pull(first, last, None).items():
            for name, total in group.items():
                self.param(layer, name).gradient.set(total)

    def replay_backward(self, variables: Variables) -> None:
        """What ``backward`` of the whole net does after ``replay``; the diffs of parameters stay."""
        self._pull(0, len(self.parts.steps) - 1, variables)

    def _pull(self, first: int, last: int, variables: Variables | None) -> dict[str, dict[str, jax.Array]]:
        """Write the diffs of what layers read. Returns those of their parameters, added up."""
        parts = self.parts
        self._keeps_older = True
        anchor = first
        while missing := [value for value in parts.reads(anchor, last) if not self._has(value)]:
            anchor = min(parts.writer[value] for value in missing)
        env = {value: self._held(value) for value in parts.reads(anchor, last)}
        shapes = self._check(anchor, last, {value: array.shape for value, array in env.items()})
        stored = {value: self._held(value) for value in parts.writes(anchor, last) if self._has(value)}
        stored = {value: array for value, array in stored.items() if array.shape == shapes[value]}
        cotangents = {value: self._cotangent(value, shapes[value]) for value in parts.open(first, last)}
        sums: dict[str, dict[str, jax.Array]] = {}
        for owner, name, learns in parts.owners(first, last):
            if learns:
                sums.setdefault(owner, {})[name] = self.param(owner, name).gradient.device()
        used = self._used(anchor, last, variables, self._carry_before)
        with on_device(), of_callbacks():
            gradients, sums = jax.block_until_ready(parts.backward(first, last, anchor)(
                used, env, stored, self._words[anchor : last + 1], cotangents, sums))
        for value in reversed(parts.tapped(first, last)):  # of a blob's versions the first comes last, as in Caffe
            self._blob(value).gradient.set(gradients[value])
        return sums

    def _blob(self, value: str) -> NetBlob:
        return self.blobs[self.parts.blob[value]]

    def _has(self, value: str) -> bool:
        return self._values[self.parts.blob[value]] == value or value in self._older

    def _held(self, value: str) -> jax.Array:
        """A value as its blob has it, or as it was before it was written over in place."""
        current = self._values[self.parts.blob[value]] == value
        return self._blob(value).values.device() if current else self._older[value]

    def _cotangent(self, value: str, shape: Shape) -> jax.Array:
        blob = self._blob(value)
        if blob.shape != shape:
            raise JaffeError(f"blob {self.parts.blob[value]!r} has shape {blob.shape}; backward expects {shape}: run "
                             "forward first")
        return blob.gradient.device()

    def _check(self, first: int, last: int, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Shapes of all values of some layers. What is carried to other shapes starts from zero.

        Raises:
            SpecError: a layer does not take the shapes.
        """
        key = (first, last, tuple(given.values()))
        if key not in self._checked:
            found = self.parts.shapes(first, last, given)
            self._checked[key] = found, self.parts.carried(first, last, found)
        shapes, carried = self._checked[key]
        for layer, expected in carried.items():
            if {name: array.shape for name, array in self.carry[layer].items()} != expected:
                self.carry[layer] = {name: jnp.zeros(shape, jnp.float32) for name, shape in expected.items()}
        return shapes


def _leaf(first: Callable[[], Variables], group: str, owner: str, name: str) -> jax.Array:
    return first()[group][owner][name]
