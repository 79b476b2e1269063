"""Running the layers of a net one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax

from jaffe.compile.fused import Program, Recomputed, Stepped
from jaffe.compile.layer import Context, Layer, Shape
from jaffe.compile.lowering import Lowering
from jaffe.compile.precision import apply_in
from jaffe.compile.reader import WeightReader, read_state
from jaffe.compile.remat import recomputed
from jaffe.compile.reroll.run import StepRunner, word
from jaffe.netdef.graph import Node

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet, State, Variables

Values = dict[str, jax.Array]


def execute(
    net: CompiledNet,
    program: Iterable[tuple[Node, Layer]],
    variables: Variables,
    env: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
    *,
    anew: bool = False,
    taps: Mapping[str, jax.Array] = MappingProxyType({}),
    words: Mapping[str, Any] = MappingProxyType({}),
    lowering: Lowering | None = None,
    layout: Callable[[jax.Array], jax.Array] = lambda value: value,
) -> tuple[Values, State]:
    """Every value of the net, and the new state. Pure. Values are of the net's dtype, or of its precision.

    Args:
        program: the layers to run, in order: all, or those of a part.
        env: values that are there already: the inputs (``read_inputs``), and what a part reads from before it.
        anew: carried state is zero, whatever the variables have.
        taps: by the names of values, if not inside a node of several parts: arrays whose gradients are those of the
            values. Their numbers are not read.
        words: by the names of layers, what their keys are made of in place of ``word`` of the name.
        lowering: in place of the net's.
        layout: asks for a layout in memory, of every value and so of its gradient.
    """
    env = {name: _tapped(name, value, taps) for name, value in env.items()}
    state = read_state(variables)
    weights = WeightReader(net, variables, anew)
    for node, layer in program:
        if layer.source:
            continue
        if isinstance(layer, Recomputed):
            values, updated = _run_recomputed(net, layer, weights, env, state, rng, layout)
            env.update(values)
            for owner, arrays in updated.items():
                state.setdefault(owner, {}).update(arrays)
            continue
        if isinstance(layer, Stepped):
            env.update(_run_steps(net, layer, weights, env, state, rng))
            continue
        bottoms = [env[value] for value in node.bottoms]
        if not net.graph.force_backward:
            bottoms = [
                x if allowed else lax.stop_gradient(x)
                for x, allowed in zip(bottoms, node.proto.propagate_down or [True] * len(bottoms), strict=True)
            ]
        own = None if rng is None else jax.random.fold_in(rng, words.get(node.name, word(node.name)))
        context = Context(node, own, net.dtype, lowering or net.lowering, net.axis_name)
        with jax.named_scope(node.name.replace("/", ".")):
            tops, new = apply_in(net.precision, layer, weights(node, layer, bottoms, state), bottoms, context)
        if layer.foreign:
            _check_returned(layer, [x.shape for x in bottoms], tops, new)
        owners = {stored.weight.name: stored.owner for stored in net.inferred.stored[node.name]}
        for name, value in new.items():
            owner, key = owners.get(name, (node.name, name))
            state.setdefault(owner, {})[key] = value
        env.update((name, layout(_tapped(name, top, taps))) for name, top in zip(node.tops, tops, strict=True))
    return env, state


def _run_recomputed(
    net: CompiledNet, layer: Recomputed, weights: WeightReader, env: Values, state: State, rng: jax.Array | None,
    layout: Callable[[jax.Array], jax.Array],
) -> tuple[Values, State]:
    """The tops, and the new state of the layers inside."""

    def run(env: Values, variables: Variables, rng: jax.Array | None) -> tuple[Values, State]:
        values, state = execute(net, layer.program, variables, env, rng, anew=weights.anew, layout=layout)
        return {top: values[top] for top in layer.node.tops}, state

    read = {value: env[value] for value in layer.node.bottoms}
    return recomputed(run)(read, weights.part(layer.node.leaves, state), rng)


def _run_steps(
    net: CompiledNet, layer: Stepped, weights: WeightReader, env: Values, state: State, rng: jax.Array | None
) -> Values:
    """The tops. Steps have no state."""

    def run(program: Program, env: Mapping[str, jax.Array], variables: Variables, rng: jax.Array | None,
            words: Mapping[str, Any], taps: Mapping[str, jax.Array], looped: bool) -> Values:
        lowering = replace(net.lowering, looped=looped)
        return execute(net, program, variables, env, rng, anew=weights.anew, taps=taps, words=words,
                       lowering=lowering)[0]

    body = layer.node.plan.body
    learning = frozenset(node.name for node in body if _learns(net, node))
    return StepRunner(layer.node.plan, layer.program, run, learning)(
        {value: env[value] for value in layer.node.bottoms}, weights.part(body, state), rng, net.lowering.plain)


def _learns(net: CompiledNet, node: Node) -> bool:
    return any(one.weight.trained and (one.lr_mult != 0 or net.graph.force_backward)
               for leaf in node.leaves for one in net.inferred.stored[leaf.name])


def _tapped(name: str, value: jax.Array, taps: Mapping[str, jax.Array]) -> jax.Array:
    return _tap(value, taps[name].astype(value.dtype)) if name in taps else value


@jax.custom_vjp
def _tap(value: jax.Array, tap: jax.Array) -> jax.Array:
    return value


_tap.defvjp(lambda value, tap: (value, None), lambda _, gradient: (gradient, gradient))


def _check_returned(layer: Layer, bottoms: list[Shape], tops: Sequence[jax.Array], new: Mapping[str, Any]) -> None:
    """What a user's own layer returns is what its shape rule and its weights say."""
    found, expected = ([tuple(shape) for shape in shapes] for shapes in (map(np.shape, tops), layer.shapes(bottoms)))
    if found != expected:
        raise layer.node.error(f"{layer.node.type}.apply returns shapes {found}; its shape rule says {expected}")
    kept = {weight.name: weight.shape for weight in layer.weights(bottoms) if not weight.trained}
    for name, value in new.items():
        if name not in kept:
            raise layer.node.error(f"{layer.node.type} returns new values of {name!r}; its untrained weights are "
                                   f"{', '.join(kept) or 'none'}")
        if np.shape(value) != kept[name]:
            raise layer.node.error(f"{layer.node.type} returns {name!r} of shape {np.shape(value)}; its weights say "
                                   f"{kept[name]}")


def fold(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for a name, the same in every run and on every machine."""
    return jax.random.fold_in(key, word(name))
