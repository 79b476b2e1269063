"""The feed over files: images of different sizes, processes that read, damage, shards, what data layers name."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import jax
import numpy as np
import psutil
import pytest

import jaffe
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto, Datum
from jaffe.train.data import Feed, stream
from tests.train.data_files import encoded, picture, raw, write_images, write_lmdb

DATA = """
layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} {more}
        data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}
"""


def make(text: str, phase: str = "TRAIN", **settings) -> Feed:
    return Feed(resolve(text, NetState(phase)), settings.pop("data", None), **settings)


def batches(one: Feed, count: int, start: int = 0, group: int = 1) -> list[dict[str, np.ndarray]]:
    found = []
    stream = one.batches(start, group)
    for i, batch in enumerate(itertools.islice(stream, count)):
        found.append(jax.device_get(one.fetch(one.resident, batch, jax.random.key(start + i))))
    stream.close()
    return found


def labels(one: Feed, count: int, start: int = 0) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches(one, count, start)]


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


@pytest.fixture
def pictures(tmp_path) -> tuple[str, list[np.ndarray]]:
    """An LMDB of encoded images of different sizes, and their pixels (C, H, W)."""
    pixels = [picture(height, width, seed=i) for i, (height, width) in
              enumerate([(7, 11), (9, 8), (13, 7), (7, 7), (10, 12)])]
    values = [Datum(data=encoded(image), encoded=True, label=i).SerializeToString() for i, image in enumerate(pixels)]
    write_lmdb(tmp_path / "db", values)
    return str(tmp_path / "db"), [image.transpose(2, 0, 1) for image in pixels]


# Images of different sizes.


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


# Who reads.


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)


@pytest.fixture
def twenty(tmp_path) -> str:
    return write_lmdb(tmp_path / "twenty", [raw(i) for i in range(20)])


MEMORY = """
layer { name: "d" type: "MemoryData" top: "data" top: "label" include { phase: TRAIN }
        memory_data_param { batch_size: 3 channels: 1 height: 2 width: 3 } }
"""


def test_any_number_of_processes_reads_the_same(streamed, pictures, twenty):
    text = DATA.format(source=pictures[0], batch=3, more="", transform="crop_size: 5 mirror: true")
    expected = batches(make(text, seed=5), 8)
    for workers in (1, 3):
        assert same(batches(make(text, seed=5, workers=workers), 8), expected)
        assert same(batches(make(text, seed=5, workers=workers), 3, start=5), batches(make(text, seed=5), 3, start=5))
    assert not same(batches(make(text, seed=6), 8), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_at_every_position(streamed, pictures, workers):
    """The images that a run sees from an iteration on are those that the uninterrupted run sees."""
    text = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5")
    whole = batches(make(text), 11)
    for start in range(0, 11, 1 if workers == 0 else 5):  # two epochs of five images
        found = [batch["data"] for batch in batches(make(text, workers=workers), 11 - start, start)]
        assert all(np.array_equal(a, b["data"]) for a, b in zip(found, whole[start:], strict=True))


def test_shards_take_each_record_once_an_epoch(where_, twenty):
    data = {"data": np.zeros((24, 1, 2, 3), np.uint8), "label": np.arange(24)}
    for given in (data, twenty):
        shards = [labels(make(MEMORY, data=given, shard=(i, 2)), 8) for i in range(2)]
        count = 24 if given is data else 20
        seen = [one for pair in zip(*(itertools.chain(*shard) for shard in shards), strict=True) for one in pair]
        alone = list(itertools.chain(*labels(make(MEMORY, data=given), 16)))
        assert seen == alone
        assert sorted(seen[:count]) == list(range(count))


@pytest.fixture(params=["resident", "streamed"])
def where_(request, monkeypatch):
    if request.param == "streamed":
        monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)


class Fatal:
    """Records of which one ends the process that reads it."""

    def __init__(self, owner: int):
        self.owner = owner

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        if index == 20 and os.getpid() != self.owner:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"data": np.full((1, 2, 3), index, np.uint8), "label": np.array(index)}


@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_a_process_that_dies_is_reported(streamed):
    with pytest.raises(JaffeError, match=r"Fatal: a process that reads the data ended with exit code -9 .* workers=0"):
        labels(make(MEMORY, data=Fatal(os.getpid()), workers=2), 20)


class Wrong:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        if index == 20:
            raise KeyError("gone")
        return {"data": np.full((1, 2, 3), index, np.uint8), "label": np.array(index)}


def test_an_error_in_a_process_names_the_record(streamed):
    with pytest.raises(JaffeError, match="Wrong, record 20: KeyError: 'gone'"):
        labels(make(MEMORY, data=Wrong(), workers=2), 20)


# Damage.


@pytest.fixture
def damaged(tmp_path) -> str:
    """Ten records, of which 3, 4 and 9 are damaged: no Datum, a wrong size, another shape."""
    values = [raw(i) for i in range(10)]
    values[3] = b"\x0a\xff"
    values[4] = Datum(channels=1, height=2, width=3, data=b"12345").SerializeToString()
    values[9] = raw(9, (1, 3, 2))
    return write_lmdb(tmp_path / "damaged", values)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_record_takes_the_place_of_a_damaged_one(where_, damaged, workers):
    one = make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged, skip_damaged=True,
               workers=workers)
    assert labels(one, 4) == [[0, 1, 2], [5, 5, 5], [6, 7, 8], [0, 0, 1]]
    assert labels(one, 1, start=1) == [[5, 5, 5]]
    assert len(one.damaged) == 3  # once each
    for message, key in zip(sorted(one.damaged), ("00000003", "00000004", "00000009"), strict=True):
        assert key in message
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        labels(make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged), 4)


def test_nothing_but_damage(tmp_path):
    name = write_lmdb(tmp_path / "db", [raw(0), *[b"\x0a\xff"] * 300])
    with pytest.raises(JaffeError, match=r"100 records in a row cannot be read; the first: LMDB .*record 1 \(key 0"):
        make(MEMORY, data=name, skip_damaged=True)


# What data layers name.


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
def test_hdf5_data(tmp_path, where_, shuffle):
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


# Sampling by class.


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


# A mean image is for images of its own size.


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


def test_batches_stay_as_they_were_handed_out(streamed, twenty, tmp_path: Path):
    """The memory of an earlier batch is not that of a later one, also where processes read."""
    for workers in (0, 1):
        one = make(MEMORY, data=twenty, workers=workers)
        kept = list(itertools.islice(one.batches(), 10))
        assert [np.asarray(batch[0]["label"]).tolist() for batch in kept] == labels(one, 10)


def test_a_run_warns_of_what_it_skips(where_, damaged, tmp_path):
    class Told(jaffe.train.Reporter):
        def __init__(self):
            self.said: list[str] = []

        def warned(self, text: str) -> None:
            self.said.append(text)

    net = MEMORY + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    told = Told()
    settings = dict(net=net, data=damaged, base_lr=0.0, lr_policy="fixed", max_iter=8)
    jaffe.Solver(**settings, skip_damaged=True, reporter=told).run()
    assert [text.partition("(key ")[2][:8] for text in sorted(told.said) if "(key" in text] == ["00000003", "00000004"]
    assert len(told.said) == 3
    assert all(text.startswith("skipped: ") for text in told.said)
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        jaffe.Solver(**settings).run()


def test_runs_go_on_with_the_next_image(tmp_path, pictures):
    """From every iteration of a small set on, to the weights of the run that was never stopped."""
    net = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5 mirror: true scale: 0.01") + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    settings = dict(net=net, base_lr=0.01, momentum=0.9, lr_policy="fixed", max_iter=6, random_seed=2, snapshot_keep=10)
    whole = jaffe.Solver(**settings, snapshot=1, snapshot_prefix=str(tmp_path / "whole"))
    whole.run()
    for iteration in range(1, 6):
        other = jaffe.Solver(**settings, snapshot_prefix=str(tmp_path / f"from_{iteration}"),
                             snapshot_after_train=False, workers=iteration % 2)
        other.run(tmp_path / "whole_snapshots" / f"iter_{iteration}")
        assert jax.tree.all(jax.tree.map(np.array_equal, other.variables, whole.variables))


# What an audit found.


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


def test_crops_do_not_depend_on_groups_or_shards(streamed, pictures):
    text = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5")
    alone = [batch["data"] for batch in batches(make(text), 12)]
    grouped = [one for batch in batches_of_two(make(text)) for one in batch]
    assert all(np.array_equal(a, b) for a, b in zip(alone, grouped, strict=True))
    # Shard i of 2 takes places i, i + 2, ...: of the whole stream every second image, cropped as there.
    whole = np.concatenate(alone)
    for number in range(2):
        found = np.concatenate([batch["data"] for batch in batches(make(text, shard=(number, 2)), 6)])
        np.testing.assert_array_equal(found, whole[number::2])


def batches_of_two(one: Feed) -> list[np.ndarray]:
    text = one.batches(0, 2)
    found = [np.stack([np.asarray(one.fetch(one.resident, jax.tree.map(lambda x, i=i: x[i], batch), jax.random.key(0))
                                  ["data"]) for i in range(2)]) for batch in itertools.islice(text, 6)]
    text.close()
    return found


def test_a_first_record_that_is_damaged(tmp_path):
    name = write_lmdb(tmp_path / "db", [b"\x0a\xff", raw(1)])
    assert labels(make(MEMORY, data=name, skip_damaged=True), 1) == [[1, 1, 1]]


def test_batches_before_damage_come_first(streamed, damaged):
    one = make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged)
    stream = one.batches()
    assert np.asarray(next(stream)[0]["label"]).tolist() == [0, 1, 2]
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        next(stream)


def test_whatever_a_source_raises(streamed):
    class Lying:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int):
            return {"data": np.zeros((1, 2, 3), np.uint8), "label": np.array(index)}

        def gather(self, indices):
            raise ZeroDivisionError

    assert sorted(itertools.chain(*labels(make(MEMORY, data=Lying()), 5))) == sorted([*range(5)] * 3)


ORPHANS = """
import sys, time
import numpy as np
from jaffe.netdef import NetState, resolve
from jaffe.train.data import Feed, stream

class Records:
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"data": np.zeros((1, 2, 3), np.uint8), "label": np.array(index)}

if __name__ == "__main__":
    stream.RESIDENT_BYTES = 0
    batches = Feed(resolve(sys.argv[1], NetState("TRAIN")), Records(), workers=2).batches()
    next(batches)
    print("reading", flush=True)
    time.sleep(60)
"""


def test_processes_end_with_the_one_that_is_killed(tmp_path):
    (tmp_path / "reads.py").write_text(ORPHANS)
    process = subprocess.Popen([sys.executable, str(tmp_path / "reads.py"), MEMORY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    workers = [one for one in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in
               " ".join(one.cmdline())]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=10)[1]
