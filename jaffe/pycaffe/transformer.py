"""Images into the input of a net and back: ``caffe.io.Transformer`` and ``caffe.io.resize_image`` of pycaffe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError, suggest


def resize_image(im: Any, new_dims: Any, interp_order: int = 1) -> np.ndarray:
    """An image (H, W, K) resized to (height, width), float32; linear, or a spline of order 0 to 5.

    The image is sampled at the middles of the new pixels, without smoothing where it shrinks, and counts as having its
    least value beyond its edges: this is what pycaffe did of images of 1 or 3 channels with scikit-image before its
    0.15 (``anti_aliasing=False, mode="constant"`` since). Others are zoomed from corner to corner, as there.

    Raises:
        JaffeError: it is no image, or the sizes are not two positive numbers.
    """
    from scipy import ndimage

    image = np.asarray(im)
    size = tuple(int(n) for n in np.asarray(new_dims).ravel())
    if image.ndim != 3 or 0 in image.shape or image.dtype.kind not in "fiub":
        raise JaffeError(f"resize_image takes an image (H, W, K) of numbers; received {image.dtype} {image.shape}")
    if len(size) != 2 or min(size) < 1:
        raise JaffeError(f"an image is resized to (height, width); received {new_dims!r}")
    image = image.astype(np.float64)
    zoom = (size[0] / image.shape[0], size[1] / image.shape[1], 1)
    if image.shape[2] not in (1, 3):
        return ndimage.zoom(image, zoom, order=interp_order).astype(np.float32)
    low, high = image.min(), image.max()
    if low == high:
        return np.full((*size, image.shape[2]), low, np.float32)
    resized = ndimage.zoom(image, zoom, order=interp_order, mode="grid-constant", cval=low, grid_mode=True)
    return np.clip(resized, low, high).astype(np.float32)


class Transformer:
    """Images into the input of a net: resize, transpose, swap channels, scale, subtract the mean, scale again.

    ``(swap(transpose(resize(image))) * raw_scale - mean) * input_scale``; what is not set is left out. For a net that
    was trained on images that OpenCV read, and images of ``load_image``:

    >>> transformer = Transformer({"data": (10, 3, 227, 227)})
    >>> transformer.set_transpose("data", (2, 0, 1))        # to (channels, height, width)
    >>> transformer.set_mean("data", np.array([104, 117, 123]))
    >>> transformer.set_raw_scale("data", 255)              # from [0, 1] to [0, 255]
    >>> transformer.set_channel_swap("data", (2, 1, 0))     # from RGB to BGR
    >>> transformer.preprocess("data", np.ones((300, 400, 3))).shape
    (3, 227, 227)

    Args:
        inputs: the shape of each input of the net, by name.

    Attributes:
        inputs, transpose, channel_swap, raw_scale, mean, input_scale: what is set, by name of the input.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: Any) -> np.ndarray:
        """An image (H, W, K) as one item of the input, float32; a copy.

        Raises:
            JaffeError: the net has no such input, or the image does not fit what is set.
        """
        shape = self._shape(in_)
        try:
            image = np.array(data, np.float32)
        except (TypeError, ValueError):
            raise JaffeError(f"input {in_!r}: expected an image of numbers; received {type(data).__name__}") from None
        if image.ndim < 2:
            raise JaffeError(f"input {in_!r}: expected an image (H, W, K); received shape {image.shape}")
        if image.shape[:2] != shape[2:]:
            image = resize_image(image, shape[2:])
        try:
            if in_ in self.transpose:
                image = image.transpose(self.transpose[in_])
            if in_ in self.channel_swap:
                image = image[list(self.channel_swap[in_])]
            if in_ in self.raw_scale:
                image *= self.raw_scale[in_]
            if in_ in self.mean:
                image -= self.mean[in_]
        except (ValueError, IndexError) as error:
            raise JaffeError(f"input {in_!r}: the image of shape {np.shape(data)} does not fit: {error}; expected an "
                             f"image that becomes {shape[1:]}") from None
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: Any) -> np.ndarray:
        """The image of an item of the input: what ``preprocess`` did, undone, except the resizing."""
        shape = self._shape(in_)
        image = np.array(data, np.float32)
        if image.ndim == len(shape) and len(image) == 1:
            image = image[0]
        if image.ndim != len(shape) - 1:
            raise JaffeError(f"input {in_!r}: expected one item, such as {shape[1:]}; received shape {image.shape}")
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of the image's axes in the input: (2, 0, 1) of (H, W, K) makes (K, H, W)."""
        self.transpose[in_] = self._permutation(in_, order, len(self._shape(in_)) - 1, "axes")

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of the channels: (2, 1, 0) makes BGR of RGB."""
        self.channel_swap[in_] = self._permutation(in_, order, self._shape(in_)[1], "channels")

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is subtracted: 255 where images are in [0, 1] and the mean in [0, 255]."""
        self.raw_scale[in_] = self._factor(in_, scale)

    def set_mean(self, in_: str, mean: Any) -> None:
        """What is subtracted, after swap and raw scale: one value a channel, or an image (K, H, W), which is resized
        to the input's size.

        Raises:
            JaffeError: its channels are not the input's.
        """
        shape = self._shape(in_)
        mean = np.array(mean, np.float32)
        if mean.ndim == 1:
            mean = mean[:, None, None]
        elif mean.ndim == 2:
            mean = mean[None]
        if mean.ndim != 3 or mean.shape[0] not in (1, shape[1]) or (mean.size == 1 and shape[1] != 1):
            raise JaffeError(f"the mean of input {in_!r} is ({shape[1]},) or ({shape[1]}, height, width); received "
                             f"shape {mean.shape}")
        if mean.shape[1:] not in ((1, 1), shape[2:]):
            mean = resize_image(mean.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after the mean is subtracted."""
        self.input_scale[in_] = self._factor(in_, scale)

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise JaffeError(f"{in_!r} is none of the inputs {', '.join(self.inputs)}{suggest(in_, self.inputs)}")
        return self.inputs[in_]

    def _factor(self, in_: str, scale: Any) -> float:
        self._shape(in_)
        try:
            return float(scale)
        except (TypeError, ValueError):
            raise JaffeError(f"a scale of input {in_!r} is a number; received {scale!r}") from None

    def _permutation(self, in_: str, order: Sequence[int], count: int, what: str) -> tuple[int, ...]:
        try:
            result = tuple(int(i) for i in order)
        except (TypeError, ValueError):
            result = ()
        if sorted(result) != list(range(count)):
            raise JaffeError(f"input {in_!r} has {count} {what}: expected an order of 0 to {count - 1}; "
                             f"received {order!r}")
        return result
