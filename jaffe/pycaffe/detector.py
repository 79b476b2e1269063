"""Detector: scores of windows in images, as R-CNN has them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.source import Spec
from jaffe.pycaffe.images import ImageNet
from jaffe.pycaffe.io import load_image, resize_image
from jaffe.pycaffe.net import Path_


class Detector(ImageNet):
    """Scores windows of images, each warped to the net's input, as ``caffe.Detector`` of pycaffe.

    Args:
        model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap, python_modules: as
            ``jaffe.Classifier`` has them.
        context_pad: pixels of the input's border that show what is around the window, and the mean where the image
            ends; ``None`` or 0 for none. For square inputs.

    Raises:
        SpecError, JaffeError: as ``jaffe.Classifier``.
    """

    def __init__(
        self,
        model_file: Spec,
        pretrained_file: Path_ | None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
        python_modules: Sequence[str] = (),
    ):
        super().__init__(model_file, pretrained_file, None, mean, input_scale, raw_scale, channel_swap, python_modules)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set ``context_pad``, and ``crop_mean``: the mean as it is in images, what stands where an image ends."""
        in_ = self.inputs[0]
        _, channels, height, width = self.blobs[in_].shape
        if context_pad and not (height == width and 0 < 2 * context_pad < width):
            raise JaffeError(f"context_pad is for square inputs, and less than half their size; received "
                             f"{context_pad} for {(height, width)}")
        self.context_pad = context_pad
        # What preprocess makes 0 of.
        self.crop_mean = self.transformer.deprocess(in_, np.zeros((channels, height, width), np.float32))

    def detect_windows(self, images_windows: Iterable[tuple[Any, Iterable[Any]]]) -> list[dict[str, Any]]:
        """Scores of windows of images.

        Args:
            images_windows: for each image its path and its windows (ymin, xmin, ymax, xmax), in pixels.

        Returns:
            For each window a dict: ``window``, ``prediction`` (the net's first output) and ``filename``.

        Raises:
            JaffeError: an image cannot be read, or a window is not in it.
        """
        in_ = self.inputs[0]
        found: list[dict[str, Any]] = []
        items = []
        for filename, windows in images_windows:
            image = load_image(filename, color=self.blobs[in_].shape[1] == 3)
            for window in windows:
                items.append(self.transformer.preprocess(in_, self.crop(image, window)))
                found.append({"window": window, "prediction": None, "filename": filename})
        if not items:
            return []
        inputs: dict[str, Any] = {in_: np.stack(items)}
        scores = self.forward_all(**inputs)[self.outputs[0]]
        for one, score in zip(found, scores, strict=True):
            one["prediction"] = score
        return found

    def detect_selective_search(self, image_fnames: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
        """Raises JaffeError: pycaffe started a MATLAB package here. Give its windows to ``detect_windows``."""
        raise JaffeError("selective search is a MATLAB package that pycaffe started; expected windows of your own, as "
                         "OpenCV's cv2.ximgproc.segmentation finds them: detect_windows([(file, windows), ...])")

    def crop(self, im: np.ndarray, window: Any) -> np.ndarray:
        """The part of an image (H, W, K) in a window, with the context around it if ``context_pad`` is set.

        With context the result has the input's size: the window is enlarged so that it fills the input less
        ``context_pad`` on each side, and what is outside of the image has the mean's value. Source: R-CNN (Girshick et
        al. 2014), pycaffe's ``detector.py``.

        Raises:
            JaffeError: the window is empty or outside of the image.
        """
        try:
            top, left, bottom, right = (int(edge) for edge in np.asarray(window).ravel())
        except (TypeError, ValueError):
            raise JaffeError(f"a window is (ymin, xmin, ymax, xmax); received {window!r}") from None
        height, width = im.shape[:2]
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise JaffeError(f"window {(top, left, bottom, right)} is not in an image of {(height, width)}: expected "
                             "(ymin, xmin, ymax, xmax) in pixels")
        if not self.context_pad:
            return im[top:bottom, left:right]
        size = int(self.crop_dims[1])
        scale = size / (size - 2.0 * self.context_pad)
        halves = np.array([bottom - top + 1, right - left + 1]) / 2.0
        middle = np.array([top, left]) + halves
        low, high = np.round(middle - scale * halves), np.round(middle + scale * halves)
        zoom = size / (high - low + 1)
        pad = np.round(np.maximum(0, -low) * zoom).astype(int)
        low, high = (np.clip(edge, 0, [height, width]) for edge in (low, high))
        inner = np.minimum(np.round((high - low + 1) * zoom).astype(int), size - pad)
        part = im[int(low[0]) : int(high[0]), int(low[1]) : int(high[1])]
        crop = self.crop_mean.copy()
        crop[pad[0] : pad[0] + inner[0], pad[1] : pad[1] + inner[1]] = resize_image(part, inner)
        return crop
