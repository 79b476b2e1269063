"""A net as a StableHLO artefact, by ``jax.export``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from jaffe.compile.exported import BatchChoice, Part, exported_part, growing_shapes, rebatched, warn_fixed
from jaffe.compile.layer import Context, make_layer
from jaffe.netdef.errors import JaffeError

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet, Variables

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    net: CompiledNet,
    variables: Variables | None,
    *,
    outputs: Iterable[str] | None = None,
    batch: BatchChoice = "polymorphic",
    platforms: Sequence[str] = ("cpu", "cuda"),
    rng: jax.Array | None = None,
) -> bytes:
    """Serialise a net's forward pass; see ``CompiledNet.export``."""
    part = exported_part(net, outputs)
    check_platforms(platforms)
    _check_code(part)
    if batch == "polymorphic":
        try:
            growing_shapes(net, part)
            return _serialise(net, variables, part, _symbolic(part), platforms, rng)
        except Exception as error:  # JAX has many errors for what is not known of a symbolic size
            reason = error if isinstance(error, JaffeError) else _blame(net, variables, part, error)
            # Wrong variables or inputs fail here too.
            result = _serialise(net, variables, part, part.inputs, platforms, rng)
            warn_fixed(net, part, reason)
            return result
    if batch is None:
        return _serialise(net, variables, part, part.inputs, platforms, rng)
    rebatched(net, part, batch)
    return _serialise(net, variables, part, part.with_batch(batch), platforms, rng)


def check_platforms(platforms: Sequence[str]) -> None:
    """Raises JaffeError unless it is a list of the platforms there are."""
    if isinstance(platforms, str) or not platforms or any(platform not in PLATFORMS for platform in platforms):
        raise JaffeError(f"platforms is a list of {', '.join(PLATFORMS)}; received {platforms!r}")


def _check_code(part: Part) -> None:
    for node in part.graph.nodes:
        if node.type == "Python":
            raise node.error("runs Python code, which an artefact cannot hold; expected other outputs")


def _symbolic(part: Part) -> dict[str, tuple[Any, ...]]:
    (batch,) = jax_export.symbolic_shape("N")
    return {name: (batch, *shape[1:]) if name in part.batched else shape for name, shape in part.inputs.items()}


def _serialise(
    net: CompiledNet,
    variables: Variables | None,
    part: Part,
    shapes: Mapping[str, Any],
    platforms: Sequence[str],
    rng: jax.Array | None,
) -> bytes:
    keep = frozenset(part.outputs.values())
    lengths = {shape[0]: shapes[name][0] for name, shape in part.inputs.items() if name in part.batched}

    def forward(variables: Variables, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        unread = {
            name: jnp.zeros((lengths.get(shape[0], shape[0]), *shape[1:]) if shape else shape, net.dtype)
            for name, shape in net.inferred.inputs.items() if name not in inputs
        }
        env, _ = net._run(variables, {**inputs, **unread}, rng, keep, anew=True)  # a call is a sequence of its own
        return {blob: env[value] for blob, value in part.outputs.items()}

    feeds = {name: jax.ShapeDtypeStruct(shape, net.dtype) for name, shape in shapes.items()}
    if variables is None:
        declared = jax.eval_shape(net.init, jax.random.key(0))
        exported = jax_export.export(jax.jit(forward), platforms=platforms)(declared, feeds)
    else:
        baked = variables

        def of_inputs(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            return forward(baked, inputs)

        exported = jax_export.export(jax.jit(of_inputs), platforms=platforms)(feeds)
    return bytes(exported.serialize())


def _blame(net: CompiledNet, variables: Variables | None, part: Part, error: Exception) -> JaffeError:
    """The first layer that cannot be traced with a batch of any size, as an error that names it."""
    env = {name: jax.ShapeDtypeStruct(shape, net.dtype) for name, shape in _symbolic(part).items()}
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for node in part.graph.nodes:
        layer = make_layer(node)
        if layer.source:
            continue
        weights = {
            stored.weight.name: jax.ShapeDtypeStruct(stored.weight.shape, net.dtype)
            for stored in net.inferred.stored[node.name]
        }
        context = Context(node, jax.random.key(0), net.dtype)
        weights |= {
            one.name: jax.ShapeDtypeStruct(one.shape, net.dtype)
            for one in layer.weights([env[value].shape for value in node.bottoms]) if one.carried
        }
        try:
            tops, _ = jax.eval_shape(
                lambda w, b, layer=layer, context=context: layer.apply_with_state(w, b, context),
                weights, [env[value] for value in node.bottoms],
            )
        except Exception:
            return node.error(f"{node.type} cannot be traced with a batch of any size ({first})")
        env.update(zip(node.tops, tops, strict=True))
    return JaffeError(first)
