"""Arrays made into pictures: grids of small ones, and inputs of a net back as images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaffe.compile.net import CompiledNet
from jaffe.compile.preprocess import mean_of
from jaffe.inspect.part import image_input
from jaffe.netdef.errors import JaffeError, suggest

SCALES = ("all", "each", "none")


def tile(
    arrays: Any, columns: int | None = None, *, gap: int = 1, scale: str = "all", colour: bool | None = None
) -> np.ndarray:
    """Small pictures side by side as one, white between them.

    Args:
        arrays: (K, h, w), or (K, h, w, 3) in RGB; or (N, C, h, w), of which each N gives a row, a single one a grid.
        columns: pictures in a row; by default as many as make the grid square.
        gap: pixels between pictures.
        scale: ``"all"``: the least value of all is black and the greatest white; ``"each"``: of each picture;
            ``"none"``: 0 and 1 are. What is not finite does not count; NaN stays.
        colour: whether the last of four axes is RGB; by default where it has length 3, but for (N, C, 3, 3) of other
            than 3 channels.

    Returns:
        (H, W) or (H, W, 3), in [0, 1].

    Raises:
        JaffeError: the array has other axes, or an argument is wrong.
    """
    x = np.asarray(arrays, np.float32)
    if scale not in SCALES:
        raise JaffeError(f"scale is one of {', '.join(SCALES)}; received {scale!r}{suggest(str(scale), SCALES)}")
    if colour is None:
        colour = x.ndim == 4 and x.shape[3] == 3 and (x.shape[2] != 3 or x.shape[1] == 3)
    if x.ndim == 4 and not colour:
        columns = x.shape[1] if columns is None and len(x) > 1 else columns
        x = x.reshape(-1, *x.shape[2:])
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] != 3) or 0 in x.shape:
        raise JaffeError(f"expected pictures (K, h, w), (K, h, w, 3) or (N, C, h, w); received shape {x.shape}")
    if scale != "none":
        axes = tuple(range(1 if scale == "each" else 0, x.ndim))
        finite = np.isfinite(x)
        low, high = (x.min(axes, keepdims=True, where=finite, initial=np.inf),
                     x.max(axes, keepdims=True, where=finite, initial=-np.inf))
        low[low > high] = 0  # none is finite
        x = (x - low) / np.where(high > low, high - low, 1)
    x = x.clip(0, 1)
    columns = columns or math.ceil(math.sqrt(len(x)))
    rows = -(-len(x) // columns)
    count, height, width = x.shape[:3]
    sheet = np.ones((rows, height + gap, columns, width + gap, *x.shape[3:]), np.float32)
    places = np.arange(count)
    sheet[places // columns, :height, places % columns, :width] = x
    joined = sheet.reshape(rows * (height + gap), columns * (width + gap), *x.shape[3:])
    return joined[: joined.shape[0] - gap, : joined.shape[1] - gap]


def deprocess(
    net: CompiledNet, images: Any, *, input: str | None = None, order: str = "BGR",  # noqa: A002  the net's word
) -> np.ndarray:
    """Inputs of a net as images to look at: what ``net.preprocess`` did to values and channels, undone.

    Args:
        images: (N, C, H, W), as the net reads them; C is 1 or 3.
        input: the input's name, where several are images.
        order: ``"BGR"`` or ``"RGB"``: what the net's three colours are.

    Returns:
        (N, H, W, 3) in RGB or (N, H, W), as ``transform_param`` says: ``x / scale + mean``, not rounded or clipped. Of
        a mean image the mean colour is added.

    Raises:
        JaffeError: the array has other axes; or ``mean_file`` cannot be read.
    """
    x = np.asarray(images, np.float32)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise JaffeError(f"expected images (N, C, H, W) of 1 or 3 channels; received shape {x.shape}")
    if order not in ("RGB", "BGR"):
        raise JaffeError(f"order is 'RGB' or 'BGR'; received {order!r}")
    scale, mean = pixel_scale(net, image_input(net, input), x.shape[1])
    x = x / scale + mean
    return x[:, 0] if x.shape[1] == 1 else x[:, :: -1 if order == "BGR" else 1].transpose(0, 2, 3, 1)


def pixel_scale(net: CompiledNet, name: str, channels: int) -> tuple[float, np.ndarray]:
    """What pixels less their mean are multiplied by, and the mean colour, (C or 1, 1, 1)."""
    node = next(node for node in net.graph.nodes if name in node.tops)
    mean = mean_of(node, channels, node.directory)
    colour = np.zeros((1, 1, 1), np.float32) if mean is None else mean.mean(axis=(1, 2), keepdims=True)
    return node.proto.transform_param.scale, colour
