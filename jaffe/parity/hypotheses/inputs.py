"""What the net was fed: the order of the channels, mean and scale."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Array
from jaffe.parity.hypotheses.base import Suspect, Variation, hypothesis

FIRST = ("Convolution", "InnerProduct", "DepthwiseConvolution", "ConvolutionDepthwise")


@hypothesis(*FIRST, check="inputs: BGR, as Caffe's images are, or RGB?")
def channels_swapped(suspect: Suspect) -> Iterator[Variation]:
    """An image, or the weights of the first layer, with channels in RGB order rather than BGR."""
    x = suspect.bottoms[0]
    if suspect.reads_input and x.ndim == 4 and x.shape[1] == 3:
        yield Variation("the input's three channels come in the opposite order (RGB and BGR)",
                        suspect.with_bottom(lambda x: x[:, ::-1]))


@hypothesis(*FIRST, check="inputs: are mean and scale the same, the mean subtracted before scaling?")
def mean_and_scale(suspect: Suspect) -> Iterator[Variation]:
    """Another mean and scale of the input, found by least squares from what the layer should give.

    The layer is linear: ``target - bias = scale * f(x) + sum over channels c of shift[c] * f(ones in c)``, for
    ``f`` the layer without bias; there are far more equations than unknowns.
    """
    x = suspect.bottoms[0]
    if not suspect.reads_input or suspect.target is None or x.ndim != 4 or x.shape[1] > 4:
        return
    for order, flip in (("", False), (", its channels in the opposite order", True)):
        given = x[:, ::-1] if flip else x
        found = _fit(suspect, given)
        if found is None or (flip and x.shape[1] == 1):
            continue
        scale, shift = found
        if abs(scale) < 1e-6 or (abs(scale - 1) < 1e-5 and np.all(np.abs(shift) < 1e-5)):
            continue
        if np.all(np.abs(shift) < 1e-4 * abs(scale) * float(jnp.abs(x).max())):
            shift = np.zeros_like(shift)
        mean = -shift / scale
        words = f"the input is multiplied by {_number(scale)}" if abs(scale - 1) > 1e-4 else "the input is as given"
        if shift.any():
            words += f" after a mean of ({', '.join(f'{value:.4g}' for value in mean)}) is subtracted"

        def change(x: Array, scale: float = scale, shift: np.ndarray = shift, flip: bool = flip) -> Array:
            return (x[:, ::-1] if flip else x) * scale + shift.astype(x.dtype).reshape(-1, 1, 1)

        yield Variation(words + order, suspect.with_bottom(change))


def _fit(suspect: Suspect, x: Array) -> tuple[float, np.ndarray] | None:
    """The scale and the shift of each channel that come nearest to the target; ``None`` with too few equations."""
    weights = dict(suspect.weights)
    bias = weights.get("bias")
    if bias is not None:
        weights["bias"] = jnp.zeros_like(bias)
    zero = suspect.function(suspect.weights, [jnp.zeros_like(x)])[0]
    planes = [jnp.zeros_like(x).at[:, c].set(1) for c in range(x.shape[1])]
    columns = [np.asarray(suspect.function(weights, [one])[0], np.float64) for one in (x, *planes)]
    assert suspect.target is not None
    if suspect.target.shape != columns[0].shape:
        return None
    where = np.ones(suspect.target.shape, bool) if suspect.where is None else suspect.where
    matrix = np.stack([column[where] for column in columns], 1)
    if len(matrix) < 8 * matrix.shape[1]:
        return None
    size = np.abs(matrix).max(0)
    solution = np.linalg.lstsq(matrix / np.where(size > 0, size, 1),
                               (suspect.target - np.asarray(zero, np.float64))[where], rcond=None)[0]
    solution = solution / np.where(size > 0, size, 1)
    return float(solution[0]), solution[1:]


def _number(scale: float) -> str:
    """As a number, and as one over a whole number where it is one."""
    whole = round(1 / scale)
    inverse = whole > 1 and abs(1 / scale - whole) < 1e-4 * whole
    return f"{scale:.4g}" + (f" (1/{whole})" if inverse else "")
