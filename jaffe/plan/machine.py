"""Machines of several devices, as a planner sees them: speeds, links, and how long a collective takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaffe.netdef.errors import JaffeError, suggest

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"]
COLLECTIVES: tuple[Collective, ...] = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def bytes_sent(kind: Collective, size: float, members: int) -> float:
    """Bytes that each of ``members`` devices sends in a collective.

    ``(g - 1) / g`` of the buffer for an all-gather, a reduce-scatter and an all-to-all, twice that for an all-reduce,
    which is a reduce-scatter and an all-gather; no algorithm sends less. A permutation sends all of it. Source: Thakur,
    Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in MPICH".

    Args:
        size: bytes of the whole buffer on one device: what an all-gather results in, what the others start from.
    """
    if kind == "collective-permute":
        return size
    return (2 if kind == "all-reduce" else 1) * size * (members - 1) / members


@dataclass(frozen=True)
class Machine:
    """Devices in nodes, and what connects them. Bytes and seconds; speeds are a second's.

    Attributes:
        name: as ``jaffe plan --machine`` takes it.
        flops: peak of one device by the dtype of products, ``"float32"`` and ``"bfloat16"``.
        memory: bytes read or written in its memory.
        devices_per_node: devices that the fast links connect.
        link: bytes that a device sends to others of its node, while it receives as many.
        between: bytes that a device sends to other nodes; each device has a link of its own.
        attained: part of ``flops`` that matrix products and convolutions of real sizes attain.
        carried: part of ``memory``, ``link`` and ``between`` that is attained.
        latency: seconds of one step of a collective.
        kernel: seconds that a layer takes at least, in each pass: the start of a kernel.
        step: seconds that each step of a recurrent layer takes beside its arithmetic, in each pass: it is some kernels,
            each started after the other.
    """

    name: str
    flops: Mapping[str, float]
    memory: float
    devices_per_node: int
    link: float
    between: float
    attained: float = 0.4
    carried: float = 0.8
    latency: float = 5e-6
    kernel: float = 3e-6
    step: float = 10e-6

    def compute_seconds(self, flops: float, moved: float, dtype: str) -> float:
        """Of so many operations on so many bytes of memory: what takes longer is what it takes."""
        return max(flops / (self.flops[dtype] * self.attained), moved / (self.memory * self.carried))

    def link_seconds(self, kind: Collective, size: float, members: int, stride: int = 1) -> float:
        """Of a collective between ``members`` devices that stand ``stride`` apart, all such groups at once.

        Bytes sent through the slowest link, and a latency for each step of a tree. Where a group has several devices in
        each node, rings and trees pass each of their links between nodes with an equal share; an exchange
        (all-to-all) sends what is for other nodes through each device's own.

        Args:
            size: as ``bytes_sent`` has it.
        """
        if members == 1:
            return 0.0
        steps = math.ceil(math.log2(members)) * (2 if kind == "all-reduce" else 1)
        return bytes_sent(kind, size, members) / self._bandwidth(kind, members, stride) + steps * self.latency

    def _bandwidth(self, kind: Collective, members: int, stride: int) -> float:
        if members * stride <= self.devices_per_node:
            return self.link * self.carried
        in_node = max(self.devices_per_node // stride, 1)
        shared = in_node if kind in ("all-reduce", "all-gather", "reduce-scatter") else 1
        return min(self.link, self.between * shared) * self.carried


# NVIDIA's data sheets of the H100 SXM and of the A100 SXM 80 GB (products without sparsity, TF32 for float32, NVLink
# each way), and of the DGX H100 and DGX A100 that they stand in: eight to a node, each with an InfiniBand link of
# 400 and 200 Gbit/s. What is attained, latencies and a step's start are assumed.
MACHINES = {machine.name: machine for machine in (
    Machine("h100", {"float32": 494e12, "bfloat16": 989e12}, memory=3.35e12, devices_per_node=8, link=450e9,
            between=50e9),
    Machine("a100", {"float32": 156e12, "bfloat16": 312e12}, memory=2.039e12, devices_per_node=8, link=300e9,
            between=25e9),
)}


def machine_of(name: str) -> Machine:
    """The machine of that name. Raises JaffeError, with the nearest name, when there is none."""
    if name not in MACHINES:
        raise JaffeError(f"no machine {name!r}{suggest(name, MACHINES)}; there are {', '.join(MACHINES)}")
    return MACHINES[name]
