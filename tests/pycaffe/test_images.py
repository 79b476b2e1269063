"""Classifier, Detector and FeatureExtractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, SpecError

# The two outputs tell what reached the net: sums of each channel, and of everything, so that crops can be told apart.
SUMS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
layer { name: "split" type: "Power" bottom: "data" top: "inner" }
layer { name: "in_place" type: "Power" bottom: "inner" top: "inner" power_param { scale: 2 } }
layer { name: "sums" type: "Reduction" bottom: "inner" top: "sums" reduction_param { axis: 1 } }
layer { name: "channels" type: "Reduction" bottom: "data" top: "channels" reduction_param { axis: 2 } }
layer { name: "total" type: "Reduction" bottom: "sums" top: "total" reduction_param { axis: 0 } }
layer { name: "end" type: "Silence" bottom: "sums" bottom: "total" }
"""
VECTORS = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
SETTINGS = dict(image_dims=(6, 8), mean=np.array([1, 2, 3]), raw_scale=100, channel_swap=(2, 1, 0), input_scale=2)


def pictures(count: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, 6, 8, 3)).astype(np.float32))


def sums(crop: np.ndarray) -> np.ndarray:
    """What the net makes of a crop (H, W, RGB)."""
    return ((crop[..., ::-1].astype(float) * 100 - [1, 2, 3]) * 2).sum((0, 1))


@pytest.fixture(scope="module")
def classifier() -> caffe.Classifier:
    return caffe.Classifier(SUMS, None, **SETTINGS)


def test_predict(classifier):
    found = classifier.predict(pictures())  # 30 crops in batches of 2
    assert found.shape == (3, 3)
    for row, image in zip(found, pictures(), strict=True):
        crops = [sums(crop) for crop in caffe.io.oversample([image], (4, 4))]
        np.testing.assert_allclose(row, np.mean(crops, axis=0), rtol=1e-5)
    middle = classifier.predict(pictures(), oversample=False)
    np.testing.assert_allclose(middle, [sums(image[1:5, 2:6]) for image in pictures()], rtol=1e-5)


def test_images_are_resized(classifier, tmp_path):
    image = np.full((11, 5, 3), [10, 100, 200], np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = sums(np.full((4, 4, 3), np.array([10, 100, 200]) / 255))
    for given in (tmp_path / "image.png", image / 255.0):  # the edges, resized, do not reach the middle
        np.testing.assert_allclose(classifier.predict([given], False)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["npy", "binaryproto", "array"])
def test_means(kind, tmp_path):
    mean = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    path = tmp_path / f"mean.{kind}"
    if kind == "npy":
        np.save(path, mean)
    elif kind == "binaryproto":
        path.write_bytes(caffe.io.array_to_blobproto(mean[None]).SerializeToString())
    net = caffe.Classifier(SUMS, None, mean=mean if kind == "array" else str(path))
    np.testing.assert_allclose(net.predict([np.zeros((4, 4, 3))], False)[0], -mean.sum((1, 2)))


def test_extract():
    net = caffe.FeatureExtractor(SUMS, None, ["inner", "sums"], **SETTINGS)
    found = net.extract(pictures())
    assert {name: array.shape for name, array in found.items()} == {"inner": (3, 3, 4, 4), "sums": (3,)}
    np.testing.assert_allclose(found["sums"], [2 * sums(image[1:5, 2:6]).sum() for image in pictures()], rtol=1e-5)
    np.testing.assert_allclose(found["inner"].sum((1, 2, 3)), found["sums"], rtol=1e-4)  # the last version
    assert net._last == "sums"  # what is behind does not run
    ten = net.extract(pictures(1)[0], oversample=True)
    assert ten["inner"].shape == (1, 10, 3, 4, 4)
    crops = caffe.io.oversample(pictures(1), (4, 4))
    np.testing.assert_allclose(ten["sums"][0], [2 * sums(crop).sum() for crop in crops], rtol=1e-5)
    assert set(caffe.FeatureExtractor(SUMS, None, "channels").extract(pictures(5))) == {"channels"}


def test_detect_windows(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    net = caffe.Detector(SUMS, None, mean=np.array([1, 2, 3]), raw_scale=100, channel_swap=(2, 1, 0), input_scale=2)
    windows = [(1, 2, 5, 6), np.array([0, 0, 9, 7]), [5, 3, 9, 7]]
    found = net.detect_windows([(str(tmp_path / "image.png"), windows[:2]), (str(tmp_path / "image.png"), windows[2:])])
    assert [one["window"] is window for one, window in zip(found, windows, strict=True)] == [True] * 3
    assert found[0]["filename"] == str(tmp_path / "image.png")
    np.testing.assert_allclose(found[0]["prediction"], sums(image[1:5, 2:6] / 255), rtol=1e-4)
    whole = caffe.io.resize_image(image / np.float32(255), (4, 4))
    np.testing.assert_allclose(found[1]["prediction"], sums(whole), rtol=1e-4)
    assert net.detect_windows([]) == []


def test_context():
    """A window of 4 x 4 in an input of 8 x 8 with 2 pixels of context: by hand, scale 2, the box 10 pixels from 1."""
    shape = SUMS.replace("dim: 4 dim: 4", "dim: 8 dim: 8")
    net = caffe.Detector(shape, None, context_pad=2, mean=np.array([30, 20, 10]), raw_scale=10, channel_swap=(2, 1, 0))
    np.testing.assert_allclose(net.crop_mean[0, 0], [1, 2, 3])
    image = np.random.default_rng(0).random((20, 20, 3)).astype(np.float32)
    inside = net.crop(image, (4, 4, 8, 8))
    # half sides (8 - 4 + 1) / 2 = 2.5, the middle 6.5: from 6.5 - 5 to 6.5 + 5, which round to 2 and 12.
    np.testing.assert_allclose(inside, caffe.io.resize_image(image[2:12, 2:12], (8, 8)))
    corner = net.crop(image, (0, 4, 4, 8))
    # rows from 2.5 - 5 = -2 to 8, 11 in all: 2 above the image are round(2 * 8 / 11) = 1 row of the mean.
    np.testing.assert_array_equal(corner[0], np.tile([1, 2, 3], (8, 1)))
    np.testing.assert_allclose(corner[1:], caffe.io.resize_image(image[0:8, 2:12], (7, 8)))
    net.configure_crop(None)
    np.testing.assert_array_equal(net.crop(image, (0, 4, 4, 8)), image[0:4, 4:8])


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda: caffe.Classifier(SUMS, "gone.caffemodel"), r"gone.caffemodel: cannot be read: No such file"),
    (lambda: caffe.Classifier("gone.prototxt", None), r"gone.prototxt: cannot be read: No such file"),
    (lambda: caffe.Classifier(SUMS, None, mean="gone.npy"), r"gone.npy: cannot be read: No such file"),
    (lambda: caffe.Classifier(SUMS, None, image_dims=(3, 9)), r"image_dims is \(height, width\), at least the input's"),
    (lambda: caffe.Classifier(SUMS, None, image_dims=9), r"received 9"),
    (lambda: caffe.Classifier(SUMS, None, mean=[1, 2]), r"the mean of input 'data' is \(3,\) or \(3, height, width\)"),
    (lambda: caffe.Classifier(VECTORS, None), r"expected a net whose first input is images .*; found \(2, 3\)"),
    (lambda: caffe.Classifier(SUMS, None).predict([]), r"expected images; received none"),
    (lambda: caffe.Classifier(SUMS, None).predict([np.zeros((5, 5))]), r"expected images \(H, W, 3\), or their paths"),
    (lambda: caffe.FeatureExtractor(SUMS, None, "summs"), r"the net has no blob 'summs'; did you mean 'sums'\?"),
    (lambda: caffe.FeatureExtractor(SUMS, None, "total"), r"blob 'total' of shape \(\) has no item for each of"),
    (lambda: caffe.FeatureExtractor(SUMS, None, []), r"expected names of blobs; received none"),
    (lambda: caffe.Detector(SUMS, None, context_pad=2), r"context_pad is for square inputs, and less than half their"),
    (lambda: caffe.Detector(SUMS, None).detect_selective_search(["a.jpg"]), r"selective search is a MATLAB package"),
    (lambda: caffe.Detector(SUMS, None).crop(np.zeros((9, 9, 3)), (2, 2, 2, 5)), r"window \(2, 2, 2, 5\) is not in an"),
    (lambda: caffe.Detector(SUMS, None).crop(np.zeros((9, 9, 3)), (2, 2, 5)), r"a window is \(ymin, xmin, ymax, xmax"),
])
def test_wrong(wrong, message):
    with pytest.raises(JaffeError, match=message):
        wrong()


def test_outputs_that_are_no_items():
    net = caffe.Classifier(SUMS.replace('bottom: "sums" bottom: "total"', 'bottom: "sums" bottom: "channels"'), None)
    with pytest.raises(JaffeError, match=r"blob 'total' is a single number, not one an item"):
        net.predict(pictures(2), oversample=False)
    with pytest.raises(SpecError, match=r"image.jpg: cannot be read"):
        net.predict(["image.jpg"])


def test_a_published_net(shared: Path):
    """SqueezeNet 1.0 on Caffe's own example picture, a cat that Caffe's nets take for a tabby or a fox."""
    folder = shared / "models" / "files" / "squeezenet_v1.0_deepcompression"
    net = caffe.Classifier(
        str(folder / "SqueezeNet_deploy.prototxt"), str(folder / "decoded_squeezenet_v1.0.caffemodel"),
        image_dims=(256, 256), mean=np.array([104, 117, 123]), raw_scale=255, channel_swap=(2, 1, 0))
    scores = net.predict([caffe.io.load_image(str(shared / "data" / "imgs" / "cat.jpg"))])
    assert scores.shape == (1, 1000)
    best = set(scores[0].argsort()[::-1][:5])
    assert {277, 278, 281} < best  # red fox, kit fox, tabby
    assert len(net.params) == 26
