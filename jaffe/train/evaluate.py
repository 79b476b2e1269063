"""Test nets: their weights come from the training net, by layer name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.train.data.feed import Feed
from jaffe.train.step import make_test_step


class Evaluation:
    """Runs a net over batches and averages what it puts out.

    What the net carries from batch to batch (h and c of LSTM) is its own, and zero when an evaluation begins.

    Args:
        net: in phase TEST.
        feed: its data.
        iterations: batches in one evaluation, always the first ones of the feed.
        key: for layers that are random in phase TEST too, and for weights that no one gives.
        with_loss: whether to put out the net's loss, the weighted sum, too.
    """

    def __init__(self, net: CompiledNet, feed: Feed, iterations: int, key: jax.Array, with_loss: bool = False):
        self.net = net
        self.feed = feed
        self.iterations = iterations
        self.key = key
        self._step = jax.jit(make_test_step(net, feed.fetch, with_loss=with_loss and bool(net.loss_tops)))

    @cached_property
    def own(self) -> Any:
        """Variables for layers that the other net does not have."""
        return self.net.init(self.key)

    def run(self, variables: Any, from_net: CompiledNet | None = None) -> dict[str, float | list[float]]:
        """Mean of each output over the batches; a vector stays a list.

        Args:
            variables: the net's own, or those of ``from_net``, whose layers of the same names are taken.
        """
        return self.summarise(self.start(variables, from_net))

    def start(self, variables: Any, from_net: CompiledNet | None = None) -> dict[str, jax.Array]:
        """Begin: dispatch every batch and return the sums, still being computed."""
        if from_net is not None:
            variables = share(from_net, variables, self.net, self.own)
        totals: dict[str, jax.Array] = {}
        carry = self.net.fresh_carry()
        batches: Iterator[Any] = self.feed.batches()
        for i in range(self.iterations):
            key = jax.random.fold_in(self.key, i)
            outputs, carry = self._step(variables, carry, self.feed.resident, next(batches), key)
            for name, value in outputs.items():
                totals[name] = totals[name] + value if name in totals else value
        return totals

    def summarise(self, totals: dict[str, jax.Array]) -> dict[str, float | list[float]]:
        """Wait for the sums and divide them."""
        means = {name: np.asarray(total) / self.iterations for name, total in totals.items()}
        return {name: mean.item() if mean.size == 1 else mean.ravel().tolist() for name, mean in means.items()}


def share(from_net: CompiledNet, variables: Any, net: CompiledNet, own: Any) -> dict[str, Any]:
    """Variables for ``net`` from those of another net, for every layer that both have.

    Raises:
        JaffeError: a layer's weights have other shapes in the two nets.
    """
    result = {group: {layer: dict(arrays) for layer, arrays in own[group].items()} for group in own}
    for layer, mine in net.stored.items():
        theirs = from_net.stored.get(layer, mine)
        shapes = [[one.weight.shape for one in stored] for stored in (theirs, mine)]
        if shapes[0] != shapes[1]:
            raise JaffeError(f"layer {layer!r} has weights of shapes {shapes[0]} in phase {from_net.phase} and "
                             f"{shapes[1]} in phase {net.phase}; expected the same")
        for one, other in zip(mine, from_net.stored.get(layer, ()), strict=False):
            group = "params" if one.weight.trained else "state"
            owner, name = one.owner
            value = variables[group][other.owner[0]][other.owner[1]]
            result[group][owner][name] = jnp.reshape(value, jnp.shape(own[group][owner][name]))
    return result
