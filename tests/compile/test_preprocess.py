"""Images as nets expect them, against plain NumPy; the same as what training sees; and deploy nets in use."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import CompiledNet, compile_net
from jaffe.netdef import JaffeError, NetState, SpecError, deploy, load, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (2, 11, 13, 3), np.uint8)  # N, H, W, RGB
BGR = IMAGES[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
MEAN = RNG.uniform(90, 130, (3, 11, 13)).astype(np.float32)


def net(transform: str, shape: tuple[int, ...] = (2, 3, 11, 13), directory: Path = Path()) -> CompiledNet:
    dims = " ".join(f"dim: {size}" for size in shape)
    text = (f'layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} '
            f'transform_param {{ {transform} }} }}\nlayer {{ name: "r" type: "ReLU" bottom: "data" top: "r" }}')
    (directory / "net.prototxt").write_text(text)
    return compile_net(directory / "net.prototxt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    blob = BlobProto(num=1, channels=3, height=11, width=13, data=MEAN.ravel())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    return tmp_path


def line(n: int, size: int) -> np.ndarray:
    """Weights (size, n) of bilinear resizing, as a loop: a triangle as wide as a new pixel, or an old one if wider."""
    weights = np.zeros((size, n))
    step = n / size
    for new in range(size):
        for old in range(n):
            weights[new, old] = max(0.0, 1 - abs((new + 0.5) * step - (old + 0.5)) / max(step, 1.0))
    return weights / weights.sum(1, keepdims=True)


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.einsum("nchw,yh,xw->ncyx", x.astype(np.float64), line(x.shape[2], height), line(x.shape[3], width))


@pytest.mark.parametrize(
    ("transform", "shape", "expected"),
    [
        ("", (2, 3, 11, 13), BGR),
        ("scale: 0.25", (2, 3, 11, 13), BGR * 0.25),
        ("mean_value: 7 scale: 0.5 mirror: true", (2, 3, 11, 13), (BGR - 7) * 0.5),
        ("mean_value: 104 mean_value: 117 mean_value: 123", (2, 3, 11, 13),
         BGR - np.array([104, 117, 123]).reshape(3, 1, 1)),
        ("crop_size: 6 mean_value: 7", (2, 3, 6, 6), BGR[:, :, 2:8, 3:9] - 7),
        ('mean_file: "mean.binaryproto" scale: 2', (2, 3, 11, 13), (BGR - MEAN) * 2),
        ('mean_file: "mean.binaryproto" crop_size: 6', (2, 3, 6, 6), (BGR - MEAN)[:, :, 2:8, 3:9]),
        ("resize: 17 resize: 7", (2, 3, 17, 7), resize(BGR, 17, 7)),
        ("resize: 17 crop_size: 5 mean_value: 3", (2, 3, 5, 5), resize(BGR, 17, 17)[:, :, 6:11, 6:11] - 3),
        ("", (2, 3, 5, 29), resize(BGR, 5, 29)),  # as the input is declared
    ],
)
def test_against_numpy(transform, shape, expected, folder):
    found = net(transform, shape, folder).preprocess(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-4)


def test_images_are_made_as_large_as_the_mean(folder):
    large = RNG.integers(0, 256, (2, 23, 19, 3), np.uint8)
    found = net('mean_file: "mean.binaryproto" crop_size: 6', (2, 3, 6, 6), folder).preprocess(large)
    expected = resize(large[..., ::-1].transpose(0, 3, 1, 2), 11, 13) - MEAN
    np.testing.assert_allclose(found, expected[:, :, 2:8, 3:9], rtol=1e-6, atol=2e-4)


def test_size_of_the_caller(tmp_path):
    found = net("mean_value: 1 resize: 5", directory=tmp_path).preprocess(IMAGES, size=(7, 17))
    np.testing.assert_allclose(found, resize(BGR, 7, 17) - 1, rtol=1e-6, atol=2e-4)


def test_mean_of_one_value_a_channel(tmp_path):
    np.save(tmp_path / "mean.npy", np.array([104, 117, 123], np.float32))
    found = net('mean_file: "mean.npy"', directory=tmp_path).preprocess(IMAGES)
    np.testing.assert_allclose(found, BGR - np.array([104, 117, 123]).reshape(3, 1, 1), rtol=1e-6)


def test_forms_of_images(tmp_path):
    """One image, other axes, other order, floats, NumPy or JAX: the same numbers."""
    one = net("mean_value: 7", directory=tmp_path)
    expected = BGR - 7
    for images, arguments in (
        (IMAGES.transpose(0, 3, 1, 2), {}),
        (IMAGES[..., ::-1], {"order": "BGR"}),
        (IMAGES.astype(np.float32), {}),
        (jnp.asarray(IMAGES), {"layout": "NHWC", "input": "data"}),
        (IMAGES.astype(np.int32), {}),
    ):
        np.testing.assert_array_equal(one.preprocess(images, **arguments), expected)
    np.testing.assert_array_equal(one.preprocess(IMAGES[1]), expected[1:])
    np.testing.assert_array_equal(jax.jit(one.preprocess)(IMAGES), expected)


def test_grey_and_colour(tmp_path):
    """What OpenCV makes of pure red, green, blue and of white, as bytes."""
    row = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [1, 2, 3]], np.uint8)
    colours = np.stack([row, row])[None]
    grey = net("", (1, 1, 2, 5), tmp_path)
    np.testing.assert_array_equal(grey.preprocess(colours)[0, 0], [[76, 150, 29, 255, 2]] * 2)
    found = grey.preprocess(colours.astype(np.float32))[0, 0, 1]
    np.testing.assert_allclose(found, row @ [0.299, 0.587, 0.114], rtol=1e-6)
    for dtype in (np.int32, np.uint32):  # numbers that are no bytes: nothing is rounded, and nothing flows over
        found = grey.preprocess(colours.astype(dtype) * 1_000_000)[0, 0, 1]
        np.testing.assert_allclose(found, row @ [0.299e6, 0.587e6, 0.114e6], rtol=1e-6)
    colour = net("", (2, 3, 11, 13), tmp_path)
    np.testing.assert_array_equal(colour.preprocess(IMAGES[..., :1]), np.repeat(BGR[:, 2:], 3, 1))


def test_the_same_as_in_training(folder, monkeypatch):
    """What a data layer of phase TEST feeds, from the same settings and bytes."""
    from jaffe.train.data.transform import Transform

    monkeypatch.chdir(folder)
    settings = 'resize: 17 resize: 19 crop_size: 6 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5'
    node = resolve(f'layer {{ name: "d" type: "Data" top: "data" transform_param {{ {settings} }} }}',
                   NetState("TEST")).nodes[0]
    trained = Transform(node, (3, 11, 13))(BGR.astype(np.uint8), jax.random.key(0))
    np.testing.assert_array_equal(net(settings, (2, 3, 6, 6), folder).preprocess(IMAGES), trained)


@pytest.mark.parametrize(
    ("transform", "images", "arguments", "message"),
    [
        ("mean_value: 1 mean_value: 2", IMAGES, {}, "layer 'in' (net.prototxt:1): expected one mean_value, or one for "
         "each of 3 channels; found 2"),
        ("mean_value: 1 mean_file: 'x'", IMAGES, {}, "layer 'in' (net.prototxt:1): mean_file excludes mean_value; "
         "found both"),
        ("crop_size: 12", IMAGES, {}, "layer 'in' (net.prototxt:1): crop_size 12 is larger than the images, (11, 13)"),
        ("resize: 1 resize: 2 resize: 3", IMAGES, {}, "layer 'in' (net.prototxt:1): resize is one positive number, or "
         "height and width; found [1, 2, 3]"),
        ("mean_file: 'mean.binaryproto'", IMAGES, {"size": (5, 7)}, "layer 'in' (net.prototxt:1): mean_file "
         "'mean.binaryproto' has shape (3, 11, 13); expected the images', (3, 5, 7)"),
        ("", IMAGES, {"order": "rgb"}, "order is 'RGB' or 'BGR'; received 'rgb'; did you mean 'RGB'?"),
        ("", IMAGES, {"layout": "HWC"}, "layout is 'NHWC' or 'NCHW'; received 'HWC'; did you mean 'NHWC'?"),
        ("", IMAGES, {"size": (5, 7, 3)}, "size is (height, width); received (5, 7, 3)"),
        ("", IMAGES, {"size": (5, 0)}, "size: sizes are positive whole numbers; received (5, 0)"),
        ("", IMAGES, {"input": "dat"}, "the net has no input 'dat' of images (N, C, H, W); did you mean 'data'?"),
        ("", IMAGES[:, :3], {}, "which axis of (2, 3, 13, 3) holds the channels is not plain: give layout='NHWC' or "
         "'NCHW'"),
        ("", IMAGES[0, 0], {}, "images are (N, H, W, C) or (N, C, H, W), or one without N; received shape (13, 3)"),
        ("", IMAGES[..., :2], {"layout": "NHWC"},
         "layer 'in' (net.prototxt:1): expected images of 1 or 3 channels; received 2"),
        ("", np.zeros((8, 8, 4), np.uint8), {},
         "layer 'in' (net.prototxt:1): expected images of 1 or 3 channels; received 4"),
        ("", np.zeros((0, 13, 3), np.uint8), {}, "images have sizes of 1 and above; received shape (1, 0, 13, 3)"),
        ("", None, {}, "images are one array of numbers; received NoneType"),
        ("", "cat.jpg", {}, "images are one array of numbers; received str"),
        ("", Path("cat.jpg"), {}, "images are one array of numbers; received PosixPath"),
        ("", [[[1, 2, 3]], [[1, 2]]], {}, "images are one array of numbers; received list"),
        ("", [["a"]], {}, "images are one array of numbers; received list"),
        ("", IMAGES > 3, {}, "images are whole numbers or floats; received bool"),
    ],
)
def test_messages(transform, images, arguments, message, folder):
    one = net(transform, directory=folder)
    with pytest.raises(JaffeError) as caught:
        one.preprocess(images, **arguments)
    assert str(caught.value) == message


def test_nets_without_one_input_of_images():
    two = compile_net('layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }')
    with pytest.raises(JaffeError) as caught:
        two.preprocess(IMAGES)
    assert str(caught.value) == ("expected one input of images (N, C, H, W), or input=NAME; the net reads a (2, 3), "
                                 "b (2, 3)")


def test_missing_mean(tmp_path):
    with pytest.raises(SpecError, match=r"^net.prototxt:1: 'gone' is not found; looked in "):
        net("mean_file: 'gone'", directory=tmp_path).preprocess(IMAGES)


def test_deployed_net_gives_the_numbers_of_the_net_that_was_trained():
    """The same variables in both; the trained net is fed transformed data, the deployed one images."""
    source = load(zoo.lenet(transform={"scale": 1 / 256}))
    trained, deployed = compile_net(source, phase="TEST", batch=2), compile_net(deploy(source, batch=2))
    variables = trained.init(jax.random.key(3))
    assert jax.tree.structure(variables) == jax.tree.structure(deployed.init(jax.random.key(4)))
    images = RNG.integers(0, 256, (2, 28, 28, 1), np.uint8)
    blobs = {"data": images.transpose(0, 3, 1, 2) / np.float32(256), "label": np.zeros(2)}
    scores = trained.apply(variables, blobs, blobs=["ip2"])[0]["ip2"]
    (name, prob), = deployed.apply(variables, {"data": deployed.preprocess(images)})[0].items()
    assert name == "prob"
    np.testing.assert_allclose(prob, jax.nn.softmax(scores, axis=1), rtol=1e-6)
