"""One training step on several devices: by pmap, or by jit of a mesh. What the devices tell each other is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaffe.compile.net import CompiledNet
from jaffe.train.carry import apart, merged, of_sequences
from jaffe.train.devices import DATA, MODEL, Devices
from jaffe.train.step import Fetch, Passes, TrainState, all_finite, make_train_step

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]


def spread_train_step(
    devices: Devices, net: CompiledNet, optimizer: optax.GradientTransformation, fetch: Fetch, iter_size: int = 1,
    ema_decay: float = 0.0, *, sequences: bool = False,
) -> Step:
    """The step of ``make_train_step`` for all devices, compiled, with the state donated.

    Its batch is ``(batch, asked)``: the batches of all devices, and what the process of each asks for, (count, 2).
    Metrics are the means over the devices; ``"outputs"`` are of each device, (count, ...), single numbers the mean of
    all; ``"asked"`` is the largest of all.

    Args:
        devices: where ``devices.place`` has put the state.
        sequences: the batch is one for all devices, each of which takes its part of axis 1.
    """
    fetch = of_sequences(fetch, net, devices.axes) if sequences else fetch

    def across(run: Passes) -> Passes:
        each = _averaged(run, devices, net)
        return each if devices.by == "pmap" else _over_mesh(each, devices, net, sequences)

    step = make_train_step(net, optimizer, fetch, iter_size, ema_decay, across)
    if devices.by == "pmap":
        return _pmapped(step, devices, net, sequences)
    return _jitted(step, devices, net)


def _averaged(run: Passes, devices: Devices, net: CompiledNet) -> Passes:
    """The passes of one device among others: with random numbers of its own, and the means over all."""

    def passes(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
        batch, asked = batch
        key = jax.random.fold_in(key, lax.axis_index(devices.axes))
        grads, net_state, loss, seen = run(params, net_state, resident, batch, key)
        kept, carry = apart(net_state, net.carried)
        loss = jnp.where(all_finite(carry), loss, jnp.nan)  # all devices are to know
        kept, loss = lax.pmean((kept, loss), devices.axes)
        outputs = {name: lax.pmean(x, devices.axes) if x.ndim == 0 else x for name, x in seen["outputs"].items()}
        asked = lax.pmax(asked, devices.axes)
        return _mean(grads, devices, net), merged(kept, carry), loss, {"outputs": outputs, "asked": asked}

    return passes


def _mean(grads: Any, devices: Devices, net: CompiledNet) -> Any:
    """The gradients of the mean of all losses, whole or in parts."""

    def one(layer: str, name: str, g: jax.Array) -> jax.Array:
        weight, part = devices.weight_layout(net, layer, name), devices.gradient_layout(net, layer, name)
        shared = MODEL in tuple(weight)  # each device has a part of it, whose gradient is for the items of several
        if part == weight:
            return lax.psum(g, DATA if shared else devices.axes) / devices.count
        g = g if shared else lax.psum(g, MODEL)
        return lax.psum_scatter(g, DATA, scatter_dimension=list(part).index(DATA), tiled=True) / devices.count

    return {layer: {name: one(layer, name, g) for name, g in group.items()} for layer, group in grads.items()}


def _over_mesh(each: Passes, devices: Devices, net: CompiledNet, sequences: bool) -> Passes:
    """The passes of all devices, seen from outside: arrays are whole."""

    def inside(params: Any, kept: Any, carry: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
        items, asked = batch
        items = items if sequences else jax.tree.map(_first, items)
        net_state = merged(kept, jax.tree.map(_first, carry))
        grads, net_state, loss, seen = each(params, net_state, resident, (items, asked[0]), key)
        kept, carry = apart(net_state, net.carried)
        return grads, kept, jax.tree.map(_row, carry), loss, jax.tree.map(_row, seen)

    def passes(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
        def layout(of: Callable[[CompiledNet, str, str], P]) -> Any:
            return {layer: {name: of(net, layer, name) for name in group} for layer, group in params.items()}

        rows = devices.rows
        grads, kept, carry, loss, seen = jax.shard_map(
            inside, mesh=devices.mesh,
            check_vma=False,  # else gradients come out summed over the devices, and their mean is count times too large
            in_specs=(layout(devices.weight_layout), P(), rows, P(), (P() if sequences else rows, rows), P()),
            out_specs=(layout(devices.gradient_layout), P(), rows, P(), rows),
        )(params, *apart(net_state, net.carried), resident, batch, key)
        return grads, merged(kept, carry), loss, seen

    return passes


def _jitted(step: Step, devices: Devices, net: CompiledNet) -> Step:
    """The update is of whole arrays: XLA divides it as they lie."""

    def run(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, Any]:
        new, metrics = step(state, resident, batch)
        placed = jax.tree.map(lambda spec: NamedSharding(devices.mesh, spec), devices.layout(new, net))
        return lax.with_sharding_constraint(new, placed), metrics

    return jax.jit(run, donate_argnums=0)


def _pmapped(step: Step, devices: Devices, net: CompiledNet, sequences: bool) -> Step:
    def one(state: TrainState, carry: Any, resident: Any, items: Any, asked: Any) -> Any:
        new, metrics = step(replace(state, net_state=merged(state.net_state, carry)), resident, (items, asked))
        kept, carry = apart(new.net_state, net.carried)
        seen = {name: metrics.pop(name) for name in ("outputs", "asked")}
        return replace(new, net_state=kept), carry, metrics, seen

    # The state has no leading axis: all devices have the same.
    mapped = jax.pmap(
        one, DATA, in_axes=(None, 0, None, None if sequences else 0, 0), out_axes=(None, 0, None, 0),
        donate_argnums=(0, 1), devices=list(devices.mesh.devices.flat))

    def run(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        kept, carry = apart(state.net_state, net.carried)
        new, carry, metrics, seen = mapped(replace(state, net_state=kept), carry, resident, *batch)
        return replace(new, net_state=merged(new.net_state, carry)), {**metrics, **seen}

    return run


def _first(x: jax.Array) -> jax.Array:
    return x[0]


def _row(x: jax.Array) -> jax.Array:
    return x[None]
