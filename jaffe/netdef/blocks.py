"""Building blocks: functions of tops that return tops, for nets written with ``NetSpec``."""

from __future__ import annotations

from typing import Any

from jaffe.netdef.builder import L, Top


def learned(lr: tuple[float, ...] = (1, 2), decay: tuple[float, ...] = (1, 0)) -> list[dict[str, float]]:
    """Caffe's usual multipliers: biases learn twice as fast and do not decay."""
    return [{"lr_mult": rate, "decay_mult": weight} for rate, weight in zip(lr, decay, strict=True)]


def conv_relu(bottom: Top, num_output: int, kernel_size: int, **settings: Any) -> Top:
    """Convolution followed by an in-place ReLU."""
    return L.ReLU(L.Convolution(bottom, num_output=num_output, kernel_size=kernel_size, **settings), in_place=True)


def conv_bn_relu(bottom: Top, num_output: int, kernel_size: int, **settings: Any) -> Top:
    """Convolution without bias, BatchNorm, Scale with bias, ReLU; all but the first in place."""
    conv = L.Convolution(bottom, num_output=num_output, kernel_size=kernel_size, bias_term=False, **settings)
    normal = L.BatchNorm(conv, in_place=True)
    return L.ReLU(L.Scale(normal, bias_term=True, in_place=True), in_place=True)


def fc_relu(bottom: Top, num_output: int, **settings: Any) -> Top:
    """InnerProduct followed by an in-place ReLU."""
    return L.ReLU(L.InnerProduct(bottom, num_output=num_output, **settings), in_place=True)


def max_pool(bottom: Top, kernel_size: int = 2, stride: int = 2, **settings: Any) -> Top:
    """Max pooling."""
    return L.Pooling(bottom, pool="MAX", kernel_size=kernel_size, stride=stride, **settings)


def ave_pool(bottom: Top, kernel_size: int = 2, stride: int = 2, **settings: Any) -> Top:
    """Average pooling."""
    return L.Pooling(bottom, pool="AVE", kernel_size=kernel_size, stride=stride, **settings)
