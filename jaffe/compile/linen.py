"""A compiled net as a Flax Linen module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
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
        fresh: dict[str, Any] = {}

        def initial(group: str, layer: str) -> Any:
            if not fresh:
                fresh.update(self.net.init(self.make_rng("params")))
            return fresh[group][layer]

        shapes = jax.eval_shape(self.net.init, jax.random.key(0))
        params = {layer: self.param(layer, lambda _, at=layer: initial("params", at)) for layer in shapes["params"]}
        state = {
            layer: self.variable("state", layer, lambda at=layer: initial("state", at)) for layer in shapes["state"]
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
