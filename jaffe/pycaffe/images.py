"""Nets that are given images: what Classifier, Detector and FeatureExtractor have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.means import read_mean
from jaffe.netdef.source import Spec
from jaffe.pycaffe.io import load_image, oversample, resize_image
from jaffe.pycaffe.net import TEST, Net, Path_
from jaffe.pycaffe.transformer import Transformer


class ImageNet(Net):
    """A net of phase TEST whose first input is images, with the preprocessing that pycaffe's classes share.

    Args:
        image_dims: (height, width) that images are resized to before they are cropped to the input's size; by default
            the input's own.
        mean: one value a channel, an array (K, H, W), or the path of an ``.npy`` or ``.binaryproto`` file; of the
            channels' order and range of the input.
        input_scale, raw_scale, channel_swap: as ``Transformer`` has them.

    Attributes:
        transformer: the preprocessing, from (H, W, K) to (K, H, W).
        crop_dims: height and width of the input.
    """

    def __init__(
        self,
        model_file: Spec,
        pretrained_file: Path_ | None,
        image_dims: Sequence[int] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        python_modules: Sequence[str] = (),
    ):
        super().__init__(model_file, TEST, weights=pretrained_file, python_modules=python_modules)
        if not self.inputs or len(shape := self.blobs[self.inputs[0]].shape) != 4:
            found = self.blobs[self.inputs[0]].shape if self.inputs else "none"
            raise JaffeError(f"expected a net whose first input is images (N, K, H, W), a deploy.prototxt; found "
                             f"{found}")
        self.crop_dims = np.array(shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)
        if self.image_dims.shape != (2,) or (self.image_dims < self.crop_dims).any():
            raise JaffeError(f"image_dims is (height, width), at least the input's, {shape[2:]}; received "
                             f"{image_dims!r}")
        in_ = self.inputs[0]
        self.transformer = Transformer({in_: shape})
        self.transformer.set_transpose(in_, (2, 0, 1))
        if mean is not None:
            self.transformer.set_mean(in_, read_mean(mean) if isinstance(mean, (str, os.PathLike)) else mean)
        if input_scale is not None:
            self.transformer.set_input_scale(in_, input_scale)
        if raw_scale is not None:
            self.transformer.set_raw_scale(in_, raw_scale)
        if channel_swap is not None:
            self.transformer.set_channel_swap(in_, channel_swap)

    def crops(self, images: Iterable[Any], ten: bool) -> Any:
        """Images, or paths of images, as items of the input: the middle of each, or its ten crops (``oversample``).

        Returns:
            (N, K, H, W), or (10 N, K, H, W).

        Raises:
            JaffeError: there are none, or one is no image (H, W, K) of the net's channels.
        """
        in_ = self.inputs[0]
        channels = self.blobs[in_].shape[1]
        resized = [resize_image(self._image(image, channels), self.image_dims) for image in images]
        if not resized:
            raise JaffeError("expected images; received none")
        if ten:
            parts: Any = oversample(resized, self.crop_dims)
        else:
            top, left = (int(n) for n in self.image_dims / 2.0 - self.crop_dims / 2.0)
            height, width = self.crop_dims
            parts = [image[top : top + height, left : left + width] for image in resized]
        return np.stack([self.transformer.preprocess(in_, part) for part in parts])

    def _image(self, image: Any, channels: int) -> np.ndarray:
        if isinstance(image, (str, os.PathLike)):
            image = load_image(image, color=channels == 3)
        found = np.asarray(image)
        if found.ndim != 3 or found.shape[2] != channels:
            raise JaffeError(f"expected images (H, W, {channels}), or their paths; received shape {found.shape}; "
                             "caffe.io.load_image gives such, with color=False for 1 channel")
        return found
