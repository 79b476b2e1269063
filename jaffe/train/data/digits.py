"""The UCI handwritten digits as a TFDS builder that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 images of handwritten digits, 8x8, values 0 to 16, as scikit-learn carries them.

    Splits: of each class every fifth image up to the 30th such is ``test`` (300), the others ``train`` (1,497).
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """

    VERSION = tfds.core.Version("1.0.0")
    TEST_EVERY = 5
    TEST_OF_CLASS = 30

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        seen = [0] * 10
        for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            turn, rest = divmod(seen[label], self.TEST_EVERY)
            if (rest == 0 and turn < self.TEST_OF_CLASS) == test:
                yield i, {"image": image.astype(np.uint8)[..., None], "label": int(label)}
            seen[label] += 1
