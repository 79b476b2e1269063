"""Classifier: images in, scores out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaffe.pycaffe.images import ImageNet


class Classifier(ImageNet):
    """Classifies images with a Caffe net, as ``caffe.Classifier`` of pycaffe.

    >>> net = Classifier("deploy.prototxt", "net.caffemodel", mean="mean.npy", channel_swap=(2, 1, 0), raw_scale=255,
    ...                  image_dims=(256, 256))                                   # doctest: +SKIP
    >>> net.predict(["cat.jpg", "dog.jpg"]).argmax(1)                             # doctest: +SKIP

    It is a ``jaffe.Net`` of phase TEST.

    Args:
        model_file: the net as it is used (a deploy.prototxt); its first input is images (N, K, H, W).
        pretrained_file: its weights; ``None`` for none.
        image_dims: (height, width) that images are resized to before they are cropped to H x W; by default those.
        mean: what is subtracted: one value a channel, an array (K, H, W), or the path of an ``.npy`` or
            ``.binaryproto`` file, in the channels' order and range of the net.
        input_scale: a factor after that.
        raw_scale: a factor before that: 255 for images in [0, 1] and a net that was trained on [0, 255].
        channel_swap: the order of the channels: (2, 1, 0) for images in RGB and a net that was trained on BGR.
        python_modules: names of the modules whose code Python layers may run.

    Raises:
        SpecError: a file is missing or damaged, or the net is wrong.
        JaffeError: the weights do not fit, the net takes no images, or a setting does not fit it.
    """

    def predict(self, inputs: Iterable[Any], oversample: bool = True) -> np.ndarray:
        """Scores of the net's first output, (N, classes): all values that it has of an image, in one row.

        Args:
            inputs: images (H, W, K) as ``caffe.io.load_image`` gives them, or their paths; any number.
            oversample: the mean over ten crops of each image, the four corners and the middle, and these mirrored;
                else of the middle alone.

        Raises:
            JaffeError: an image does not fit the net.
        """
        out = self.forward_all(**{self.inputs[0]: self.crops(inputs, oversample)})[self.outputs[0]]
        return out.reshape(-1, 10, out[0].size).mean(1) if oversample else out.reshape(len(out), -1)
