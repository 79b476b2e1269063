"""Layers in plain NumPy loops, with settings that Caffe does not have: what wrong conversions compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(x, weight, bias, stride: int = 1, pads: Pads = ((0, 0), (0, 0)), dilation: int = 1) -> np.ndarray:
    """Cross-correlation, (N, C, H, W) with (O, C, h, w)."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), *pads))
    reach = [dilation * (k - 1) + 1 for k in weight.shape[2:]]
    rows = range(0, x.shape[2] - reach[0] + 1, stride)
    columns = range(0, x.shape[3] - reach[1] + 1, stride)
    windows = [[x[:, :, i : i + reach[0] : dilation, j : j + reach[1] : dilation] for j in columns] for i in rows]
    y = np.array([[np.einsum("nchw,ochw->no", window, weight) for window in row] for row in windows])
    return y.transpose(2, 3, 0, 1) + np.reshape(bias, (-1, 1, 1))


def transposed(x, weight, bias, stride: int) -> np.ndarray:
    """Transposed convolution without padding, (N, C, H, W) with (C, O, h, w)."""
    n, _, rows, columns = x.shape
    h, w = weight.shape[2:]
    y = np.zeros((n, weight.shape[1], stride * (rows - 1) + h, stride * (columns - 1) + w))
    for i in range(rows):
        for j in range(columns):
            y[:, :, i * stride : i * stride + h, j * stride : j * stride + w] += np.einsum(
                "nc,cohw->nohw", x[:, :, i, j], weight)
    return y + np.reshape(bias, (-1, 1, 1))


def pool(
    x, kernel: int, stride: int, pad: int, outs: Sequence[int], reduce: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Windows over the image padded with NaN; ``reduce(window, beyond)`` over its last axis.

    ``beyond``: how many of the window's NaN lie beyond the padding.
    """
    size = x.shape[2:]
    far = [max((out - 1) * stride + kernel - pad - n, pad) for out, n in zip(outs, size, strict=True)]
    marked = np.full((*x.shape[:2], *(pad + n + f for n, f in zip(size, far, strict=True))), np.inf)
    marked[:, :, : size[0] + 2 * pad, : size[1] + 2 * pad] = np.nan
    marked[:, :, pad : pad + size[0], pad : pad + size[1]] = x
    y = np.zeros((*x.shape[:2], *outs))
    for i in range(outs[0]):
        for j in range(outs[1]):
            window = marked[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            window = window.reshape(*x.shape[:2], -1)
            beyond = int(np.isinf(window[0, 0]).sum())
            y[:, :, i, j] = reduce(np.where(np.isinf(window), np.nan, window), beyond)
    return y
