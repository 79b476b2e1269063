"""Small nets whose insides are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaffe import compile_net
from jaffe.compile import CompiledNet
from jaffe.netdef import L, NetSpec

SHAPE = (2, 3, 6, 5)
CLASSES = 4


def linear(**transform: Any) -> tuple[CompiledNet, Any, np.ndarray]:
    """Scores that are linear in the image, behind a Softmax; the variables; the weights (classes, C, H, W)."""
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=SHAPE), **({"transform_param": transform} if transform else {}))
    n.fc = L.InnerProduct(n.data, num_output=CLASSES)
    n.prob = L.Softmax(n.fc)
    weight = np.random.default_rng(0).normal(size=(CLASSES, *SHAPE[1:])).astype(np.float32)
    variables = {"params": {"fc": {"weight": weight.reshape(CLASSES, -1), "bias": np.ones(CLASSES, np.float32)}}}
    return compile_net(n, phase="TEST"), variables, weight


def image(seed: int = 1, items: int = SHAPE[0]) -> np.ndarray:
    """Inputs for it."""
    return np.random.default_rng(seed).normal(size=(items, *SHAPE[1:])).astype(np.float32)


def small() -> NetSpec:
    """Convolution, ReLU in place, pooling, scores; a loss and an accuracy against labels."""
    n = NetSpec("small")
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[2, 3, 12, 12]), dict(dim=[2])])
    n.conv = L.Convolution(n.data, num_output=5, kernel_size=3, weight_filler=dict(type="msra"))
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, pool="AVE", kernel_size=2, stride=2)
    n.fc = L.InnerProduct(n.pool, num_output=CLASSES, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.fc, n.label)
    n.loss = L.SoftmaxWithLoss(n.fc, n.label)
    return n
