"""The devices of a run, and where its arrays are on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaffe.compile.net import CompiledNet
from jaffe.compile.partition import Way
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.train.carry import apart, divided, joined, merged, repeated
from jaffe.train.signals import Signals
from jaffe.train.step import TrainState, begin

DATA, MODEL = "data", "model"  # axes of the mesh
IN_FLIGHT = 4  # steps: enough to keep devices busy, few enough to bound memory
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
    """The devices of a run, as a mesh ``(data, model)``; for pmap, ``(data)``.

    Every device has a batch of its own; gradients are averaged. Layers that are divided (``Partition``) share their
    weights along ``model``.

    Attributes:
        mesh: those of all processes.
        count: of all devices; ``here`` of those of this process; ``first`` the number of its first one.
        by: ``"pmap"`` or ``"jit"``.
        axes: names of the mapped axes that reach over all devices.
        rows: how arrays lie of whose first axis each device has a part.

    Raises:
        JaffeError: there are no such devices, or not as many as asked for; or the settings contradict each other.
    """

    def __init__(self, parallel: Parallel):
        _check(parallel)
        chosen = _chosen(parallel.devices)
        several = jax.process_count() > 1
        if several and len(chosen) != jax.device_count():
            raise JaffeError(f"a run of several processes uses all of their {jax.device_count()} devices; expected "
                             f'devices "all"; found {parallel.devices!r}')
        if len(chosen) % parallel.model_parallel:
            raise JaffeError(f"the devices that share weights divide the number of all, {len(chosen)}; found "
                             f"{parallel.model_parallel}")
        whole = not (several or parallel.model_parallel > 1 or parallel.zero)
        self.by = parallel.by or ("pmap" if whole else "jit")
        if self.by == "pmap" and not whole:
            raise JaffeError('pmap is for one process, whole weights and a whole optimiser\'s state; expected parallel '
                             '"jit"')
        self.parallel = parallel
        # That of pmap's own results: with another, the second step would be compiled anew.
        self.mesh = (Mesh(np.array(chosen), (DATA,)) if self.by == "pmap" else
                     Mesh(np.array(chosen).reshape(-1, parallel.model_parallel), (DATA, MODEL)))
        self.count = len(chosen)
        self.here = sum(device.process_index == jax.process_index() for device in chosen)
        self.first = jax.process_index() * self.here
        if self.here * jax.process_count() != self.count:
            raise JaffeError(f"every process has as many devices; found {self.here} of {self.count} in process "
                             f"{jax.process_index()} of {jax.process_count()}")
        self.axes = tuple(self.mesh.axis_names)
        self.rows = P(self.axes if len(self.axes) > 1 else DATA)
        alike, rows = NamedSharding(self.mesh, P()), NamedSharding(self.mesh, self.rows)
        self._gather = jax.jit(lambda x: x, out_shardings=alike)
        self._join = jax.jit(joined, static_argnums=1, out_shardings=alike)
        self._divide = jax.jit(divided, static_argnums=(1, 2), out_shardings=rows)
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

    @property
    def in_flight(self) -> int:
        """Steps that may be under way at once, beside the one that begins."""
        # Devices of one CPU wait for each other in the threads of one pool: several steps can use them all up, and
        # then all wait for ever.
        return 1 if self.mesh.devices.flat[0].platform == "cpu" else IN_FLIGHT

    # Where arrays are.

    def put(self, batch: Any) -> Any:
        """Batches, stacked: arrays of this process, (here, ...), as those of all devices, (count, ...)."""
        sharding = NamedSharding(self.mesh, self.rows)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device."""
        return jax.tree.map(lambda x: self._spread(x, P()), tree)

    def whole(self, tree: Any) -> Any:
        """Arrays of all devices on the first one of this process. Called in every process at once."""
        def one(x: jax.Array) -> jax.Array:
            if not x.sharding.is_fully_replicated:
                if self.here == self.count:
                    return jax.device_put(x, self.mesh.local_devices[0])
                x = self._gather(x)
            return x.addressable_shards[0].data

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
        rows = ("outputs", "asked")
        metrics = {name: jax.tree.map(_first_row if name in rows else np.asarray, value)
                   for name, value in metrics.items()}
        stop, save = metrics.pop("asked")
        if jax.process_count() > 1:
            agreed.stop, agreed.save = agreed.stop or bool(stop), agreed.save or bool(save)
        return metrics

    # A state: parameters, momentum and so on.

    def init(self, net: CompiledNet, key: jax.Array) -> dict[str, Any]:
        """Fresh variables, as a net has them that takes the batches of all devices as one."""
        variables = net.init(key)
        kept, carry = apart(variables["state"], net.carried)
        return {**variables, "state": merged(kept, repeated(carry, net, self.count))}

    def begin(
        self, variables: dict[str, Any], net: CompiledNet, optimizer: optax.GradientTransformation, key: jax.Array,
        iteration: int = 0, *, averaged: bool = False,
    ) -> TrainState:
        """The function ``begin``, of whole variables; what the optimiser keeps is made where it is to be."""
        params = {layer: {name: self._spread(x, self.weight_layout(net, layer, name)) for name, x in group.items()}
                  for layer, group in variables["params"].items()}

        def place(opt_state: Any) -> Any:
            return jax.tree.map(partial(NamedSharding, self.mesh), self.optimizer_layout(opt_state, net))

        state = begin({**variables, "params": params}, optimizer, key, iteration, averaged=averaged, place=place)
        return self.place(replace(state, opt_state=()), net, opt_state=state.opt_state)

    def place(self, state: TrainState, net: CompiledNet, *, opt_state: Any = None) -> TrainState:
        """A whole state on the devices; with ``opt_state``, what the optimiser keeps, which is there already."""
        kept, carry = apart(state.net_state, net.carried)
        layout = replace(self.layout(state, net), net_state=jax.tree.map(lambda _: P(), kept))
        placed = jax.tree.map(self._spread, replace(state, net_state=kept), layout)
        placed = placed if opt_state is None else replace(placed, opt_state=opt_state)
        return self.divided(replace(placed, net_state=merged(placed.net_state, self.replicate(carry))), net)

    def joined(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The state with what is carried joined, as a single net has it: what snapshots hold, for any number of
        devices."""
        kept, carry = apart(state.net_state, net.carried)
        return replace(state, net_state=merged(kept, self._join(carry, net))) if carry else state

    def divided(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The opposite of ``joined``: of what is carried each device has its own, (count, ...)."""
        kept, carry = apart(state.net_state, net.carried)
        return replace(state, net_state=merged(kept, self._divide(carry, net, self.count))) if carry else state

    def states(self, state: TrainState, net: CompiledNet) -> list[TrainState]:
        """The state of each device of this process, without what the optimiser keeps, on the first one. Called in every
        process at once."""
        kept, carry = apart(state.net_state, net.carried)
        core = self.whole(replace(state, net_state=kept, opt_state=()))
        return [replace(core, net_state=merged(core.net_state, own))
                for own in (self.each(carry) if carry else [{}] * self.here)]

    def layout(self, state: TrainState, net: CompiledNet) -> Any:
        """How each array of a state lies on the mesh."""
        params = {layer: {name: self.weight_layout(net, layer, name) for name in group}
                  for layer, group in state.params.items()}
        kept, carry = apart(state.net_state, net.carried)
        net_state = merged(jax.tree.map(lambda _: P(), kept), jax.tree.map(lambda _: self.rows, carry))
        opt_state, one = self.optimizer_layout(state.opt_state, net), P()
        return TrainState(one, params, net_state, opt_state, one, one, None if state.ema is None else params)  # type: ignore[arg-type]

    def optimizer_layout(self, opt_state: Any, net: CompiledNet) -> Any:
        """How what an optimiser keeps lies on the mesh: what is there for each number of a weight as its gradient."""

        shapes: dict[Any, tuple[int, ...]] = {
            one.owner: one.weight.shape for stored in net.stored.values() for one in stored if one.weight.trained}

        def one(path: tuple[Any, ...], x: Any) -> P:
            keys: list[Any] = [getattr(part, "key", None) for part in path]
            for layer, name in pairwise(keys):
                if shapes.get((layer, name)) == x.shape:
                    return self.gradient_layout(net, layer, name)
            return P()

        return jax.tree_util.tree_map_with_path(one, opt_state)

    def weight_layout(self, net: CompiledNet, layer: str, name: str) -> P:
        """How a weight lies on the mesh."""
        partition = net.partition
        axis = None if partition is None else partition.weight_axis(net.inferred.layers[layer], name)
        return P() if axis is None else P(*[None] * axis, MODEL)

    def gradient_layout(self, net: CompiledNet, layer: str, name: str) -> P:
        """How its gradient does, and what the optimiser keeps for it: with ``zero`` divided along the data axis too."""
        spec, size = list(self.weight_layout(net, layer, name)), self.mesh.shape[DATA]
        shape = next(one.weight.shape for one in net.stored[layer] if one.weight.name == name)
        if self.parallel.zero and math.prod(shape) >= LEAST_DIVIDED:
            spec += [None] * (len(shape) - len(spec))
            axis = next((i for i, one in enumerate(spec) if one is None and shape[i] % size == 0), None)
            if axis is not None:
                spec[axis] = DATA
        return P(*spec)


def make_devices(parallel: Parallel | None) -> Devices | None:
    """The devices of a run; None where it has one and nothing asks for more. Raises JaffeError as ``Devices`` does."""
    if parallel is None and jax.process_count() == 1:
        return None
    devices = Devices(Parallel() if parallel is None else parallel)
    (first, *others) = devices.mesh.devices.flat
    usual = jax.config.values["jax_default_device"] or jax.devices()[0]
    return devices if others or first != usual else None


def _check(parallel: Parallel) -> None:
    """Raise JaffeError for settings that are none."""
    if not isinstance(parallel, Parallel):
        raise JaffeError(f"parallel is a jaffe.Parallel, such as jaffe.Parallel(devices=4); received {parallel!r}")
    for name, known in (("by", (None, "pmap", "jit")), ("scaling", ("weak", "strong"))):
        found = getattr(parallel, name)
        if found not in known:
            option = {"by": "--parallel"}.get(name, f"--{name}")
            near = suggest(found, [one for one in known if one]) if isinstance(found, str) else ""
            names = " or ".join(repr(one) for one in known if one)
            raise JaffeError(f"{name} ({option}) is {names}; found {found!r}{near}")
    share = parallel.model_parallel
    if not isinstance(share, int) or isinstance(share, bool) or share < 1:
        raise JaffeError(f"model_parallel is a number of devices, at least 1; found {share!r}")
    if not isinstance(parallel.zero, bool):
        raise JaffeError(f"zero is True or False; found {parallel.zero!r}")
    if parallel.layers is not None:
        example = 'expected some, as {"fc6": "output", "fc7": "input"}'
        if not isinstance(parallel.layers, Mapping) or not parallel.layers:
            raise JaffeError(f"layers are those to divide: {example}; found {parallel.layers!r}")
        if share == 1:
            raise JaffeError("layers are divided over model_parallel devices; expected more than 1; found 1")


def _chosen(devices: Any) -> list[jax.Device]:
    there = jax.devices()
    if isinstance(devices, str) and devices == "all":
        return there
    if isinstance(devices, int) and not isinstance(devices, bool):
        if not 1 <= devices <= len(there):
            names = ", ".join(f"{one.platform}:{one.id}" for one in there)
            raise JaffeError(f"expected 1 to {len(there)} devices ({names}); found {devices}")
        return there[:devices]
    several = isinstance(devices, Sequence) and not isinstance(devices, str)
    if not several or not devices or not all(isinstance(one, jax.Device) for one in devices):
        raise JaffeError(f'devices are "all", how many, or a list of those of jax.devices(); found {devices!r}')
    if len(set(devices)) < len(devices):
        raise JaffeError(f"devices are named once each; found {', '.join(map(str, devices))}")
    return list(devices)


def _first_row(x: jax.Array) -> np.ndarray:
    """Of (count, ...) the first row here."""
    return np.asarray(x.addressable_shards[0].data)[0]


def _in_order(x: jax.Array) -> list[Any]:
    return sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
