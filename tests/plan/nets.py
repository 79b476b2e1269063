"""Nets to plan for."""

from __future__ import annotations

from random import Random
from typing import Any

from jaffe import CompiledNet, L, NetSpec, compile_net

WIDTHS = (8, 64, 512, 4096)


def compiled(n: NetSpec) -> CompiledNet:
    return compile_net(n, phase="TRAIN")


def inputs(batch: int, width: int) -> NetSpec:
    n = NetSpec()
    n.data = L.Input(shape={"dim": [batch, width]})
    n.label = L.Input(shape={"dim": [batch]})
    return n


def perceptron(*widths: int, batch: int = 16, relu: bool = True) -> NetSpec:
    """Inner products ip1, ip2, ... of these widths, with relu1, ... between them."""
    n = inputs(batch, widths[0])
    x: Any = n.data
    for i, width in enumerate(widths[1:], 1):
        n[f"ip{i}"] = x = L.InnerProduct(x, num_output=width)
        if relu and i < len(widths) - 1:
            n[f"relu{i}"] = x = L.ReLU(x, in_place=True)
    n.loss = L.SoftmaxWithLoss(x, n.label)
    return n


def branching(random: Random, batch: int) -> NetSpec:
    """Five inner products, each of which reads one of the last two values, or some joined; and a last one of all."""
    n = inputs(batch, random.choice(WIDTHS[:3]))
    values: list[Any] = [n.data]
    for i in range(5):
        x = random.choice(values[-2:])
        if len(values) > 2 and random.random() < 0.3:
            n[f"join{i}"] = x = L.Concat(*random.sample(values[1:], 2))
        n[f"ip{i}"] = x = L.InnerProduct(x, num_output=random.choice(WIDTHS[:3]))
        if random.random() < 0.5:
            n[f"relu{i}"] = x = L.ReLU(x, in_place=True)
        values.append(x)
    n.all = L.Concat(*values[1:])
    n.last = L.InnerProduct(n.all, num_output=8)
    n.loss = L.SoftmaxWithLoss(n.last, n.label)
    return n
