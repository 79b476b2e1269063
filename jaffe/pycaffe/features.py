"""FeatureExtractor: images in, blobs of a net out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError
from jaffe.netdef.source import Spec
from jaffe.pycaffe.images import ImageNet
from jaffe.pycaffe.net import Path_


class FeatureExtractor(ImageNet):
    """Gives what inner layers of a Caffe net make of images: features for other programs to learn from.

    >>> net = FeatureExtractor("deploy.prototxt", "net.caffemodel", "fc7", mean=[104, 117, 123],
    ...                        channel_swap=(2, 1, 0), raw_scale=255, image_dims=(256, 256))   # doctest: +SKIP
    >>> net.extract(paths)["fc7"].shape                                                        # doctest: +SKIP
    (1000, 4096)

    Layers behind those that are needed do not run. It is a ``jaffe.Net`` of phase TEST.

    Args:
        model: the net as it is used (a deploy.prototxt); its first input is images (N, K, H, W).
        weights: a file of its weights; ``None`` for none.
        blobs: names of the blobs wanted, or one name. Of a blob that layers write in place, its last version.
        image_dims, mean, input_scale, raw_scale, channel_swap, python_modules: as ``jaffe.Classifier`` has them.

    Raises:
        SpecError: a file is missing or damaged, or the net is wrong.
        JaffeError: there is no such blob, or one without an item for each image; or as ``jaffe.Classifier``.
    """

    def __init__(
        self,
        model: Spec,
        weights: Path_ | None,
        blobs: str | Sequence[str],
        image_dims: Sequence[int] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        python_modules: Sequence[str] = (),
    ):
        super().__init__(model, weights, image_dims, mean, input_scale, raw_scale, channel_swap, python_modules)
        self.features = [blobs] if isinstance(blobs, str) else list(blobs)
        if not self.features:
            raise JaffeError("expected names of blobs; received none")
        batch = self.blobs[self.inputs[0]].shape[0]
        for name in self.features:
            if self.blobs[name].shape[:1] != (batch,):
                raise JaffeError(f"blob {name!r} of shape {self.blobs[name].shape} has no item for each of {batch} "
                                 "images")
        self._last = self._layer_names[max(self._machine.parts.writer[self._machine.parts.net.graph.blobs[name]]
                                           for name in self.features)]

    def extract(self, images: Iterable[Any], oversample: bool = False) -> dict[str, np.ndarray]:
        """The blobs of any number of images, which are run in batches of the net's batch size.

        Args:
            images: (H, W, K) each, as ``caffe.io.load_image`` gives them, or their paths. A path or an image alone
                counts as one.
            oversample: of ten crops of each image (see ``caffe.io.oversample``), else of its middle.

        Returns:
            For each blob (N, ...), or (N, 10, ...) with ``oversample``; float32.

        Raises:
            JaffeError: an image does not fit the net.
        """
        alone = isinstance(images, (str, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim == 3)
        inputs = self.crops([images] if alone else images, oversample)
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.features}
        for batch in self._batch({self.inputs[0]: inputs}):
            self.blobs[self.inputs[0]].data[...] = batch[self.inputs[0]]
            self.forward(end=self._last)
            for name, batches in found.items():
                batches.append(self.blobs[name].data.copy())
        features = {name: np.concatenate(batches)[: len(inputs)] for name, batches in found.items()}
        return {name: array.reshape(-1, 10, *array.shape[1:]) if oversample else array
                for name, array in features.items()}
