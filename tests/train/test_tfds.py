"""TFDS: any builder's data, read without TensorFlow, fields to inputs by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaffe.netdef import NetState, resolve
from jaffe.train.data import Feed, open_dataset
from jaffe.train.data.tfds import data_folder
from tests.train.data_files import encoded


@pytest.fixture
def pairs(tmp_path, monkeypatch) -> list[np.ndarray]:
    """A data set of photographs of different sizes, prepared; its images, red, green, blue."""
    monkeypatch.setenv("JAFFE_DATA", str(tmp_path))
    images = [np.random.default_rng(i).integers(256, size=(4 + i, 5, 3), dtype=np.uint8) for i in range(6)]

    with tfds.core.registered.skip_registration():
        class Pairs(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                    "coarse": tfds.features.ClassLabel(num_classes=3),
                    "file_name": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "several": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                }))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(range(6)), "test": self._generate_examples(range(3))}

            def _generate_examples(self, numbers):
                for i in numbers:  # TFDS encodes arrays with TensorFlow, and takes files as they are
                    file = io.BytesIO(encoded(images[i][..., ::-1]))
                    yield i, {"coarse": i % 3, "file_name": f"{i}.png", "image": file, "label": i,
                              "several": np.full(4, i, np.float32)}

    builder = Pairs(data_dir=data_folder(), file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return images


def test_a_builder_of_photographs(pairs):
    train, test = (open_dataset("tfds:pairs", split) for split in ("train", "test"))
    assert (len(train.records), len(test.records)) == (6, 3)
    assert train.records.ragged
    assert train.order == "RGB"
    for i in range(6):
        record = train.record(i)
        assert list(record) == ["image", "several", "coarse", "label"]
        number = int(record["label"])
        np.testing.assert_array_equal(record["image"], pairs[number].transpose(2, 0, 1))
        assert record["several"].tolist() == [number] * 4
    named = open_dataset("tfds:pairs:test?data=image&label=coarse")
    assert list(named.fields()) == ["data", "label"]
    assert sorted(int(named.record(i)["label"]) for i in range(3)) == [0, 1, 2]


def test_a_net_that_crops_them(pairs):
    net = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { crop_size: 4 }
                     data_param { source: "-" batch_size: 3 } }"""
    feed = Feed(resolve(net, NetState("TEST")), "tfds:pairs")
    assert feed.shapes == {"data": (3, 3, 4, 4), "label": (3,)}
    batches = feed.batches()
    batch = next(batches)
    for pixels, label in zip(np.asarray(batch[0]["image"]), np.asarray(batch[0]["label"]), strict=True):
        top = len(pairs[label]) // 2 - 2
        np.testing.assert_array_equal(pixels, pairs[label][top : top + 4, :4].transpose(2, 0, 1))
    batches.close()
