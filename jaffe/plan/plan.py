"""How to train a net on several devices: what each layer would send, and what the fastest way is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaffe.compile import CompiledNet
from jaffe.compile.layers.recurrent import Recurrent
from jaffe.compile.partition import Partition, Way, ways
from jaffe.netdef.errors import JaffeError
from jaffe.plan.machine import MACHINES, Machine
from jaffe.plan.prices import AXIS, Prices, Send
from jaffe.plan.search import best

Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class LayerPlan:
    """One layer in a step of one device.

    Attributes:
        params: trained values that it owns, undivided.
        flops: of both passes.
        data_parallel: bytes that a device sends for the gradients of its weights, undivided, and for its state.
        divided: bytes that it sends if this layer alone is divided over ``Plan.considered`` devices, in the faster way:
            for its blobs, and for the gradients of its part of the weights. None where it has no weights or cannot be.
        way: as which the plan divides it.
        sent: bytes that a device sends for it in the plan.
        compute_seconds, link_seconds: in the plan. Gradients go together; their time is shared out by their bytes.
    """

    name: str
    type: str
    params: int
    flops: float
    data_parallel: float
    divided: float | None
    way: Way | None
    sent: float
    compute_seconds: float
    link_seconds: float


@dataclass(frozen=True)
class Plan:
    """The fastest way found to train a net on so many devices of a machine.

    Attributes:
        items: of the batch of one device.
        data, model: sizes of the mesh's axes; their product is the number of devices. Those along ``model`` stand side
            by side.
        considered: devices over which ``LayerPlan.divided`` divides: ``model``, or where that is 1 those of a node.
        partition: the layers that are divided over ``model``; None: none is.
        sends: the collectives of a step.
        single_seconds: of a step of one device with the whole declared batch.
    """

    net: str
    machine: Machine
    scaling: Scaling
    devices: int
    items: int
    data: int
    model: int
    considered: int
    partition: Partition | None
    layers: tuple[LayerPlan, ...]
    sends: tuple[Send, ...]
    single_seconds: float

    @property
    def compute_seconds(self) -> float:
        return sum(layer.compute_seconds for layer in self.layers)

    @property
    def link_seconds(self) -> float:
        return sum(layer.link_seconds for layer in self.layers)

    @property
    def seconds(self) -> float:
        """Of a training step: computing, then sending."""
        return self.compute_seconds + self.link_seconds

    @property
    def items_per_second(self) -> float:
        """Of all devices together."""
        return self.devices * self.items / self.seconds

    @property
    def efficiency(self) -> float:
        """Items a second of all devices, as a part of what as many would do that need not send."""
        alone = self.single_seconds if self.scaling == "weak" else self.single_seconds / self.devices
        return alone / self.seconds

    @property
    def sent(self) -> Mapping[str, float]:
        """Bytes that each device sends in a step, by kind of collective."""
        found: dict[str, float] = {}
        for one in self.sends:
            found[one.kind] = found.get(one.kind, 0) + one.sent
        return found

    def __str__(self) -> str:
        from jaffe.plan.table import describe

        return describe(self)


def plan(
    net: CompiledNet, devices: int, *, machine: Machine = MACHINES["h100"], scaling: Scaling = "weak",
    model_parallel: int | None = None,
) -> Plan:
    """Find how to train a net on several devices: which layers to divide, over how many.

    Every device has a batch of its own. Gradients are averaged over all of them; layers that are divided have a part
    of their weights on each of M neighbours, and send their blobs in place of their gradients (``jaffe.Partition``).
    M is every divisor of ``devices``, and the layers are those of ``search.best``.

    Args:
        net: of phase TRAIN, with a loss.
        scaling: ``"weak"``: the declared batch is that of each device; ``"strong"``: of all together.
        model_parallel: M, instead of all; then at least one layer is divided, be it worth it or not (1: none is).

    Raises:
        JaffeError: the net has no loss, or another argument is wrong.
    """
    _check(net, devices, scaling, model_parallel)
    items = _items(net)
    if scaling == "strong" and items % devices:
        raise JaffeError(f"strong scaling shares a batch among devices: expected one of a multiple of {devices}; found "
                         f"{items}. Declare another batch, or take weak scaling, where each device has this one")
    share = 1.0 if scaling == "weak" else 1 / devices
    prices = Prices(net, devices, machine, share)
    sizes = [size for size in range(1, devices + 1) if devices % size == 0]
    if model_parallel is not None:
        sizes = [model_parallel]
    _, found = min((best(prices, size, divide=size == model_parallel and size > 1) for size in sizes),
                   key=lambda each: each[0])
    model = found.size if found else 1
    within = max(size for size in range(1, machine.devices_per_node + 1) if devices % size == 0)
    considered = model if model > 1 else within
    sends = prices.sends(found)
    return Plan(
        net=net.name or "net", machine=machine, scaling=scaling, devices=devices,
        items=items if scaling == "weak" else items // devices, data=devices // model, model=model,
        considered=considered, partition=found, layers=_layers(prices, found, sends, considered), sends=tuple(sends),
        single_seconds=Prices(net, 1, machine).total(None),
    )


def _check(net: CompiledNet, devices: int, scaling: str, model_parallel: int | None) -> None:
    if not net.loss_tops:
        raise JaffeError(f"net {net.name!r} has no loss in phase {net.phase}: expected a net to train, as "
                         'compile_net(..., phase="TRAIN") makes it')
    if net.partition is not None:
        raise JaffeError("expected a net that is not divided yet; found one with a partition: compile it without")
    if devices < 1:
        raise JaffeError(f"expected at least one device; found {devices}")
    if scaling not in get_args(Scaling):
        raise JaffeError(f"scaling is weak or strong; found {scaling!r}")
    if model_parallel is not None and (model_parallel < 1 or devices % model_parallel):
        raise JaffeError(f"layers are divided over a number of devices that divides all {devices}; "
                         f"found {model_parallel}")


def _items(net: CompiledNet) -> int:
    """Of the declared batch: N of the first LSTM or RNN, which reads (T, N, ...); else the first axis of what is read
    first."""
    for layer in net.inferred.layers.values():
        if isinstance(layer, Recurrent):
            return net.inferred.shapes[layer.node.bottoms[0]][1]
    shape = next((shape for shape in net.inferred.inputs.values() if shape), ())
    return shape[0] if shape else 1


def _layers(
    prices: Prices, partition: Partition | None, sends: Sequence[Send], considered: int
) -> tuple[LayerPlan, ...]:
    plain = {one.layer: one.sent for one in prices.sends(None)}
    sent, seconds = dict.fromkeys(prices.nodes, 0.0), dict.fromkeys(prices.nodes, 0.0)
    for one, second in zip(sends, prices.seconds_of(list(sends)), strict=True):
        sent[one.layer] += one.sent
        seconds[one.layer] += second
    divided = partition.layers if partition else {}
    size = partition.size if partition else 1
    return tuple(LayerPlan(
        name=name, type=cost.type, params=cost.params,
        flops=(cost.flops + cost.backward_flops) * prices.share,
        data_parallel=plain.get(name, 0.0), divided=_divided(prices, name, considered), way=divided.get(name),
        sent=sent[name], compute_seconds=prices.compute(name, divided.get(name), size), link_seconds=seconds[name],
    ) for name, cost in prices.costs.items())


def _divided(prices: Prices, name: str, size: int) -> float | None:
    """Bytes that a device sends of a layer that alone is divided, in the faster way."""
    able = ways(prices.nodes[name], prices.net.inferred, size) if size > 1 and prices.costs[name].params else ()
    if not able:
        return None
    partition = min((Partition(AXIS, size, {name: way}) for way in able), key=prices.total)
    return sum(one.sent for one in prices.sends(partition) if not one.gradient or one.layer == name)
