"""caffe.io: images, the Transformer, blobs and records, by numbers computed by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, SpecError
from jaffe.pycaffe.proto import caffe_pb2


def transformer(shape=(1, 3, 2, 2), **settings) -> caffe.io.Transformer:
    made = caffe.io.Transformer({"data": shape})
    for name, value in settings.items():
        getattr(made, f"set_{name}")("data", value)
    return made


def test_preprocess_in_its_order():
    """float32, transpose, swap, times raw_scale, less the mean, times input_scale."""
    made = transformer(transpose=(2, 0, 1), channel_swap=(2, 1, 0), raw_scale=10, mean=np.array([1, 2, 3]),
                       input_scale=0.5)
    rgb = np.array([[[0.1, 0.2, 0.3], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]]])
    before = rgb.copy()
    found = made.preprocess("data", rgb)
    expected = [[[1, -0.5], [-0.5, 4.5]],  # blue: (10 * 0.3 - 1) / 2, ...
                [[0, -1], [4, -1]],
                [[-1, 3.5], [-1.5, -1.5]]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_allclose(made.deprocess("data", found), rgb, atol=1e-7)
    np.testing.assert_allclose(made.deprocess("data", found[None]), rgb, atol=1e-7)


def test_nothing_set_changes_nothing():
    image = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(transformer().preprocess("data", image), image)
    grey = transformer((4, 1, 2, 3), transpose=(2, 0, 1), raw_scale=2)
    image = np.arange(6.0).reshape(2, 3, 1)
    np.testing.assert_array_equal(grey.preprocess("data", image), 2 * image.transpose(2, 0, 1))
    np.testing.assert_array_equal(grey.deprocess("data", grey.preprocess("data", image)), image)


def test_mean_images():
    mean = np.arange(12.0).reshape(3, 2, 2)
    made = transformer(transpose=(2, 0, 1), mean=mean)
    np.testing.assert_array_equal(made.preprocess("data", np.zeros((2, 2, 3))), -mean)
    large = transformer((1, 3, 4, 4), mean=mean)  # resized to the input's size
    assert large.mean["data"].shape == (3, 4, 4)
    np.testing.assert_allclose(large.mean["data"][:, 1:3, 1:3], caffe.io.resize_image(
        mean.transpose(1, 2, 0), (4, 4)).transpose(2, 0, 1)[:, 1:3, 1:3])
    assert transformer((1, 1, 2, 2), mean=np.ones((2, 2))).mean["data"].shape == (1, 2, 2)


def test_resize_samples_at_the_middles_of_pixels():
    """New pixel j lies at (j + 1/2) / scale - 1/2 of the old ones; beyond the edge there is the least value."""
    ramp = np.tile(np.arange(4.0)[None, :, None], (2, 1, 1))
    np.testing.assert_allclose(caffe.io.resize_image(ramp, (2, 2))[..., 0], [[0.5, 2.5], [0.5, 2.5]])
    wide = caffe.io.resize_image(ramp, (2, 8))[0, :, 0]
    np.testing.assert_allclose(wide, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.25], atol=1e-6)  # 3 and 0 at the edge
    colour = np.random.default_rng(0).random((5, 7, 3))
    assert caffe.io.resize_image(colour, (3, 11)).shape == (3, 11, 3)
    np.testing.assert_allclose(caffe.io.resize_image(colour, (5, 7)), colour, rtol=1e-6)
    np.testing.assert_array_equal(caffe.io.resize_image(np.full((2, 2, 3), 7), (3, 5)), np.full((3, 5, 3), 7))
    features = caffe.io.resize_image(ramp.repeat(4, 2), (2, 7))  # other channels: from corner to corner
    np.testing.assert_allclose(features[0, :, 3], np.arange(7) / 2, rtol=1e-6)


def test_oversample():
    image = np.arange(20.0).reshape(4, 5)[..., None]
    other = -image
    crops = caffe.io.oversample([image, other], (2, 3))
    assert crops.shape == (20, 2, 3, 1)
    corners = [image[:2, :3], image[:2, 2:], image[2:, :3], image[2:, 2:], image[1:3, 1:4]]
    for i, corner in enumerate(corners):
        np.testing.assert_array_equal(crops[i], corner)
        np.testing.assert_array_equal(crops[i + 5], corner[:, ::-1])
        np.testing.assert_array_equal(crops[i + 10], -corner)
    odd = caffe.io.oversample([image], np.array([3, 2]))
    np.testing.assert_array_equal(odd[4], image[0:3, 1:3])  # 0.5 and 1.5, cut off


def png(array: np.ndarray, mode: str | None = None, **settings) -> io.BytesIO:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(file, "png", **settings)
    file.seek(0)
    return file


def test_load_image(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(png(rgb).getvalue())
    found = caffe.io.load_image(str(path))
    assert (found.dtype, found.shape) == (np.float32, (3, 4, 3))
    np.testing.assert_allclose(found, rgb / 255, rtol=1e-6)
    grey = caffe.io.load_image(path, color=False)
    np.testing.assert_allclose(grey[..., 0], rgb / 255 @ [0.2125, 0.7154, 0.0721], rtol=1e-5)
    np.testing.assert_allclose(caffe.io.load_image(png(rgb[..., 0])), np.repeat(rgb[..., :1], 3, 2) / 255, rtol=1e-6)
    assert caffe.io.load_image(png(rgb[..., 0]), color=False).shape == (3, 4, 1)
    clear = np.concatenate([rgb, np.full((3, 4, 1), 9, np.uint8)], axis=2)
    np.testing.assert_allclose(caffe.io.load_image(png(clear)), rgb / 255, rtol=1e-6)
    np.testing.assert_array_equal(np.unique(caffe.io.load_image(png(rgb[..., 0], "1"))), [0, 1])
    deep = np.array([[0, 65535], [13107, 1]], np.uint16)
    np.testing.assert_allclose(caffe.io.load_image(png(deep), color=False)[..., 0], deep / 65535, rtol=1e-6)
    assert caffe.io.load_image(png(rgb, "P")).shape == (3, 4, 3)


def test_blobs():
    array = np.random.default_rng(0).normal(size=(2, 3, 1)).astype(np.float32)
    blob = caffe.io.array_to_blobproto(array, diff=2 * array)
    assert isinstance(blob, caffe_pb2.BlobProto)
    assert list(blob.shape.dim) == [2, 3, 1]
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), 2 * array)
    old = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(old), np.arange(6).reshape(1, 1, 2, 3))
    arrays = caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str([array, array[0]]))
    np.testing.assert_array_equal(arrays[0], array)
    np.testing.assert_array_equal(arrays[1], array[0])


def test_records():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 4)).astype(np.uint8)
    datum = caffe.io.array_to_datum(pixels, label=7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 2, 4, 7)
    found = caffe.io.datum_to_array(datum)
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == np.uint8
    floats = caffe.io.array_to_datum(pixels / 8)
    assert not floats.data
    assert not floats.HasField("label")
    np.testing.assert_array_equal(caffe.io.datum_to_array(floats), pixels / 8)


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda: transformer().preprocess("daat", np.zeros((2, 2, 3))),
     r"'daat' is none of the inputs data; did you mean 'data'\?"),
    (lambda: transformer(transpose=(0, 1)), r"input 'data' has 3 axes: expected an order of 0 to 2; received \(0, 1\)"),
    (lambda: transformer(channel_swap=(2, 1)), r"input 'data' has 3 channels: expected an order of 0 to 2; received"),
    (lambda: transformer(channel_swap=5), r"received 5"),
    (lambda: transformer(raw_scale="x"), r"a scale of input 'data' is a number; received 'x'"),
    (lambda: transformer(mean=np.zeros(4)), r"the mean of input 'data' is \(3,\) or \(3, height, width\); received"),
    (lambda: transformer(mean=np.zeros((2, 2, 3))), r"received shape \(2, 2, 3\)"),
    (lambda: transformer(transpose=(2, 0, 1)).preprocess("data", "cat.jpg"), r"expected an image of numbers"),
    (lambda: transformer(mean=np.ones(3), transpose=(2, 0, 1)).preprocess("data", np.zeros((2, 2, 4))),
     r"the image of shape \(2, 2, 4\) does not fit: .*; expected an image that becomes \(3, 2, 2\)"),
    (lambda: transformer().deprocess("data", np.zeros((2, 3, 2, 2))), r"expected one item, such as \(3, 2, 2\)"),
    (lambda: caffe.io.resize_image(np.zeros((2, 2)), (2, 2)), r"resize_image takes an image \(H, W, K\)"),
    (lambda: caffe.io.resize_image(np.zeros((2, 2, 3)), (2, 0)), r"an image is resized to \(height, width\)"),
    (lambda: caffe.io.oversample([np.zeros((2, 2, 3))], (3, 2)), r"crops of \(3, 2\) do not fit into images of \(2, 2"),
    (lambda: caffe.io.oversample([np.zeros((2, 2, 3)), np.zeros((2, 3, 3))], (2, 2)), r"images \(H, W, K\) of one"),
    (lambda: caffe.io.array_to_datum(np.zeros((2, 2))), r"a Datum is \(channels, height, width\); received shape \(2,"),
    (lambda: caffe.io.datum_to_array(caffe_pb2.Datum(encoded=True, data=b"x")), r"holds an encoded image"),
    (lambda: caffe.io.datum_to_array(caffe_pb2.Datum(channels=1, height=1, width=2, data=b"x")), r"has 1 values"),
    (lambda: caffe.io.array_to_blobproto(np.zeros(2), np.zeros(3)), r"gradients have the shape of the values, \(2,\)"),
    (lambda: caffe.io.blobproto_to_array(caffe_pb2.BlobProto(num=2, data=[1])), r"the blob of shape .* has 1 values"),
    (lambda: caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[1]), return_diff=True), r"has 0 gradients"),
    (lambda: caffe.io.blobprotovector_str_to_arraylist(b"\xff\xff"), r"these bytes are no BlobProtoVector"),
])
def test_wrong(wrong, message):
    with pytest.raises(JaffeError, match=message):
        wrong()


def test_what_is_no_image(tmp_path):
    with pytest.raises(SpecError, match=r"gone.jpg: cannot be read: No such file"):
        caffe.io.load_image(tmp_path / "gone.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(SpecError, match=r"text.jpg: is not an image that can be read"):
        caffe.io.load_image(tmp_path / "text.jpg")
    whole = png(np.zeros((50, 50, 3), np.uint8)).getvalue()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"half.png: is not an image that can be read"):
        caffe.io.load_image(tmp_path / "half.png")
