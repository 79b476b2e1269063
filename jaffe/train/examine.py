"""An iteration looked at from outside, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from jaffe.compile.net import CompiledNet
from jaffe.train.carry import sequences_of
from jaffe.train.data import Feed
from jaffe.train.devices import Devices
from jaffe.train.diagnose import debug_info, diagnose
from jaffe.train.step import TrainState, all_finite, passes

Pass = tuple[dict[str, jax.Array], jax.Array]


class Examiner:
    """Runs the passes of an iteration again, with the inputs and random numbers that the training step gives them: on
    one device, those of each device of this process in turn."""

    def __init__(self, net: CompiledNet, feed: Feed, iter_size: int, devices: Devices | None = None):
        self.net = net = net.mapped()
        self.feed = feed
        self.iter_size = iter_size
        self.devices = devices
        self._fetch = jax.jit(feed.fetch)

        def attempt(variables: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            def loss(params: Any) -> Any:
                return net.loss({**variables, "params": params}, inputs, key)

            (value, (_, net_state)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            return all_finite(value, gradients), net_state

        self._try = jax.jit(attempt)

    def why(self, state: TrainState, batch: Any) -> str:
        """Why the loss of the iteration, its gradient or its update is not finite: of the first pass where it is so."""
        for variables, one in self._devices(state, batch):
            for inputs, key in one:
                finite, net_state = self._try(variables, inputs, key)
                if not finite:
                    return diagnose(self.net, variables, inputs, key)
                variables = {**variables, "state": net_state}
        elsewhere = self.devices is not None and self.devices.here < self.devices.count
        return ("loss and gradients are finite" + (" on the devices of this process" if elsewhere else "")
                + ", what the solver makes of them is not; try a larger delta, or a smaller base_lr")

    def debug_info(self, state: TrainState, batch: Any) -> Iterator[list[str]]:
        """Caffe's lines, for each pass; of several devices, of the first."""
        variables, one = next(iter(self._devices(state, batch)))
        for inputs, key in one:
            yield debug_info(self.net, variables, inputs, key)
            if self.iter_size > 1:
                variables = {**variables, "state": self._try(variables, inputs, key)[1]}

    def _devices(self, state: TrainState, batch: Any) -> Iterator[tuple[dict[str, Any], Iterator[Pass]]]:
        """For each device of this process its variables, and the inputs and key of each pass after ``state``."""
        if self.devices is None:
            yield state.variables, self._passes(state, batch, self.feed.resident, None)
            return
        resident = self.devices.whole(self.feed.resident)
        batches = self.devices.each(batch, whole=self.feed.sequences)
        for i, (own, items) in enumerate(zip(self.devices.states(state, self.net), batches, strict=True)):
            yield own.variables, self._passes(own, items, resident, self.devices.first + i)

    def _passes(self, state: TrainState, batch: Any, resident: Any, device: int | None) -> Iterator[Pass]:
        for part, data_key, net_key in passes(state, batch, self.iter_size, device):
            inputs = self._fetch(resident, part, data_key)
            if device is not None and self.feed.sequences:
                inputs = sequences_of(inputs, self.net, device)
            yield inputs, net_key
