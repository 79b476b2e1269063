"""The nets that are timed, and their data. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of the training step in every framework: SGD. The rate is small, so that many steps on one batch stay finite.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4


@dataclass(frozen=True)
class Net:
    """A net as it is timed.

    Attributes:
        title: for tables.
        batch: of a training step.
        shape: (C, H, W) of an image; of a text its length T.
        classes: that images or symbols have.
    """

    title: str
    batch: int
    shape: tuple[int, ...]
    classes: int

    def data(self, batch: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, C, H, W) and labels (N,); or symbols (T, N), and those that follow. Always the same numbers.

        Args:
            size: height and width of images, in place of those of ``shape``.
        """
        random = np.random.default_rng(0)
        if len(self.shape) == 1:
            text = random.integers(0, self.classes, (self.shape[0] + 1, batch), np.int32)
            return text[:-1], text[1:]
        shape = self.shape if size is None else (self.shape[0], size, size)
        return random.standard_normal((batch, *shape), np.float32), random.integers(0, self.classes, batch, np.int32)


# Under the names that they have in jaffe.zoo.
NETS = {
    "lenet": Net("LeNet", 64, (1, 28, 28), 10),
    "cifar10_full": Net("CIFAR10-full", 100, (3, 32, 32), 10),
    "caffenet": Net("CaffeNet", 16, (3, 227, 227), 1000),
    "googlenet": Net("GoogLeNet", 8, (3, 224, 224), 1000),
    "squeezenet1_1": Net("SqueezeNet", 8, (3, 227, 227), 1000),
    "resnet18": Net("ResNet-18", 8, (3, 224, 224), 1000),
    "mobilenet": Net("MobileNet", 8, (3, 224, 224), 1000),
    "char_lstm": Net("char-LSTM", 32, (100,), 128),
}
