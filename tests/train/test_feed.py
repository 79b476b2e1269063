"""The feed over files: images of different sizes, what data layers name, sampling by class."""

from __future__ import annotations

import itertools

import cv2
import h5py
import jax
import numpy as np
import pytest

from jaffe.netdef import JaffeError
from jaffe.netdef.jaffe_pb2 import BlobProto, Datum
from tests.train.data_files import encoded, picture, raw, write_images, write_lmdb
from tests.train.feeding import DATA, batches, labels, make


def test_central_crops_of_images_of_different_sizes(pictures):
    source, pixels = pictures
    one = make(DATA.format(source=source, batch=5, more="",
                           transform="crop_size: 5 mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5"), "TEST")
    assert one.shapes == {"data": (5, 3, 5, 5), "label": (5,)}
    (batch,) = batches(one, 1)
    for found, image in zip(batch["data"], pixels, strict=True):
        top, left = ((n - 5) // 2 for n in image.shape[1:])
        expected = (image[:, top : top + 5, left : left + 5] - np.array([1.0, 2, 3])[:, None, None]) * 0.5
        np.testing.assert_array_equal(found, expected)


def test_random_crops_of_images_of_different_sizes(pictures):
    source, pixels = pictures
    one = make(DATA.format(source=source, batch=5, more="", transform="crop_size: 5"))
    corners = set()
    for batch in batches(one, 60):
        for i, found in enumerate(batch["data"]):
            image = pixels[i].astype(np.float32)
            fitting = [(top, left) for top in range(image.shape[1] - 4) for left in range(image.shape[2] - 4)
                       if np.array_equal(found, image[:, top : top + 5, left : left + 5])]
            assert len(fitting) == 1
            corners.add((i, *fitting[0]))
    # All corners of the smallest image come up: 9, of which 60 draws miss one with probability 9 (8/9)^60 = 0.8 %.
    assert {corner[1:] for corner in corners if corner[0] == 3} == set(itertools.product(range(3), repeat=2))


def test_padding_of_images_of_different_sizes(pictures):
    source, pixels = pictures
    transform = "pad_to: 13 pad_to: 12 mean_value: 100.4"
    one = make(DATA.format(source=source, batch=5, more="", transform=transform), "TEST")
    assert one.shapes["data"] == (5, 3, 13, 12)
    (batch,) = batches(one, 1)
    for found, image in zip(batch["data"], pixels, strict=True):
        expected = np.full((3, 13, 12), 100.0, np.float32)
        expected[:, : image.shape[1], : image.shape[2]] = image
        np.testing.assert_array_equal(found, expected - np.float32(100.4))


def test_resizing_of_images_of_different_sizes(pictures):
    """By the filter of images of one size, but for rounding to bytes."""
    source, pixels = pictures
    one = make(DATA.format(source=source, batch=5, more="", transform="resize: 5 resize: 6"), "TEST")
    (batch,) = batches(one, 1)
    for found, image in zip(batch["data"], pixels, strict=True):
        expected = jax.image.resize(image.astype(np.float32), (3, 5, 6), "bilinear")
        assert np.abs(found - expected).max() < 1  # Pillow rounds after each axis


def test_images_of_different_sizes_need_a_size(pictures):
    with pytest.raises(JaffeError, match=r"record 1 \(00000001\): data is uint8 \(3, 9, 8\); expected uint8 "
                                         r"\(3, 7, 11\), as record 0; crop_size, resize or pad_to of transform_param"):
        make(DATA.format(source=pictures[0], batch=5, more="", transform="mean_value: 1"))


@pytest.mark.parametrize(("transform", "message"), [
    ("crop_size: 8", "crop_size 8 is larger than the images, (7, 11)"),
    ("pad_to: 12", r"record 2 (00000002): the image, (13, 7), is larger than pad_to (12, 12)"),
    ("pad_to: 12 resize: 3", "resize excludes pad_to; found both"),
    ("force_color: true force_gray: true", "force_color excludes force_gray; found both"),
    ("pad_to: 1 pad_to: 2 pad_to: 3", "pad_to is one positive number, or height and width; found [1, 2, 3]"),
])
def test_images_that_do_not_fit(pictures, transform, message):
    with pytest.raises(JaffeError) as caught:
        batches(make(DATA.format(source=pictures[0], batch=5, more="", transform=transform), "TEST"), 1)
    assert message in str(caught.value)


def test_force_gray(pictures):
    source, pixels = pictures
    one = make(DATA.format(source=source, batch=5, more="", transform="force_gray: true crop_size: 7"), "TEST")
    assert one.shapes["data"] == (5, 1, 7, 7)
    (batch,) = batches(one, 1)
    grey = cv2.imdecode(np.frombuffer(encoded(pixels[3].transpose(1, 2, 0)), np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(batch["data"][3, 0], grey)


def test_image_data(tmp_path):
    pixels = write_images(tmp_path / "in", [(4, 5)] * 7)
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(7)))
    text = f"""layer {{ name: "d" type: "ImageData" top: "data" top: "label"
        image_data_param {{ source: "list.txt" root_folder: "{tmp_path / 'in'}/" batch_size: 7 %s }} }}"""
    one = make(text % "", base=tmp_path)
    (batch,) = batches(one, 1)
    assert batch["label"].tolist() == list(range(7))
    np.testing.assert_array_equal(batch["data"], np.stack(pixels).transpose(0, 3, 1, 2))
    shuffled = labels(make(text % "shuffle: true", base=tmp_path), 2)
    assert sorted(shuffled[0]) == sorted(shuffled[1]) == list(range(7))
    assert shuffled[0] != shuffled[1]
    skipped = {labels(make(text % "rand_skip: 4", base=tmp_path, seed=seed), 1)[0][0] for seed in range(40)}
    assert skipped == {0, 1, 2, 3}  # 40 draws miss one with probability 4 (3/4)^40 = 0.004 %
    resized = make(text % "new_height: 3 new_width: 6 is_color: false", base=tmp_path)
    assert resized.shapes["data"] == (7, 1, 3, 6)
    with pytest.raises(JaffeError, match="expected both new_height and new_width, or neither; found 3 and 0"):
        make(text % "new_height: 3", base=tmp_path)


def test_image_data_with_several_labels(tmp_path):
    write_images(tmp_path, [(4, 5)] * 2)
    (tmp_path / "list.txt").write_text("0.png 1 0\n1.png 0 0.25\n")
    one = make("""layer { name: "d" type: "ImageData" top: "data" top: "label"
        image_data_param { source: "list.txt" batch_size: 2 num_labels: 2 } }""", base=tmp_path)
    assert one.shapes["label"] == (2, 2)
    assert batches(one, 1)[0]["label"].tolist() == [[1, 0], [0, 0.25]]


@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_hdf5_data(tmp_path, where_held, shuffle):
    for name, rows in (("a", range(5)), ("b", range(5, 7))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"] = np.array([[[[i]]] for i in rows], "f4")
            file["fine"] = np.array([[[[i] * 2] * 2] for i in rows], "f4")
            file["label"] = np.array([[i, -i] for i in rows], "f4")
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    one = make(f"""layer {{ name: "d" type: "HDF5Data" top: "label" top: "data" top: "fine"
        hdf5_data_param {{ source: "list.txt" batch_size: 7 shuffle: {shuffle} }} }}""", base=tmp_path)
    assert one.shapes == {"label": (7, 2), "data": (7, 1, 1, 1), "fine": (7, 1, 2, 2)}
    found = batches(one, 2)
    for batch in found:
        order = batch["label"][:, 0].tolist()
        assert sorted(order) == list(range(7))
        assert (order == list(range(7))) == (shuffle == "false")
        assert batch["label"][:, 1].tolist() == [-i for i in order]
        assert batch["data"].ravel().tolist() == order
        assert batch["fine"][:, 0, 1, 1].tolist() == order
    with pytest.raises(JaffeError, match="HDF5Data takes no transform_param"):
        make("""layer { name: "d" type: "HDF5Data" top: "data" transform_param { scale: 2 }
            hdf5_data_param { source: "list.txt" batch_size: 7 } }""", base=tmp_path)


@pytest.mark.parametrize(("layer", "message"), [
    ('type: "Data" data_param { batch_size: 2 }', "expected data_param.source, or data=...; found neither"),
    ('type: "ImageData" image_data_param { batch_size: 2 source: "gone" }', "'gone' is not found; looked in"),
    ('type: "MemoryData" memory_data_param { batch_size: 2 channels: 1 height: 1 width: 1 }',
     "MemoryData has no data of its own here: expected data=...; found none"),
])
def test_layers_without_data(layer, message):
    with pytest.raises(JaffeError) as caught:
        make(f'layer {{ name: "d" {layer} top: "data" top: "label" }}')
    assert message in str(caught.value)


def test_sampling_as_declared(tmp_path):
    of = [0] * 9 + [1] * 2 + [2]
    name = write_lmdb(tmp_path / "db", [Datum(channels=1, height=1, width=1, data=bytes([i]), label=label)
                                        .SerializeToString() for i, label in enumerate(of)])
    text = """layer {{ name: "d" type: "Data" top: "data" top: "label" sampling_param {{ {} }}
        data_param {{ source: "{}" backend: LMDB batch_size: 1 }} }}"""

    def counts(sampling: str, phase: str = "TRAIN") -> list[int]:
        one = make(text.format(sampling, name.removeprefix("lmdb:")), phase)
        ((items, _),) = one.sizes
        return np.bincount(np.concatenate(labels(one, items)), minlength=3).tolist()

    assert counts("") == [9, 2, 1]
    assert counts("cap: 4") == [4, 2, 1]
    assert counts("balance: true") == [9, 9, 9]
    assert counts("cap: 4 balance: true") == [4, 4, 4]
    assert counts("cap: 4 balance: true", "TEST") == [9, 2, 1]


def test_labels_of_images_are_known_without_decoding_them(tmp_path):
    (tmp_path / "list.txt").write_text("0.png 1\ngone.png 1\n1.png 0\n")
    write_images(tmp_path, [(4, 5)] * 2)
    one = make("""layer { name: "d" type: "ImageData" top: "data" top: "label" sampling_param { cap: 2 }
        image_data_param { source: "list.txt" batch_size: 3 } }""", base=tmp_path, skip_damaged=True)
    assert labels(one, 1) == [[1, 0, 0]]


def test_mean_image_over_encoded_images(tmp_path):
    pixels = [picture(4, 5, seed=i).transpose(2, 0, 1) for i in range(3)]
    source = tmp_path / "db"
    write_lmdb(source, [Datum(data=encoded(image.transpose(1, 2, 0)), encoded=True).SerializeToString()
                        for image in pixels])
    mean = np.random.default_rng(3).uniform(0, 255, (3, 4, 5)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(
        BlobProto(num=1, channels=3, height=4, width=5, data=mean.ravel().tolist()).SerializeToString())
    one = make(DATA.format(source=source, batch=3, more="", transform='mean_file: "mean.binaryproto" crop_size: 3'),
               "TEST", base=tmp_path)
    (batch,) = batches(one, 1)
    np.testing.assert_array_equal(batch["data"], (np.stack(pixels) - mean)[:, :, :3, 1:4])


def test_tops_of_a_layer_with_data_of_its_own_go_by_place(tmp_path):
    """A database of label images, read into a top that is called label."""
    name = write_lmdb(tmp_path / "db", [raw(3)] * 4).removeprefix("lmdb:")
    one = make(f"""layer {{ name: "d" type: "Data" top: "label" data_param {{ source: "{name}" backend: LMDB
        batch_size: 2 }} }}""")
    assert one.shapes == {"label": (2, 1, 2, 3)}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["aux"] = np.zeros((2, 3)), np.zeros((2, 3))
    (tmp_path / "list.txt").write_text("a.h5")
    with pytest.raises(JaffeError, match=r"layer 'd' \(<text>:1\): the files have no data set 'labels'; they have"):
        make("""layer { name: "d" type: "HDF5Data" top: "data" top: "labels"
            hdf5_data_param { source: "list.txt" batch_size: 2 } }""", base=tmp_path)
