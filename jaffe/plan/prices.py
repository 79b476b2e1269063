"""What a training step of a net takes on a machine, for any division of its layers: computing, and sending."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from jaffe.compile import CompiledNet
from jaffe.compile.cost import LayerCost
from jaffe.compile.layers.recurrent import Recurrent
from jaffe.compile.partition import Partition, Way, transfers
from jaffe.netdef.graph import Node
from jaffe.plan.machine import Collective, Machine, bytes_sent

AXIS = "model"  # of the mesh ("data", "model"), over which layers are divided
UPDATE = 5  # values moved a weight by SGD: weight, gradient and history are read, weight and history written


@dataclass(frozen=True)
class Send:
    """A collective of a step.

    Attributes:
        layer: which asks for it.
        size: bytes of the buffer, as ``bytes_sent`` has it.
        members, stride: devices of a group, and how far they stand apart.
        gradient: whether it is averaged together with others of the same groups: gradients, and state.
    """

    layer: str
    kind: Collective
    size: float
    members: int
    stride: int
    gradient: bool = False

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        return bytes_sent(self.kind, self.size, self.members)


class Prices:
    """Seconds of a step.

    Args:
        net: in phase TRAIN; a device's batch is the declared one.
        devices: how many train together.
        share: part of the declared batch that each gets.
    """

    def __init__(self, net: CompiledNet, devices: int, machine: Machine, share: float = 1.0):
        self.net, self.devices, self.machine, self.share = net, devices, machine, share
        self.costs = {layer.name: layer for layer in net.cost().layers}
        self.nodes = {node.name: node for node in net.graph.nodes}
        self.learned = {node.name: sum(
            math.prod(one.weight.shape) for one in net.inferred.owned(node.name)
            if one.weight.name in net.gradients[node.name].weights) for node in net.graph.nodes}
        self._computed: dict[tuple[str, Way | None, int], float] = {}

    def compute(self, layer: str, way: Way | None = None, size: int = 1) -> float:
        """Of a layer forward and backward, and the update of its weights, divided so over ``size`` devices.

        A divided layer has as many operations, on ``size`` times the items; it moves a part of the weights.
        """
        key = (layer, way, size)
        if key not in self._computed:
            self._computed[key] = self._compute(self.nodes[layer], self.costs[layer], way, size)
        return self._computed[key]

    def _compute(self, node: Node, cost: LayerCost, way: Way | None, size: int) -> float:
        shapes, layer = self.net.inferred.shapes, self.net.inferred.layers[node.name]
        if layer.source or layer.is_identity([shapes[value] for value in node.bottoms]):
            return 0.0
        of_blobs, of_weights = self.net.precision.itemsize * self.share, self.net.dtype.itemsize
        parts = size if way else 1
        bottoms = [of_blobs * math.prod(shapes[value]) * (parts if way == "output" else 1) for value in node.bottoms]
        tops = of_blobs * cost.activations * (parts if way == "input" else 1)
        weights, learned = (of_weights * count / parts for count in (cost.params, self.learned[node.name]))
        dtype = self.net.precision.name if layer.arithmetic == "products" else "float32"
        passes = [(cost.flops, sum(bottoms) + tops + weights)]
        if cost.gradients.needed:
            asked = sum(size for size, needed in zip(bottoms, cost.gradients.bottoms, strict=True) if needed)
            passes.append((cost.backward_flops, tops + sum(bottoms) + weights + asked + learned))
        seconds = sum(max(self.machine.compute_seconds(flops * self.share, moved, dtype), self.machine.kernel)
                      for flops, moved in passes)
        if isinstance(layer, Recurrent):
            seconds += len(passes) * shapes[node.tops[0]][0] * self.machine.step
        return seconds + self.machine.compute_seconds(0, UPDATE * learned, "float32")

    def sends(self, partition: Partition | None) -> list[Send]:
        """All collectives of a step, in the order of the net; behind them gradients of weights, by layer."""
        found = []
        if partition:
            graph, inferred = self.net.graph, self.net.inferred
            found = [Send(one.layer, one.kind, one.size * self.share, partition.size, 1)
                     for one in transfers(graph, inferred, partition, self.net.gradients)]
        return [one for one in (*found, *self.gradients(partition)) if one.members > 1]

    def gradients(self, partition: Partition | None) -> Iterator[Send]:
        """What is averaged. Weights that each device has over all, those of which it has a part over those with that
        part; the bias of a layer divided by inputs is on each device. And state, such as BatchNorm's statistics."""
        divided: Mapping[str, Way] = partition.layers if partition else {}
        size = partition.size if partition else 1
        itemsize = self.net.dtype.itemsize
        for layer, learned in self.learned.items():
            whole = learned
            if layer in divided:
                own = [one.weight for one in self.net.inferred.owned(layer)
                       if one.weight.name in self.net.gradients[layer].weights]
                parts = sum(math.prod(one.shape) for one in own if divided[layer] == "output" or one.name == "weight")
                whole -= parts
                if parts:
                    yield Send(layer, "all-reduce", itemsize * parts / size, self.devices // size, size, gradient=True)
            whole += self.costs[layer].state
            if whole:
                yield Send(layer, "all-reduce", itemsize * whole, self.devices, 1, gradient=True)

    def seconds_of(self, sends: list[Send]) -> list[float]:
        """Of each: gradients of one size of group go together, and their latency is shared out by their bytes."""
        together: dict[tuple[int, int], float] = {}
        for one in sends:
            if one.gradient:
                group = (one.members, one.stride)
                together[group] = together.get(group, 0) + one.size
        seconds = []
        for one in sends:
            size = together[one.members, one.stride] if one.gradient else one.size
            all_of_it = self.machine.link_seconds(one.kind, size, one.members, one.stride)
            seconds.append(all_of_it * one.size / size)
        return seconds

    @cached_property
    def most_readers(self) -> int:
        """Layers that read the value that most read."""
        return max(Counter(value for node in self.nodes.values() for value in node.bottoms).values(), default=1)

    @cached_property
    def undivided(self) -> float:
        """Seconds of all layers' computing with none divided."""
        return sum(self.compute(layer) for layer in self.nodes)

    def total(self, partition: Partition | None) -> float:
        """Seconds of a step."""
        computed = self.undivided
        if partition:
            computed += sum(self.compute(layer, way, partition.size) - self.compute(layer)
                            for layer, way in partition.layers.items())
        return computed + sum(self.seconds_of(self.sends(partition)))
