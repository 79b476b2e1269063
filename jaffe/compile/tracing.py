"""Every blob of a net and every gradient: what debugging, inspection and scripts in pycaffe's style look at."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaffe.compile.execute import execute
from jaffe.compile.layer import make_layer
from jaffe.compile.net import CompiledNet, Variables
from jaffe.compile.reader import read_inputs


@struct.dataclass
class Trace:
    """A forward and backward pass, whole.

    Attributes:
        values: every value by name: a blob's as its layer wrote it, then ``name#1``, ... as in-place layers left it.
        gradients: of the loss, by each of those; zero where no gradient flows.
        weight_gradients: of the loss, by each parameter, shaped as ``variables["params"]``; those of a shared one
            are added up.
        state: the new state.
        loss: the weighted sum of the net's losses, and of the cotangents times their values.
    """

    values: dict[str, jax.Array]
    gradients: dict[str, jax.Array]
    weight_gradients: Any
    state: Any
    loss: jax.Array


def trace(
    net: CompiledNet,
    variables: Variables,
    inputs: Mapping[str, Any],
    rng: jax.Array | None = None,
    *,
    cotangents: Mapping[str, Any] = MappingProxyType({}),
) -> Trace:
    """Run every layer forward and backward, without passes, and keep all of it. Pure; needs memory for every blob.

    Args:
        variables, inputs, rng: as for ``net.apply``.
        cotangents: gradients put on values (names as in ``Trace.values``) beside the net's losses, which may be none.

    Raises:
        JaffeError: inputs or variables do not fit the net.
    """
    env = read_inputs(net, inputs)
    program = [(node, make_layer(node)) for node in net.graph.nodes]

    def run(params: Any, taps: Any) -> Any:
        found, state = execute(net, program, {**variables, "params": params}, env, rng, taps=taps)
        values = {name: value.astype(net.dtype) for name, value in found.items()}
        loss = sum((weight * values[top].sum() for top, weight in net.loss_tops.items()), jnp.zeros((), net.dtype))
        loss += sum((jnp.sum(values[name] * cotangent) for name, cotangent in cotangents.items()), jnp.zeros(()))
        return loss, (values, state)

    shapes = {**net.inferred.shapes, **{name: value.shape for name, value in env.items()}}
    if any(value.shape != net.inferred.shapes[name] for name, value in env.items()):  # inputs of other sizes
        found = jax.eval_shape(lambda: run(variables["params"], {})[1][0])
        shapes = {name: value.shape for name, value in found.items()}
    taps = {name: jnp.zeros(shape, net.dtype) for name, shape in shapes.items()}
    (loss, (values, state)), (weights, gradients) = jax.value_and_grad(run, (0, 1), has_aux=True)(
        variables["params"], taps)
    return Trace(values, gradients, weights, state, loss)
