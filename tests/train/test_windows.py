"""WindowData: what is cut out, by hand; which windows a batch holds."""

from __future__ import annotations

import itertools
import pickle

import cv2
import jax
import numpy as np
import pytest

from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.train.data import Feed
from jaffe.train.data.windows import Crop, cut_window
from tests.train.data_files import write_images

IMAGE = np.random.default_rng(0).integers(1, 256, (3, 20, 30), dtype=np.uint8)


def warped(x1: int, y1: int, x2: int, y2: int, width: int, height: int) -> np.ndarray:
    part = np.ascontiguousarray(IMAGE[:, y1 : y2 + 1, x1 : x2 + 1].transpose(1, 2, 0))
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1).astype(np.float32)


def test_a_window_of_the_crops_size_is_taken_as_it_is():
    found = cut_window(IMAGE, [3, 4, 9, 10], Crop(7))
    np.testing.assert_array_equal(found, IMAGE[:, 4:11, 3:10])
    np.testing.assert_array_equal(cut_window(IMAGE, [3, 4, 9, 10], Crop(7), True), IMAGE[:, 4:11, 9:2:-1])


def test_other_windows_are_warped():
    np.testing.assert_array_equal(cut_window(IMAGE, [3, 4, 15, 8], Crop(7)), warped(3, 4, 15, 8, 7, 7))


def test_context():
    """Of crop 8 with context 2 the window is the middle 4 pixels: it is enlarged by 8 / 4 about its middle.

    x from 10 to 13: half 2, middle 12, so 12 - 4 to 12 + 4. That is a pixel more than twice the window: Caffe's own.
    """
    np.testing.assert_array_equal(cut_window(IMAGE, [10, 8, 13, 11], Crop(8, context=2)),
                                  warped(8, 6, 16, 14, 8, 8))


def test_what_is_outside_of_the_image_is_zero():
    """The window (0, 0) to (3, 3) becomes (-2, -2) to (6, 6), 9 wide, of which 7 are inside.

    Warped, they are round(7 * 8 / 9) = 6 wide, behind round(2 * 8 / 9) = 2.
    """
    found = cut_window(IMAGE, [0, 0, 3, 3], Crop(8, context=2))
    expected = np.zeros((3, 8, 8), np.float32)
    expected[:, 2:, 2:] = warped(0, 0, 6, 6, 6, 6)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cut_window(IMAGE, [0, 0, 3, 3], Crop(8, context=2), True), expected[:, :, ::-1])
    # Mean and scale are for what is inside.
    mean = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    inside = cut_window(IMAGE, [0, 0, 3, 3], Crop(8, context=2, mean=mean, scale=0.5))
    expected[:, 2:, 2:] = (expected[:, 2:, 2:] - mean) * 0.5
    np.testing.assert_array_equal(inside, expected)


def test_square():
    """6 x 4 pixels from (10, 8) on: both halves are 3, about (13, 10); then 13 - 3 to 13 + 3, 10 - 3 to 10 + 3."""
    np.testing.assert_array_equal(cut_window(IMAGE, [10, 8, 15, 11], Crop(5, square=True)), warped(10, 7, 16, 13, 5, 5))


def test_a_mean_image_is_read_in_its_middle():
    mean = np.random.default_rng(1).uniform(0, 255, (3, 11, 11)).astype(np.float32)
    found = cut_window(IMAGE, [3, 4, 9, 10], Crop(7, mean=mean))
    np.testing.assert_array_equal(found, IMAGE[:, 4:11, 3:10] - mean[:, 2:9, 2:9])
    mirrored = cut_window(IMAGE, [3, 4, 9, 10], Crop(7, mean=mean), True)
    np.testing.assert_array_equal(mirrored, IMAGE[:, 4:11, 9:2:-1] - mean[:, 2:9, 2:9])


def test_a_window_outside_of_the_image():
    with pytest.raises(ValueError, match=r"the window \[3, 4, 30, 10\] is not inside of the image of 30 x 20"):
        cut_window(IMAGE, [3, 4, 30, 10], Crop(7))


LAYER = """layer {{ name: "d" type: "WindowData" top: "data" top: "label" transform_param {{ {transform} }}
    window_data_param {{ source: "windows.txt" batch_size: 8 {settings} }} }}"""


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, [(20, 30), (25, 15)])
    (tmp_path / "windows.txt").write_text("""# 0
0.png
3
20
30
3
1 1.0 2 3 12 13
2 0.6 5 5 14 14
0 0.3 1 1 8 8
# 1
1.png
3 25 15 1
5 0.1 0 0 14 24
""")
    return tmp_path


def feed(folder, transform: str = "crop_size: 5", settings: str = "", **more) -> Feed:
    text = LAYER.format(transform=transform, settings=settings)
    return Feed(resolve(text, NetState("TRAIN")), None, base=folder, **more)


def batches(one: Feed, count: int, start: int = 0) -> list[dict[str, np.ndarray]]:
    return [jax.device_get(one.fetch(one.resident, batch, jax.random.key(0)))
            for batch in itertools.islice(one.batches(start), count)]


def test_batches_begin_with_the_background(folder):
    one = feed(folder)
    assert one.shapes == {"data": (8, 3, 5, 5), "label": (8,)}
    found = batches(one, 30)
    for batch in found:
        assert batch["label"][:6].tolist() == [0] * 6
    # 60 draws of two windows miss one with probability 2^-59.
    assert set(np.concatenate([batch["label"][6:] for batch in found]).tolist()) == {1, 2}
    items = {batch["data"][i].tobytes() for batch in found for i in range(8)}
    assert items == {one._streams[0].dataset.records[i]["data"].tobytes() for i in range(4)}
    assert all(np.array_equal(a["data"], b["data"]) for a, b in zip(batches(one, 5, 7), found[7:12], strict=True))
    again = pickle.loads(pickle.dumps(one._streams[0]))
    np.testing.assert_array_equal(again.read(3, 1, 0)[0]["data"], found[3]["data"])


def test_settings_of_the_layer(folder):
    half = batches(feed(folder, settings="fg_fraction: 0.5"), 1)[0]["label"]
    assert (half > 0).tolist() == [False] * 4 + [True] * 4
    strict = np.concatenate([batch["label"][6:] for batch in batches(feed(folder, settings="fg_threshold: 0.9"), 20)])
    assert set(strict.tolist()) == {1}
    strict = batches(feed(folder, settings="bg_threshold: 0.2 scale: 2"), 20)
    assert len({batch["data"][i].tobytes() for batch in strict for i in range(6)}) == 1
    plain = batches(feed(folder, settings="bg_threshold: 0.2"), 1)[0]["data"]
    np.testing.assert_array_equal(strict[0]["data"][0], 2 * plain[0])
    mirrored = batches(feed(folder, transform="crop_size: 5 mirror: true"), 60)
    assert len({batch["data"][i].tobytes() for batch in mirrored for i in range(8)}) == 8
    mean = np.arange(3 * 7 * 7, dtype=np.float32)
    (folder / "mean.binaryproto").write_bytes(
        BlobProto(num=1, channels=3, height=7, width=7, data=mean.tolist()).SerializeToString())
    of_mean = folder / "net.prototxt"
    of_mean.write_text(LAYER.format(transform=f'crop_size: 5 mean_file: "{folder / "mean.binaryproto"}"',
                                    settings="bg_threshold: 0.2"))
    less = batches(Feed(resolve(str(of_mean), NetState("TRAIN")), None, base=folder), 1)[0]["data"]
    np.testing.assert_array_equal(less[0], plain[0] - mean.reshape(3, 7, 7)[:, 1:6, 1:6])


@pytest.mark.parametrize(("transform", "settings", "message"), [
    ("scale: 1", "", "expected transform_param.crop_size; found none"),
    ("crop_size: 5", "context_pad: 3", "context_pad 3 leaves nothing of crop_size 5"),
    ("crop_size: 5", 'crop_mode: "round"', "crop_mode is 'warp' or 'square'; found 'round'"),
    ("crop_size: 5", "fg_threshold: 2", "found 0 of overlap 2 and above, 2 below 0.5"),
    ("crop_size: 5", "fg_threshold: 0.2 bg_threshold: 0.2", "foreground windows have classes from 1 on; found 1"),
])
def test_wrong_settings(folder, transform, settings, message):
    with pytest.raises(JaffeError) as caught:
        feed(folder, transform, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "has no windows"),
    ("# 0\n0.png\n3 20 30 1\n1 0.9 0 0", "is not a window file: it ends within an image's windows"),
    ("0.png 3 20 30 1", "is not a window file: expected '#' before image 0; found '0.png'"),
    ("# 0\n0.png\n3 20 30 1\n1 high 0 0 1 1", "is not a window file: could not convert string to float: 'high'"),
])
def test_wrong_files(folder, text, message):
    (folder / "windows.txt").write_text(text)
    with pytest.raises(JaffeError) as caught:
        feed(folder)
    assert message in str(caught.value)


def test_a_window_outside_is_named(folder):
    path = folder / "windows.txt"
    path.write_text(path.read_text().replace("0 0 14 24", "0 0 15 24"))
    with pytest.raises(JaffeError, match=r"1.png: the window \[0, 0, 15, 24\] is not inside of the image of 15 x 25"):
        batches(feed(folder), 5)


def test_each_shard_has_its_share_of_the_foreground(folder):
    for shard in ((0, 2), (1, 2), (3, 4)):
        for batch in batches(feed(folder, shard=shard), 4):
            assert (batch["label"] > 0).tolist() == [False] * 6 + [True] * 2


@pytest.mark.parametrize(("window", "message"), [
    ("1000000000000 0.9 0 0 1 1", "class 1000000000000 has more than 32 bits"),
    ("1.5 0.9 0 0 1 1", "invalid literal for int"),
])
def test_wrong_classes(folder, window, message):
    (folder / "windows.txt").write_text(f"# 0\n0.png\n3 20 30 1\n{window}\n")
    with pytest.raises(JaffeError) as caught:
        feed(folder)
    assert message in str(caught.value)
