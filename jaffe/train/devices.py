"""A training step on several devices: where its arrays are, and what the devices tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaffe.compile.infer import infer
from jaffe.compile.net import CompiledNet
from jaffe.compile.partition import Way
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph
from jaffe.train.signals import Signals
from jaffe.train.step import Fetch, Passes, TrainState, all_finite, make_train_step

DATA, MODEL = "data", "model"  # axes of the mesh
LEAST_DIVIDED = 2**12  # values; smaller parts of an optimiser's state are kept whole


@dataclass(frozen=True)
class Parallel:
    """How a run is spread over devices.

    Attributes:
        devices: ``"all"``, how many (the first ones), or which.
        by: ``"pmap"``, or ``"jit"`` of a ``jax.shard_map`` over a mesh: the same step, the same numbers. By default
            pmap where it will do: in one process, with whole weights and a whole optimiser's state.
        scaling: ``"weak"``: each device takes the net's batch, as in Caffe. ``"strong"``: the devices divide it.
        model_parallel: how many devices share the weights of the layers that are divided: ``devices`` is a multiple.
        layers: which those are, and by what: ``{"fc6": "output", "fc7": "input"}``. By default those with ``divide`` in
            the net; where there are none, those that ``jaffe plan`` recommends.
        zero: whether each device keeps a part of the optimiser's state, and updates that part of the weights. Source:
            Rajbhandari et al. 2020 (arXiv 1910.02054), stage 1.
    """

    devices: Literal["all"] | int | Sequence[jax.Device] = "all"
    by: Literal["pmap", "jit"] | None = None
    scaling: Literal["weak", "strong"] = "weak"
    model_parallel: int = 1
    layers: Mapping[str, Way] | None = None
    zero: bool = False


class Devices:
    """The devices of a run, as a mesh ``(data, model)``.

    Every device has a batch of its own; gradients are averaged. Layers that are divided (``Partition``) share their
    weights along ``model``.

    Attributes:
        mesh: those of all processes.
        count: of all devices; ``here`` of those of this process; ``first`` the number of its first one.
        by: ``"pmap"`` or ``"jit"``.
        axes: names of the mapped axes that reach over all devices.

    Raises:
        JaffeError: there are no such devices, or not as many as asked for; or the settings contradict each other.
    """

    def __init__(self, parallel: Parallel):
        chosen = _chosen(parallel.devices)
        several = jax.process_count() > 1
        if several and len(chosen) != jax.device_count():
            raise JaffeError(f"a run of several processes uses all of their {jax.device_count()} devices; expected "
                             f'devices "all"; found {parallel.devices!r}')
        if parallel.by not in (None, "pmap", "jit") or parallel.scaling not in ("weak", "strong"):
            raise JaffeError(f'parallel is "pmap" or "jit", scaling "weak" or "strong"; found {parallel.by!r} and '
                             f"{parallel.scaling!r}")
        if parallel.model_parallel < 1 or len(chosen) % parallel.model_parallel:
            raise JaffeError(f"the devices that share weights divide the number of all, {len(chosen)}; found "
                             f"{parallel.model_parallel}")
        whole = not (several or parallel.model_parallel > 1 or parallel.zero)
        self.by = parallel.by or ("pmap" if whole else "jit")
        if self.by == "pmap" and not whole:
            raise JaffeError('pmap is for one process, whole weights and a whole optimiser\'s state; expected parallel '
                             '"jit"')
        self.parallel = parallel
        self.mesh = Mesh(np.array(chosen).reshape(-1, parallel.model_parallel), (DATA, MODEL))
        self.count = len(chosen)
        self.here = sum(device.process_index == jax.process_index() for device in chosen)
        self.first = jax.process_index() * self.here
        self.axes = (DATA,) if self.by == "pmap" else (DATA, MODEL)
        self._asked: dict[tuple[bool, bool], jax.Array] = {}

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        shares = f", {self.parallel.model_parallel} of which share weights" if self.parallel.model_parallel > 1 else ""
        each = "which divide the net's batch" if self.strong else "each with a batch of its own"
        several = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{self.count} devices ({kind}){several}{shares}, {each}: {self.by}"

    @property
    def strong(self) -> bool:
        """Whether the devices divide the net's batch."""
        return self.parallel.scaling == "strong"

    # Where arrays are.

    def put(self, batch: Any) -> Any:
        """Batches, stacked: arrays of this process, (here, ...), as those of all devices, (count, ...)."""
        sharding = NamedSharding(self.mesh, P((DATA, MODEL)))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device."""
        return jax.tree.map(lambda x: self._spread(x, P()), tree)

    def whole(self, tree: Any) -> Any:
        """Arrays of all devices on the first one of this process. Called in every process at once."""
        gathered = jax.jit(lambda x: x, out_shardings=NamedSharding(self.mesh, P()))

        def one(x: jax.Array) -> jax.Array:
            return (x if x.sharding.is_fully_replicated else gathered(x)).addressable_shards[0].data

        return jax.tree.map(one, tree)

    def each(self, batch: Any, *, whole: bool = False) -> list[Any]:
        """Of stacked batches (count, ...) those of this process's devices, on its first one. ``whole``: all have the
        same."""
        first = self.mesh.local_devices[0]

        def rows(x: jax.Array) -> list[jax.Array]:
            if whole:
                return [jax.device_put(x.addressable_shards[0].data, first)] * self.here
            return [jax.device_put(shard.data[0], first) for shard in _in_order(x)]

        leaves, structure = jax.tree.flatten(batch)
        return [jax.tree.unflatten(structure, row) for row in zip(*map(rows, leaves), strict=True)]

    def _spread(self, x: Any, spec: P) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(self._spread(jax.random.key_data(x), spec), impl=jax.random.key_impl(x))
        sharding = NamedSharding(self.mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(x, sharding, may_alias=False)  # what is placed may be donated
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    # What the processes agree on, with each step.

    def ask(self, signals: Signals) -> jax.Array:
        """For a step: what the signals of this process ask for, (stop, save), as those of all devices, (count, 2)."""
        asked = (signals.stop, signals.save)
        if jax.process_count() > 1:
            signals.save = False  # once: all processes are going to hear it
        if asked not in self._asked:
            self._asked[asked] = self.put(np.full((self.here, 2), asked))
        return self._asked[asked]

    def heard(self, metrics: dict[str, Any], agreed: Signals) -> dict[str, Any]:
        """A step's metrics on the host, outputs of the first device; ``agreed`` learns what any process asked for."""
        metrics = {name: jax.tree.map(_shown, value) for name, value in metrics.items()}
        stop, save = metrics.pop("asked")
        if jax.process_count() > 1:
            agreed.stop, agreed.save = agreed.stop or bool(stop), agreed.save or bool(save)
        return metrics

    # A state: parameters, momentum and so on.

    def init(self, net: CompiledNet, key: jax.Array) -> dict[str, Any]:
        """Fresh variables, as a net has them that takes the batches of all devices as one."""
        variables = net.init(key)
        kept, carry = _apart(variables["state"], net)
        _, axes = carry_axes(net.graph, net.inferred.inputs)
        wide = {layer: {name: jnp.concatenate([x] * self.count, axes[layer][name]) for name, x in group.items()}
                for layer, group in carry.items()}
        return {**variables, "state": _merged(kept, wide)}

    def place(self, state: TrainState, net: CompiledNet, optimizer: optax.GradientTransformation) -> TrainState:
        """A whole state, as ``begin`` makes it, on the devices. What is carried from batch to batch is that of one net
        that has all batches as one."""
        placed = jax.tree.map(self._spread, replace(state, net_state=_apart(state.net_state, net)[0]),
                              self.layout(state, net, optimizer))
        carry = self.replicate(_apart(state.net_state, net)[1])
        return replace(placed, net_state=_merged(placed.net_state, self._carry(net, carry, apart=True)))

    def joined(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The state with what is carried joined as a single net has it: what snapshots hold, for any number of
        devices."""
        kept, carry = _apart(state.net_state, net)
        return replace(state, net_state=_merged(kept, self._carry(net, carry, apart=False)))

    def divided(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The opposite of ``joined``."""
        kept, carry = _apart(state.net_state, net)
        return replace(state, net_state=_merged(kept, self._carry(net, carry, apart=True)))

    def states(self, state: TrainState, net: CompiledNet) -> list[TrainState]:
        """The whole state of each device of this process, on its first one. Called in every process at once."""
        kept, carry = _apart(state.net_state, net)
        core = self.whole(replace(state, net_state=kept))
        return [replace(core, net_state=_merged(core.net_state, own))
                for own in (self.each(carry) if carry else [{}] * self.here)]

    def layout(self, state: TrainState, net: CompiledNet, optimizer: optax.GradientTransformation) -> Any:
        """How each array of a state, but for what is carried, lies on the mesh."""
        params = {layer: {name: self._weight(net, layer, name, value) for name, value in weights.items()}
                  for layer, weights in state.params.items()}
        parts = jax.tree.map(self._part, state.params, params)
        opt_state = optax.tree_map_params(
            optimizer, lambda _, spec: spec, state.opt_state, parts, transform_non_params=lambda _: P())
        one: Any = P()
        kept = jax.tree.map(lambda _: one, _apart(state.net_state, net)[0])
        return TrainState(one, params, kept, opt_state, one, one, None if state.ema is None else params)

    def _weight(self, net: CompiledNet, layer: str, name: str, value: jax.Array) -> P:
        partition = net.partition
        axis = None if partition is None else partition.weight_axis(net.inferred.layers[layer], name)
        return P() if axis is None else P(*[None] * axis, MODEL)

    def _part(self, x: Any, spec: P) -> P:
        """Of what the optimiser keeps, and of gradients: where it is divided over the data axis too."""
        size = self.mesh.shape[DATA]
        if not self.parallel.zero or x.size < LEAST_DIVIDED:
            return spec
        for axis in range(x.ndim):
            if (axis >= len(spec) or spec[axis] is None) and x.shape[axis] % size == 0:
                return P(*(spec[i] if i < len(spec) else None for i in range(axis)), DATA, *spec[axis + 1 :])
        return spec

    def _carry(self, net: CompiledNet, carry: Any, *, apart: bool) -> Any:
        """What is carried, of each device, (count, ...), or of all as one."""
        _, axes = carry_axes(net.graph, net.inferred.inputs)

        def change(carry: Any) -> Any:
            return {layer: {name: _cut(x, axes[layer][name], self.count) if apart else _joined(x, axes[layer][name])
                            for name, x in group.items()} for layer, group in carry.items()}

        return jax.jit(change, out_shardings=NamedSharding(self.mesh, P((DATA, MODEL)) if apart else P()))(carry)

    # The step.

    def train_step(
        self, net: CompiledNet, optimizer: optax.GradientTransformation, fetch: Fetch, iter_size: int, ema_decay: float,
        *, sequences: bool = False,
    ) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
        """The step of ``make_train_step`` for all devices, compiled, with the state donated.

        Its batch is ``(batch, asked)``: the batches of all devices, and what the process of each asks for, (2).
        Metrics are the means over the devices, ``"outputs"`` those of each device, (count, ...), where they are single
        numbers the mean; ``"asked"`` the largest of all.

        Args:
            sequences: the batch is one for all devices, each of which takes its part of axis 1.
        """
        fetch = _of_sequences(fetch, net, self.axes) if sequences else fetch

        def across(run: Passes) -> Passes:
            return self._averaged(run, net) if self.by == "pmap" else self._over_mesh(run, net, sequences)

        step = make_train_step(net, optimizer, fetch, iter_size, ema_decay, across)
        return self._pmapped(step, net, sequences) if self.by == "pmap" else self._jitted(step, net, optimizer)

    def _averaged(self, run: Passes, net: CompiledNet) -> Passes:
        """The passes of one device among others: with a key of its own, and with the means over all."""

        def passes(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
            batch, asked = batch
            key = jax.random.fold_in(key, lax.axis_index(self.axes))
            grads, net_state, loss, seen = run(params, net_state, resident, batch, key)
            kept, carry = _apart(net_state, net)
            loss = jnp.where(all_finite(carry), loss, jnp.nan)  # all devices are to know
            outputs = {name: lax.pmean(x, self.axes) if x.ndim == 0 else x for name, x in seen["outputs"].items()}
            grads, kept, loss = self._mean(grads, net), lax.pmean(kept, self.axes), lax.pmean(loss, self.axes)
            asked = lax.pmax(asked, self.axes)
            return grads, _merged(kept, carry), loss, {"outputs": outputs, "asked": asked}

        return passes

    def _mean(self, grads: Any, net: CompiledNet) -> Any:
        """Gradients of the mean of all losses, whole or in parts."""

        def one(layer: str, name: str, g: jax.Array) -> jax.Array:
            spec = self._weight(net, layer, name, g)
            part = self._part(jax.ShapeDtypeStruct(net_shape(net, layer, name), g.dtype), spec)
            shared = MODEL in tuple(spec)  # each device has a part of the weight, and its gradient for all items
            if part == spec:
                return lax.psum(g, DATA if shared else self.axes) / self.count
            g = g if shared else lax.psum(g, MODEL)
            return lax.psum_scatter(g, DATA, scatter_dimension=list(part).index(DATA), tiled=True) / self.count

        return {layer: {name: one(layer, name, g) for name, g in group.items()} for layer, group in grads.items()}

    def _over_mesh(self, run: Passes, net: CompiledNet, sequences: bool) -> Passes:
        """The passes of all devices: seen from outside, arrays are whole."""
        each = self._averaged(run, net)

        def passes(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
            kept, carry = _apart(net_state, net)
            weights = {layer: {name: self._weight(net, layer, name, x) for name, x in group.items()}
                       for layer, group in params.items()}
            parts = jax.tree.map(self._part, params, weights)

            def inside(params: Any, kept: Any, carry: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
                carry, (items, asked) = jax.tree.map(_first, carry), batch
                items = items if sequences else jax.tree.map(_first, items)
                grads, net_state, loss, seen = each(
                    params, _merged(kept, carry), resident, (items, asked[0]), key)
                kept, carry = _apart(net_state, net)
                return grads, kept, jax.tree.map(_row, carry), loss, jax.tree.map(_row, seen)

            rows = P((DATA, MODEL))
            grads, kept, carry, loss, seen = jax.shard_map(
                inside, mesh=self.mesh, check_vma=False,  # else gradients come out summed (docs/architecture.md)
                in_specs=(weights, P(), rows, P(), (P() if sequences else rows, rows), P()),
                out_specs=(parts, P(), rows, P(), rows),
            )(params, kept, carry, resident, batch, key)
            return grads, _merged(kept, carry), loss, seen

        return passes

    def _jitted(self, step: Any, net: CompiledNet, optimizer: optax.GradientTransformation) -> Any:
        def place(spec: P) -> NamedSharding:
            return NamedSharding(self.mesh, spec)

        def constrained(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, Any]:
            new, metrics = step(state, resident, batch)
            kept, carry = _apart(new.net_state, net)
            layout = jax.tree.map(place, self.layout(state, net, optimizer))
            core = lax.with_sharding_constraint(replace(new, net_state=kept), layout)
            carry = lax.with_sharding_constraint(carry, jax.tree.map(lambda _: place(P((DATA, MODEL))), carry))
            return replace(core, net_state=_merged(kept, carry)), metrics

        return jax.jit(constrained, donate_argnums=0)

    def _pmapped(self, step: Any, net: CompiledNet, sequences: bool) -> Any:
        def inner(core: TrainState, carry: Any, resident: Any, items: Any, asked: Any) -> Any:
            new, metrics = step(replace(core, net_state=_merged(core.net_state, carry)), resident, (items, asked))
            kept, carry = _apart(new.net_state, net)
            seen = {name: metrics.pop(name) for name in ("outputs", "asked")}
            return replace(new, net_state=kept), carry, metrics, seen

        mapped = jax.pmap(
            inner, DATA, in_axes=(None, 0, None, None if sequences else 0, 0), out_axes=(None, 0, None, 0),
            donate_argnums=(0, 1), devices=list(self.mesh.devices.flat))

        def whole(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
            kept, carry = _apart(state.net_state, net)
            core, carry, metrics, seen = mapped(replace(state, net_state=kept), carry, resident, *batch)
            return replace(core, net_state=_merged(core.net_state, carry)), {**metrics, **seen}

        return whole


def make_devices(parallel: Parallel | None) -> Devices | None:
    """The devices of a run; None where it has one and nothing asks for more. Raises JaffeError as ``Devices`` does."""
    if parallel is None and jax.process_count() == 1:
        return None
    devices = Devices(parallel or Parallel())
    return devices if devices.count > 1 else None


def _chosen(devices: Any) -> list[jax.Device]:
    there = jax.devices()
    if devices == "all":
        return there
    if isinstance(devices, int):
        if not 1 <= devices <= len(there):
            names = ", ".join(f"{one.platform}:{one.id}" for one in there)
            raise JaffeError(f"expected 1 to {len(there)} devices ({names}); found {devices}")
        return there[:devices]
    return list(devices)


def net_shape(net: CompiledNet, layer: str, name: str) -> tuple[int, ...]:
    """The whole shape of a parameter."""
    return next(one.weight.shape for one in net.inferred.stored[layer] if one.weight.name == name)


def _of_sequences(fetch: Fetch, net: CompiledNet, axes: tuple[str, ...]) -> Fetch:
    """Of inputs (steps, sequences, ...) each device takes its sequences."""

    def own(resident: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        return sequences_of(fetch(resident, batch, key), net, lax.axis_index(axes))

    return own


def sequences_of(inputs: Mapping[str, jax.Array], net: CompiledNet, device: Any) -> dict[str, jax.Array]:
    """Of inputs (steps, sequences, ...) of all devices those of one."""
    sizes = {name: value.shape[1] for name, value in net.inputs.items()}
    return {name: lax.dynamic_slice_in_dim(x, device * sizes[name], sizes[name], 1) for name, x in inputs.items()}


def carry_axes(graph: Graph, inputs: Mapping[str, Sequence[int]]) -> tuple[int, dict[str, dict[str, int]]]:
    """Which axis of a net's inputs is that of the items, and which it is of what is carried from batch to batch.

    The first axis of the inputs, or the second, where that of what is carried does not follow the first: then batches
    are steps of the same sequences.

    Raises:
        JaffeError: it follows neither.
    """
    def carried(axis: int) -> dict[str, dict[str, tuple[int, ...]]]:
        shapes = {name: tuple(2 * size if i == axis else size for i, size in enumerate(shape))
                  for name, shape in inputs.items()}
        found = infer(graph, shapes).carried
        return {layer: {one.name: one.shape for one in own} for layer, own in found.items() if own}

    before = carried(-1)
    if not before:
        return 0, {}
    for axis in (0, 1):
        try:
            after = carried(axis)
        except JaffeError:
            continue
        if after != before:
            return axis, {layer: {name: next(i for i, (a, b) in enumerate(zip(shape, after[layer][name], strict=True))
                                             if a != b) for name, shape in own.items()}
                          for layer, own in before.items()}
    raise JaffeError(f"net {graph.name!r} carries state from batch to batch whose shape follows neither the first nor "
                     "the second axis of its inputs: it cannot be trained on several devices")


def _apart(net_state: Any, net: CompiledNet) -> tuple[Any, Any]:
    """A net's state without what is carried from batch to batch, and that."""
    names = {layer: {weight.name for weight in carried} for layer, carried in net.inferred.carried.items() if carried}
    kept = {layer: {name: x for name, x in group.items() if name not in names.get(layer, ())}
            for layer, group in net_state.items()}
    carry = {layer: {name: net_state[layer][name] for name in own} for layer, own in names.items()}
    return {layer: group for layer, group in kept.items() if group}, carry


def _merged(kept: Any, carry: Any) -> Any:
    return {layer: {**kept.get(layer, {}), **carry.get(layer, {})} for layer in {**kept, **carry}}


def _shown(x: jax.Array) -> np.ndarray:
    """What all devices have, or of rows (count, ...) the first one here."""
    data = np.asarray(x.addressable_shards[0].data)
    return data if x.sharding.is_fully_replicated else data[0]


def _in_order(x: jax.Array) -> list[Any]:
    return sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)


def _cut(x: jax.Array, axis: int, count: int) -> jax.Array:
    """(.., count n, ..) -> (count, .., n, ..)."""
    return jnp.stack(jnp.split(x, count, axis))


def _joined(x: jax.Array, axis: int) -> jax.Array:
    """(count, .., n, ..) -> (.., count n, ..)."""
    return jnp.concatenate(list(x), axis)


def _first(x: jax.Array) -> jax.Array:
    return x[0]


def _row(x: jax.Array) -> jax.Array:
    return x[None]
