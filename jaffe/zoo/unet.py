"""U-Net, for classes of pixels and for a number at each: segmentation, depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import published
from jaffe.zoo.parts import MSRA, TEST, XAVIER, inputs, normalise
from jaffe.zoo.segmentation import label_maps


@published(
    title="U-Net", task="segmentation",
    paper="Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597); the authors' phseg_v5",
    input="572x572, grey; others: 16 k + 12 to a side, or padded 16 k",
)
def unet(
    *, classes: int = 2, shape: Sequence[int] = (1, 572, 572), width: int = 64, depth: int = 4, padded: bool = False,
    normalised: bool = False, dropout: float = 0.5, ignore_label: int | None = None, batch: int = 1,
    test_batch: int = 1, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """U-Net: convolutions and pools down, up-convolutions up, where each level goes on from its first half too.

    ``data`` (batch, C, H, W), ``label`` (batch, H', W'). Without padding, as published, convolutions take off what is
    at the edges: 572 pixels give the classes of 388.

    Args:
        shape: (C, H, W) of the images.
        width: channels of the first level; each further one has twice as many.
        depth: pools.
        padded: convolutions keep the size, a multiple of 2^depth.
        normalised: batch normalisation before each ReLU, with statistics of the last 20 or so batches.
        dropout: of the two lowest levels.
        ignore_label: of pixels that do not count; the authors' is 2.
    """
    n = NetSpec("U-Net")
    sides = [_left(side, depth, padded) for side in shape[1:]]
    inputs(n, batch, test_batch, {"data": shape, "label": sides}, transform)
    x = _trunk(n, n.data, width, depth, padded=padded, normalised=normalised, dropout=dropout)
    n.score = L.Convolution(x, name="conv_u0d-score", num_output=classes, kernel_size=1, param=learned(),
                            weight_filler=XAVIER)
    label_maps(n, n.score, ignore_label)
    return n


@published(
    title="U-Net for depth", task="regression",
    paper="Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597), with a squared error as Eigen, Puhrsch, Fergus 2014 "
          "(arXiv 1406.2283) compare depth maps",
    input="64x64, BGR, 0 to 255 scaled to [0, 1]; others: 16 k to a side",
)
def depth_unet(
    *, shape: Sequence[int] = (3, 64, 64), width: int = 16, batch: int = 16, test_batch: int = 50,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """A number for every pixel, such as its depth: a padded, normalised U-Net with four pools and one output.

    ``data`` (batch, C, H, W), ``depth`` (batch, 1, H, W), positive. The loss is the mean of squared errors, halved. In
    phase TEST ``relative_error`` is the mean of |found - depth| / depth. No published net: a small one to train here.

    Args:
        shape: (C, H, W) of the images, H and W multiples of 16.
        width: channels of the first level; each further one has twice as many.
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
    n = NetSpec("DepthU-Net")
    inputs(n, batch, test_batch, {"data": shape, "depth": (1, *shape[1:])}, transform)
    x = _trunk(n, n.data, width, 4, padded=True, normalised=True, dropout=0)
    n.found = L.Convolution(x, num_output=1, kernel_size=1, param=learned(), weight_filler=XAVIER)
    n.loss = L.EuclideanLoss(n.found, n.depth, loss_weight=1 / (shape[1] * shape[2]))
    n.off = L.AbsVal(L.Eltwise(n.found, n.depth, operation="SUM", coeff=[1, -1], include=TEST), include=TEST)
    n.share = L.Eltwise(n.off, L.Power(n.depth, power=-1, include=TEST), operation="PROD", include=TEST)
    n.relative_error = L.Reduction(n.share, operation="MEAN", include=TEST)
    return n


def _left(side: int, depth: int, padded: bool) -> int:
    """Pixels to a side of the scores."""
    return side if padded else side + 8 - 12 * 2**depth


def _trunk(
    n: NetSpec, bottom: Top, width: int, depth: int, *, padded: bool, normalised: bool, dropout: float
) -> Top:
    """All but the scores: (N, C, H, W) -> (N, width, H', W'). Names are those of the authors' file: ``d`` is down,
    ``u`` is up, with the level behind it."""
    pad = int(padded)

    def convolution(name: str, top: str, bottom: Top, num_output: int) -> Top:
        x = L.Convolution(bottom, name=f"conv_{name}", num_output=num_output, kernel_size=3, pad=pad, param=learned(),
                          weight_filler=MSRA)
        n[top] = x
        if normalised:
            x = normalise(n, f"bn_{top}", f"scale_{top}", x, moving_average_fraction=0.95)
        n[f"relu_{top}"] = L.ReLU(x, in_place=True)
        return n[f"relu_{top}"]

    x, kept = bottom, []
    for level in range(depth + 1):
        for a, b in ("ab", "bc"):
            x = convolution(f"d{level}{a}-{b}", f"d{level}{b}", x, width << level)
        if dropout and level >= depth - 1:
            n[f"dropout_d{level}c"] = x = L.Dropout(x, dropout_ratio=dropout, in_place=True)
        kept.append(x)
        if level < depth:
            n[f"d{level + 1}a"] = x = L.Pooling(x, name=f"pool_d{level}c-{level + 1}a", pool="MAX", kernel_size=2,
                                                stride=2)
    for level in range(depth - 1, -1, -1):
        below, up = ("d" if level == depth - 1 else "u"), f"u{level}"
        # The authors' last one has twice the channels of its level, the others as many.
        channels = width << max(level, 1)
        name = f"upconv_{below}{level + 1}{'c' if below == 'd' else 'd'}_u{level}a"
        n[f"{up}a"] = x = L.Deconvolution(x, name=name, param=learned(), convolution_param={
            "num_output": channels, "kernel_size": 2, "stride": 2, "weight_filler": MSRA})
        n[f"relu_{up}a"] = x = L.ReLU(x, in_place=True)
        side = kept[level]
        if not padded:
            middle = 6 * 2 ** (depth - level) - 8
            n[f"d{level}cc"] = side = L.Crop(side, x, name=f"crop_d{level}c-d{level}cc", axis=2, offset=[middle])
        n[f"{up}b"] = x = L.Concat(x, side, name=f"concat_d{level}cc_u{level}a-b")
        for a, b in ("bc", "cd"):
            x = convolution(f"{up}{a}-{b}", f"{up}{b}", x, width << level)
    return x
