"""An iteration looked at from outside, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from jaffe.compile.net import CompiledNet
from jaffe.train.data import Feed
from jaffe.train.diagnose import debug_info, diagnose
from jaffe.train.step import TrainState, all_finite, passes


class Examiner:
    """Runs the passes of an iteration again, with the inputs and random numbers that the training step gives them."""

    def __init__(self, net: CompiledNet, feed: Feed, iter_size: int):
        self.net = net
        self.feed = feed
        self.iter_size = iter_size
        self._fetch = jax.jit(feed.fetch)

        def attempt(variables: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            def loss(params: Any) -> Any:
                return net.loss({**variables, "params": params}, inputs, key)

            (value, (_, net_state)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return all_finite(value, gradients), net_state

        self._try = jax.jit(attempt)

    def passes(self, state: TrainState, batch: Any) -> Iterator[tuple[dict[str, jax.Array], jax.Array]]:
        """Inputs and key of each pass of the iteration that comes after ``state``."""
        for part, data_key, net_key in passes(state, batch, self.iter_size):
            yield self._fetch(self.feed.resident, part, data_key), net_key

    def why(self, state: TrainState, batch: Any) -> str:
        """Why the loss of the iteration, its gradient or its update is not finite: of the first pass where it is so."""
        variables = state.variables
        for inputs, key in self.passes(state, batch):
            finite, net_state = self._try(variables, inputs, key)
            if not finite:
                return diagnose(self.net, variables, inputs, key)
            variables = {**variables, "state": net_state}
        return ("loss and gradients are finite, what the solver makes of them is not; "
                "try a larger delta, or a smaller base_lr")

    def debug_info(self, state: TrainState, batch: Any) -> Iterator[list[str]]:
        """Caffe's lines, for each pass."""
        variables = state.variables
        for inputs, key in self.passes(state, batch):
            yield debug_info(self.net, variables, inputs, key)
            if self.iter_size > 1:
                variables = {**variables, "state": self._try(variables, inputs, key)[1]}
