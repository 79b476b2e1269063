"""The devices of a run, and where its arrays are on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaffe.compile.net import CompiledNet
from jaffe.compile.partition import Way
from jaffe.netdef.errors import JaffeError
from jaffe.train.carry import apart, divided, joined, merged, repeated
from jaffe.train.signals import Signals
from jaffe.train.step import TrainState

DATA, MODEL = "data", "model"  # axes of the mesh
ROWS = P((DATA, MODEL))  # of a first axis, each device has a row
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
        if self.here * jax.process_count() != self.count:
            raise JaffeError(f"every process has as many devices; found {self.here} of {self.count} in process "
                             f"{jax.process_index()} of {jax.process_count()}")
        self.axes = (DATA,) if self.by == "pmap" else (DATA, MODEL)
        self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(self.mesh, P()))
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
        sharding = NamedSharding(self.mesh, ROWS)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device."""
        return jax.tree.map(lambda x: self._spread(x, P()), tree)

    def whole(self, tree: Any) -> Any:
        """Arrays of all devices on the first one of this process. Called in every process at once."""
        def one(x: jax.Array) -> jax.Array:
            return (x if x.sharding.is_fully_replicated else self._gather(x)).addressable_shards[0].data

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
        kept, carry = apart(variables["state"], net)
        return {**variables, "state": merged(kept, repeated(carry, net, self.count))}

    def place(self, state: TrainState, net: CompiledNet, optimizer: optax.GradientTransformation) -> TrainState:
        """A whole state, as ``begin`` makes it of ``init``, on the devices."""
        kept, carry = apart(state.net_state, net)
        layout = replace(self.layout(state, net, optimizer), net_state=jax.tree.map(lambda _: P(), kept))
        placed = jax.tree.map(self._spread, replace(state, net_state=kept), layout)
        return self.divided(replace(placed, net_state=merged(placed.net_state, self.replicate(carry))), net)

    def joined(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The state with what is carried joined, as a single net has it: what snapshots hold, for any number of
        devices."""
        return self._change(state, net, joined, P())

    def divided(self, state: TrainState, net: CompiledNet) -> TrainState:
        """The opposite of ``joined``: of what is carried each device has its own, (count, ...)."""
        return self._change(state, net, partial(divided, count=self.count), ROWS)

    def _change(self, state: TrainState, net: CompiledNet, how: Callable[..., Any], spec: P) -> TrainState:
        kept, carry = apart(state.net_state, net)
        if not carry:
            return state
        changed = jax.jit(lambda carry: how(carry, net), out_shardings=NamedSharding(self.mesh, spec))(carry)
        return replace(state, net_state=merged(kept, changed))

    def states(self, state: TrainState, net: CompiledNet) -> list[TrainState]:
        """The whole state of each device of this process, on its first one. Called in every process at once."""
        kept, carry = apart(state.net_state, net)
        core = self.whole(replace(state, net_state=kept))
        return [replace(core, net_state=merged(core.net_state, own))
                for own in (self.each(carry) if carry else [{}] * self.here)]

    def layout(self, state: TrainState, net: CompiledNet, optimizer: optax.GradientTransformation) -> Any:
        """How each array of a state lies on the mesh."""
        params, parts = (
            {layer: {name: of(net, layer, name) for name in group} for layer, group in state.params.items()}
            for of in (self.weight_layout, self.gradient_layout))
        opt_state = optax.tree_map_params(
            optimizer, lambda _, spec: spec, state.opt_state, parts, transform_non_params=lambda _: P())
        kept, carry = apart(state.net_state, net)
        net_state = merged(jax.tree.map(lambda _: P(), kept), jax.tree.map(lambda _: ROWS, carry))
        one: Any = P()
        return TrainState(one, params, net_state, opt_state, one, one, None if state.ema is None else params)

    def weight_layout(self, net: CompiledNet, layer: str, name: str) -> P:
        """How a weight lies on the mesh."""
        partition = net.partition
        axis = None if partition is None else partition.weight_axis(net.inferred.layers[layer], name)
        return P() if axis is None else P(*[None] * axis, MODEL)

    def gradient_layout(self, net: CompiledNet, layer: str, name: str) -> P:
        """How its gradient does, and what the optimiser keeps for it: with ``zero`` divided along the data axis too."""
        spec, size = list(self.weight_layout(net, layer, name)), self.mesh.shape[DATA]
        shape = next(one.weight.shape for one in net.inferred.stored[layer] if one.weight.name == name)
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


def _shown(x: jax.Array) -> np.ndarray:
    """What all devices have, or of rows (count, ...) the first one here."""
    data = np.asarray(x.addressable_shards[0].data)
    return data if x.sharding.is_fully_replicated else data[0]


def _in_order(x: jax.Array) -> list[Any]:
    return sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
