"""Maxout nets. Source: Goodfellow et al. 2013 (arXiv 1302.4389), with the sizes of pylearn2's ``papers/maxout``.

There a column of weights may not grow longer than a bound; weight decay takes its place here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, images

_PAPER = "Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013 (arXiv 1302.4389), Maxout networks"
_SOURCE = "MNIST; README of pylearn2's papers/maxout"


@published(title="Maxout", task="classification", paper=_PAPER, input="28x28, grey, scaled to [0, 1]",
           accuracy=[Figure("0.94 % errors", _SOURCE)])
def maxout(
    *, classes: int = 10, units: int = 240, pieces: int = 5, batch: int = 100, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Two layers of maxout units, each the greatest of five linear functions, with Dropout before each layer, the
    pixels too; 1,233,610 parameters by default. It does not know which pixels are neighbours.

    Args:
        units: of each layer.
        pieces: linear functions of each unit.
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
    n = NetSpec("Maxout")
    images(n, (1, 28, 28), batch, test_batch, transform)
    x = n.dropped = L.Dropout(n.data, dropout_ratio=0.2)
    for i in range(2):
        n[f"ip{i}"] = L.InnerProduct(x, num_output=units * pieces, **_weights("xavier"))
        n[f"h{i}"] = x = L.Maxout(n[f"ip{i}"], pieces=pieces)
        n[f"drop{i}"] = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.y = L.InnerProduct(x, num_output=classes, **_weights("xavier"))
    classify(n, n.y)
    return n


@published(title="Convolutional maxout", task="classification", paper=_PAPER, input="28x28, grey, scaled to [0, 1]",
           accuracy=[Figure("0.45 % errors", _SOURCE)])
def maxout_conv(
    *, classes: int = 10, width: float = 1, batch: int = 128, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Three convolutions with maxout across maps and max pooling, Dropout before each layer, the pixels too; 418,714
    parameters by default.

    Args:
        width: share of the maps that each layer has.
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
    n = NetSpec("MaxoutConv")
    images(n, (1, 28, 28), batch, test_batch, transform)
    x = n.dropped = L.Dropout(n.data, dropout_ratio=0.2)
    for i, (maps, pieces, size, pad, pool) in enumerate([(48, 2, 8, 0, 4), (48, 2, 8, 3, 4), (24, 4, 5, 3, 2)]):
        n[f"conv{i}"] = L.Convolution(x, num_output=max(1, round(width * maps)) * pieces, kernel_size=size, pad=pad,
                                      **_weights("msra"))
        n[f"h{i}"] = L.Maxout(n[f"conv{i}"], pieces=pieces)
        n[f"pool{i}"] = max_pool(n[f"h{i}"], kernel_size=pool)
        n[f"drop{i}"] = x = L.Dropout(n[f"pool{i}"], dropout_ratio=0.5, in_place=True)
    n.y = L.InnerProduct(x, num_output=classes, **_weights("xavier"))
    classify(n, n.y)
    return n


def _weights(filler: str) -> dict[str, Any]:
    return {"param": learned(lr=(1, 1)), "weight_filler": {"type": filler}}
