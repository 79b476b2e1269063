"""What a net carries from batch to batch, an LSTM's h and c, where several devices have a batch each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from jaffe.compile.infer import infer
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph

if TYPE_CHECKING:
    from jaffe.train.step import Fetch


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


def apart(net_state: Any, carried: Mapping[str, Collection[str]]) -> tuple[Any, Any]:
    """A net's state without what is carried from batch to batch, and that.

    ``carried``: its names by layer, as ``net.carried``, or as ``net.fresh_carry()`` has them.
    """
    kept = {layer: {name: x for name, x in group.items() if name not in carried.get(layer, ())}
            for layer, group in net_state.items()}
    carry = {layer: {name: net_state[layer][name] for name in own} for layer, own in carried.items()}
    return {layer: group for layer, group in kept.items() if group}, carry


def merged(kept: Any, carry: Any) -> Any:
    """The opposite of ``apart``."""
    return {layer: {**kept.get(layer, {}), **carry.get(layer, {})} for layer in {**kept, **carry}}


def divided(carry: Any, net: CompiledNet, count: int) -> Any:
    """What is carried of each of ``count`` devices, from that of a net with all their batches as one: of h,
    (1, count n, H) -> (count, 1, n, H)."""
    return _along(carry, net, lambda x, axis: jnp.stack(jnp.split(x, count, axis)))


def joined(carry: Any, net: CompiledNet) -> Any:
    """The opposite of ``divided``."""
    return _along(carry, net, lambda x, axis: jnp.concatenate(list(x), axis))


def repeated(carry: Any, net: CompiledNet, count: int) -> Any:
    """What is carried of one device, as if ``count`` had the same, joined."""
    return _along(carry, net, lambda x, axis: jnp.concatenate([x] * count, axis))


def _along(carry: Any, net: CompiledNet, change: Callable[[jax.Array, int], jax.Array]) -> Any:
    _, axes = carry_axes(net.graph, net.inferred.inputs) if carry else (0, {})
    return {layer: {name: change(x, axes[layer][name]) for name, x in group.items()} for layer, group in carry.items()}


def of_sequences(fetch: Fetch, net: CompiledNet, axes: tuple[str, ...]) -> Fetch:
    """``fetch`` for a device among others, of whose inputs (steps, sequences, ...) it takes its sequences."""

    def own(resident: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        return sequences_of(fetch(resident, batch, key), net, lax.axis_index(axes))

    return own


def sequences_of(inputs: Mapping[str, jax.Array], net: CompiledNet, device: Any) -> dict[str, jax.Array]:
    """Of inputs (steps, sequences, ...) of all devices those of one."""
    sizes = {name: value.shape[1] for name, value in net.inputs.items()}
    return {name: lax.dynamic_slice_in_dim(x, device * sizes[name], sizes[name], 1) for name, x in inputs.items()}
