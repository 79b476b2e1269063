"""Pooling: rounding, divisor, padding, method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Array
from jaffe.netdef.jaffe_pb2 import LayerParameter, PoolingParameter
from jaffe.parity.hypotheses.base import Suspect, Variation, edits, hypothesis
from jaffe.parity.walk import Function, Weights


@hypothesis("Pooling", check="pooling: is the size rounded up, as Caffe does, or down?")
def pool_rounding(suspect: Suspect) -> Iterator[Variation]:
    """Sizes rounded down where the net rounds up, or the other way."""
    shape = suspect.bottoms[0].shape
    now = suspect.layer.shapes([shape])[0]

    def turn(mode: int) -> Function:
        def edit(proto: LayerParameter) -> None:
            proto.pooling_param.ClearField("ceil_mode")
            proto.pooling_param.round_mode = mode  # type: ignore[assignment]

        return suspect.edited(edit)

    for mode, word in ((PoolingParameter.FLOOR, "down"), (PoolingParameter.CEIL, "up")):
        function = turn(mode)
        if function(suspect.weights, suspect.bottoms)[0].shape != now:
            yield Variation(f"the pooled size is rounded {word}", function)


@hypothesis("Pooling", check="average pooling: does the divisor count the padding, as in Caffe?")
def pool_divisor(suspect: Suspect) -> Iterator[Variation]:
    """Average pooling that divides by another count than Caffe's: cells of the window within the padded image."""
    if suspect.p.pool != PoolingParameter.AVE:
        return

    def image_only(weights: Weights, bottoms: Sequence[Array]) -> Sequence[Array]:
        averages = suspect.function(weights, bottoms)[0]
        return [averages / suspect.function(weights, [jnp.ones_like(bottoms[0])])[0]]

    yield Variation("the average's divisor does not count the padding", image_only)

    def whole_window(weights: Weights, bottoms: Sequence[Array]) -> Sequence[Array]:
        averages = suspect.function(weights, bottoms)[0]
        return [averages * _share_of_window(suspect, bottoms[0].shape)]

    yield Variation("the average's divisor is the whole window, also beyond the padding", whole_window)


def _share_of_window(suspect: Suspect, shape: tuple[int, ...]) -> np.ndarray:
    """Caffe's divisor over the cells of the kernel, one an output."""
    geometry = suspect.layer.geometry(shape)  # type: ignore[attr-defined]
    height, width = (geometry.divisors(size, axis) for axis, size in enumerate(shape[2:]))
    return (np.outer(height, width) / math.prod(geometry.kernel)).astype(suspect.dtype)


@hypothesis("Pooling", check="max pooling: is the padding left out of the maximum?")
def pool_padding(suspect: Suspect) -> Iterator[Variation]:
    """Maximum pooling over an image padded with zeros, which win over negative values."""
    if suspect.p.pool != PoolingParameter.MAX:
        return
    geometry = suspect.layer.geometry(suspect.bottoms[0].shape)  # type: ignore[attr-defined]
    pads = ((0, 0), (0, 0), *geometry.pad)
    if not any(map(any, pads)):
        return

    def edit(proto: LayerParameter) -> None:
        for field in ("pad", "pad_h", "pad_w", "pad_l", "pad_r", "pad_t", "pad_b"):
            proto.pooling_param.ClearField(field)

    plain = suspect.edited(edit)
    yield Variation("the maximum counts the padding as zeros",
                    lambda weights, bottoms: plain(weights, [jnp.pad(bottoms[0], pads)]))


@hypothesis("Pooling")
def pool_method(suspect: Suspect) -> Iterator[Variation]:
    """Maximum in place of average, or the other way."""
    other = PoolingParameter.AVE if suspect.p.pool == PoolingParameter.MAX else PoolingParameter.MAX

    def edit(proto: LayerParameter) -> None:
        proto.pooling_param.pool = other

    name = "an average" if other == PoolingParameter.AVE else "a maximum"
    yield from edits(suspect, {f"the pool is {name}": edit})
