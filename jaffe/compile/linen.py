"""A compiled net as a Flax Linen module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaffe.compile.net import CompiledNet


class LinenNet(linen.Module):
    """A jaffe net inside Flax code. Call it with a dict of inputs; it returns the dict of outputs.

    Params and state are those of ``CompiledNet.init``, layer by layer. ``rngs={"dropout": key}`` feeds random
    layers; with ``mutable=["state"]`` the new state comes back, otherwise it is dropped.
    """

    net: CompiledNet

    @linen.compact
    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        if self.is_initializing():
            fresh = self.net.init(self.make_rng("params"))
            for layer, carried in self.net.fresh_carry(inputs).items():
                fresh["state"][layer] |= carried
        else:  # Linen still asks for shapes, to compare them with what it was given
            shapes = jax.eval_shape(self.net.init, jax.random.key(0))
            fresh = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        params = {layer: self.param(layer, lambda _, one=group: one) for layer, group in fresh["params"].items()}
        state = {
            layer: self.variable("state", layer, lambda one=group: one) for layer, group in fresh["state"].items()
        }
        rng = self.make_rng("dropout") if self.has_rng("dropout") else None
        current = {layer: variable.value for layer, variable in state.items()}
        outputs, new = self.net.apply({"params": params, "state": current}, inputs, rng)
        if self.is_mutable_collection("state") and not self.is_initializing():
            for layer, variable in state.items():
                variable.value = new[layer]
        return outputs


def as_linen(net: CompiledNet) -> linen.Module:
    """Wrap a net; see ``CompiledNet.as_linen``."""
    return LinenNet(net)
