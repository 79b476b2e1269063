"""Data sets from data sets: conversions, means, parts, what is in them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

from jaffe.netdef import JaffeError
from jaffe.netdef.means import read_mean
from jaffe.train.data import open_dataset, writers
from jaffe.train.data.convert import convert, mean_image, sample, shuffled, split, write_mean
from jaffe.train.data.databases import LmdbSource
from jaffe.train.data.survey import contact_sheet, survey
from tests.train.data_files import raw, write_images, write_lmdb


def stored(path: Path) -> dict[bytes, bytes]:
    records = LmdbSource(path)
    return dict(zip(records.keys, records.values(range(len(records))), strict=True))


def items(count: int) -> dict[str, np.ndarray]:
    return {"data": np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), (count, 1, 2, 3)),
            "label": np.arange(count)}


# What Caffe's tools wrote of the same.


def test_convert_mnist_data(shared, tmp_path):
    """convert_mnist_data's database, record for record."""
    original = stored(shared / "data" / "mnist_test_1000_lmdb")
    convert(open_dataset(f"mnist:{shared / 'data' / 'mnist'}", "test"), f"lmdb:{tmp_path / 'db'}")
    ours = stored(tmp_path / "db")
    assert len(ours) == 10_000
    assert dict(itertools.islice(ours.items(), 1000)) == original
    assert sorted(os.listdir(tmp_path)) == ["db"]
    assert os.listdir(tmp_path / "db") == ["data.mdb"]


def test_convert_imageset(shared, tmp_path):
    """convert_imageset's databases: that of encoded images byte for byte, that of pixels but for roundings."""
    data = shared / "data"
    images = f"images:{data / 'list.txt'}?root={data / 'imgs'}/"
    convert(open_dataset(images), f"lmdb:{tmp_path / 'encoded'}", encode="jpg")
    assert stored(tmp_path / "encoded") == stored(data / "images_encoded_lmdb")
    convert(open_dataset(f"{images}&size=64x80"), f"lmdb:{tmp_path / 'raw'}")
    ours, theirs = open_dataset(str(tmp_path / "raw")).records, open_dataset(str(data / "images_raw_lmdb")).records
    assert ours.keys == theirs.keys
    for i in range(3):
        assert np.abs(ours[i]["data"].astype(int) - theirs[i]["data"]).max() <= 2


@pytest.mark.parametrize(("name", "mean"), [
    ("mnist_train_6000_lmdb", "mnist_mean.binaryproto"), ("images_raw_lmdb", "images_mean.binaryproto")])
def test_compute_image_mean(shared, tmp_path, name, mean):
    """compute_image_mean's file, byte for byte."""
    write_mean(mean_image(open_dataset(str(shared / "data" / name))), tmp_path / "mean.binaryproto")
    assert (tmp_path / "mean.binaryproto").read_bytes() == (shared / "data" / mean).read_bytes()


# From every source to every target.


@pytest.mark.parametrize("target", ["lmdb:out", "hdf5:out", "records:out", "npz:out.npz", "out.npz"])
def test_round_trips(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    source = open_dataset(items(10))
    told = []
    made = convert(source, target, advance=told.append)
    assert (made.records, made.begun, made.damaged, sum(told)) == (10, 0, (), 10)
    back = open_dataset(target.partition(":")[2] or target)
    assert len(back.records) == 10
    for i in range(10):
        assert back.records[i]["data"].tolist() == source.records[i]["data"].tolist()
        assert back.records[i]["data"].dtype == np.uint8
        assert back.records[i]["label"] == i


def test_fields_of_any_shape_into_hdf5(tmp_path):
    data = {"low": np.random.rand(5, 3, 2, 2).astype("f4"), "high": np.random.rand(5, 3, 4, 4), "several": np.eye(5)}
    convert(open_dataset(data), f"hdf5:{tmp_path / 'out'}")
    with h5py.File(tmp_path / "out" / (tmp_path / "out" / "files.txt").read_text().strip()) as file:
        assert sorted(file) == ["high", "low", "several"]
        np.testing.assert_array_equal(file["high"], data["high"])


def test_floats_and_vectors_into_a_database(tmp_path):
    data = {"x": np.random.rand(4, 7).astype("f4"), "y": np.arange(4)}
    convert(open_dataset(data), f"lmdb:{tmp_path / 'out'}")
    back = open_dataset(str(tmp_path / "out")).records
    np.testing.assert_array_equal(back[2]["data"], data["x"][2].reshape(7, 1, 1))
    assert back[2]["label"] == 2


def test_keys_of_a_database_stay(tmp_path):
    with lmdb.open(str(tmp_path / "in")) as env, env.begin(write=True) as transaction:
        for key in ("cat", "dog", "zebra"):
            transaction.put(key.encode(), raw(len(key)))
    convert(open_dataset(str(tmp_path / "in")), f"lmdb:{tmp_path / 'out'}")
    assert stored(tmp_path / "out") == stored(tmp_path / "in")
    convert(sample(open_dataset(str(tmp_path / "in")), 2, seed=1), f"lmdb:{tmp_path / 'two'}")
    assert stored(tmp_path / "two").items() < stored(tmp_path / "in").items()


def test_encoded_from_pixels_and_files(tmp_path):
    pixels = write_images(tmp_path / "in", [(4, 5), (6, 7)])
    (tmp_path / "list.txt").write_text("in/0.png 3\nin/1.png 4\n")
    name = f"images:{tmp_path / 'list.txt'}"
    convert(open_dataset(name), f"lmdb:{tmp_path / 'kept'}", encode="png")
    kept = open_dataset(str(tmp_path / "kept")).records
    assert kept.datum(1).data == (tmp_path / "in" / "1.png").read_bytes()
    assert kept.key(1) == "00000001_in/1.png"
    assert [int(kept[i]["label"]) for i in range(2)] == [3, 4]
    convert(open_dataset(f"{name}?color=false&size=3x9"), f"records:{tmp_path / 'made'}", encode="png")
    made = open_dataset(str(tmp_path / "made")).records
    assert made.datum(0).encoded
    assert made[0]["data"].shape == (1, 3, 9)
    # RGB, as TFDS and CIFAR have it, is blue, green, red in an image file.
    (tmp_path / "test_batch.bin").write_bytes(b"\x07" + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1024)
    convert(open_dataset(f"cifar10:{tmp_path}", "test"), f"lmdb:{tmp_path / 'cifar'}", encode="png")
    image = cv2.imdecode(np.frombuffer(open_dataset(str(tmp_path / "cifar")).records.datum(0).data, np.uint8), 1)
    assert image[0, 0].tolist() == [30, 20, 10]
    np.testing.assert_array_equal(pixels[1], cv2.imread(str(tmp_path / "in" / "1.png")))


def test_shuffled(tmp_path):
    write_images(tmp_path, [(4, 5)] * 20)
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(20)))
    convert(shuffled(open_dataset(str(tmp_path / "list.txt")), 3), f"lmdb:{tmp_path / 'out'}")
    keys = open_dataset(str(tmp_path / "out")).records
    order = [int(keys[i]["label"]) for i in range(20)]
    assert sorted(order) == list(range(20)) != order
    assert [keys.key(i) for i in range(20)] == [f"{i:08}_{label}.png" for i, label in enumerate(order)]


def test_parts(tmp_path, monkeypatch):
    """Files of a bounded size, in order."""
    monkeypatch.setattr(writers, "PART_BYTES", 100)
    monkeypatch.setattr("jaffe.train.data.convert.CHUNK", 7)
    for kind in ("hdf5", "records"):
        convert(open_dataset(items(100)), f"{kind}:{tmp_path / kind}")
        assert len(list((tmp_path / kind).glob("part-*"))) > 3
        back = open_dataset(str(tmp_path / kind)).records
        assert [int(back[i]["label"]) for i in range(100)] == list(range(100))


# Interrupted, damaged, wrong.


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("target", ["lmdb:out", "hdf5:out", "records:out"])
def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaffe.train.data.convert.CHUNK", 10)
    monkeypatch.setattr(writers, "PART_BYTES", 200)
    source = open_dataset(items(95))
    done = 0

    def advance(records: int) -> None:
        nonlocal done
        done += records
        if done >= 50:
            raise Interrupted

    with pytest.raises(Interrupted):
        convert(source, target, advance=advance)
    assert os.listdir(tmp_path) == ["out.partial"]  # nothing has the name
    with pytest.raises(JaffeError, match=r"out\.partial was begun by another command, which was interrupted"):
        convert(open_dataset(items(90)), target)
    made = convert(source, target)
    assert 40 <= made.begun <= 50
    back = open_dataset(str(tmp_path / "out")).records
    assert [int(back[i]["label"]) for i in range(95)] == list(range(95))
    assert os.listdir(tmp_path) == ["out"]
    assert not {"plan.json", "lock.mdb"} & set(os.listdir(tmp_path / "out"))


def test_killed_conversions(tmp_path):
    """Killed again and again, it comes to what was never killed."""
    count = 60_000
    np.savez(tmp_path / "in.npz", data=np.arange(count * 16, dtype=np.uint32).view(np.uint8).reshape(count, 1, 8, 8),
             label=np.arange(count) % 10)
    source = str(tmp_path / "in.npz")
    convert(open_dataset(source), f"lmdb:{tmp_path / 'whole'}")
    command = [sys.executable, "-c", "from jaffe.cli import main; main()", "data", "convert", source,
               f"lmdb:{tmp_path / 'out'}"]
    kills = went_on = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        partial = tmp_path / "out.partial" / "data.mdb"
        before = partial.stat().st_mtime_ns if partial.exists() else 0
        while kills < 3 and process.poll() is None:
            if partial.exists() and partial.stat().st_mtime_ns > before:
                time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        out, _ = process.communicate()
        if process.returncode == 0:
            went_on = int("went on behind record" in out)
            break
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    assert kills == 3
    assert went_on
    assert stored(tmp_path / "out") == stored(tmp_path / "whole")


def test_damaged_records(tmp_path):
    write_images(tmp_path, [(4, 5)] * 6)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(6)))
    source = open_dataset(str(tmp_path / "list.txt"))
    with pytest.raises(JaffeError, match=r"0\.png: is empty; expected an image"):
        convert(source, f"lmdb:{tmp_path / 'out'}")
    made = convert(source, f"lmdb:{tmp_path / 'left'}", skip_damaged=True)
    assert len(made.damaged) == 2
    back = open_dataset(str(tmp_path / "left")).records
    assert [back.key(i) for i in range(4)] == [f"{i:08}_{i}.png" for i in (1, 2, 4, 5)]


def test_what_is_there_is_kept(tmp_path):
    convert(open_dataset(items(3)), f"lmdb:{tmp_path / 'out'}")
    with pytest.raises(JaffeError, match="out is there already; --force overwrites it"):
        convert(open_dataset(items(5)), f"lmdb:{tmp_path / 'out'}")
    bad = [{"data": np.zeros((1, 2, 3)), "label": np.array(0)}, {"data": np.zeros((1, 2, 3)), "label": np.array(0.5)}]
    with pytest.raises(JaffeError, match="list, record 1: a Datum has one whole number as label"):
        convert(open_dataset(bad), f"lmdb:{tmp_path / 'out'}", force=True)
    assert len(stored(tmp_path / "out")) == 3
    shutil_left = tmp_path / "out.partial"
    assert shutil_left.is_dir()
    for file in shutil_left.iterdir():
        file.unlink()
    convert(open_dataset(items(5)), f"lmdb:{tmp_path / 'out'}", force=True)
    assert len(stored(tmp_path / "out")) == 5
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith((".", "out"))) == ["out"]


@pytest.mark.parametrize(("data", "target", "settings", "message"), [
    (items(3), "lmbd:out", {}, "names no kind of data to write; did you mean 'lmdb'?; expected lmdb:PATH, hdf5:PATH"),
    (items(3), "out", {}, "'out' names no kind of data to write"),
    (items(3), "lmdb:no/where/out", {}, "there is no folder no/where"),
    (items(3), "lmdb:out", {"encode": "gif"}, "images are encoded as jpg or png; received 'gif'"),
    (items(3), "hdf5:out", {"encode": "png"}, "only lmdb: and records: hold encoded images"),
    ({"data": np.zeros((3, 2)), "label": np.arange(3)}, "lmdb:out", {"encode": "png"},
     "arrays, record 0: an image that is encoded is of bytes, with 1, 3 or 4 channels; found float64 (2,)"),
    ({"a": np.zeros((3, 2)), "b": np.zeros(3), "c": np.zeros(3)}, "lmdb:out", {},
     "a database holds an image and a label: name them"),
    ({"data": np.zeros((3, 2)), "label": np.zeros((3, 2))}, "lmdb:out", {},
     "arrays, record 0: a Datum has one whole number as label; found float64 (2,)"),
    ({"data": np.zeros((3, 2, 2, 2, 2))}, "lmdb:out", {},
     "arrays, record 0: a Datum holds (channels, height, width); found shape (2, 2, 2, 2)"),
    ({"data": np.zeros((3, 2)), "label": np.arange(3) + 2**31}, "lmdb:out", {},
     "a Datum's label has 32 bits; found 2147483648"),
    ([{"data": np.zeros((1, 2, 3))}, {"data": np.zeros((1, 2, 4))}], "hdf5:out", {},
     "data of '00000001' has shape (1, 2, 4), that of '00000000' (1, 2, 3); expected one"),
])
def test_what_cannot_be_converted(tmp_path, monkeypatch, data, target, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaffeError) as caught:
        convert(open_dataset(data), target, **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_records_of_one_key(tmp_path):
    source = open_dataset(write_lmdb(tmp_path / "in", [raw(1), raw(2)]))
    twice = shuffled(source, 0)
    twice.records.indices[:] = 0
    with pytest.raises(JaffeError, match="two records have the key '00000000'"):
        convert(twice, f"lmdb:{tmp_path / 'out'}")


# Means and parts.


def test_mean(tmp_path):
    data = np.random.default_rng(0).integers(256, size=(2500, 3, 4, 5), dtype=np.uint8)
    found = mean_image(open_dataset({"data": data, "label": np.zeros(2500)}))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, data.mean(0, dtype=np.float64), rtol=1e-7)
    for name in ("m.binaryproto", "m.npy"):
        write_mean(found, tmp_path / name)
        np.testing.assert_array_equal(read_mean(tmp_path / name), found)
    with pytest.raises(JaffeError, match=r"ends in .binaryproto or .npy"):
        write_mean(found, tmp_path / "m.txt")
    write_images(tmp_path, [(4, 5), (5, 4)])
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 1\n")
    with pytest.raises(JaffeError, match=r"record 1 \(1.png\): data has shape \(3, 5, 4\); expected \(3, 4, 5\)"):
        mean_image(open_dataset(str(tmp_path / "list.txt")))


def test_split():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    source = open_dataset({"data": np.arange(100), "label": labels})
    for by_class in (False, True):
        parts = split(source, [0.7, 0.2, 0.1], seed=3, by_class=by_class)
        chosen = [[int(part.records[i]["data"]) for i in range(len(part.records))] for part in parts]
        assert [len(part) for part in chosen] == [70, 20, 10]
        assert sorted(itertools.chain(*chosen)) == list(range(100))
        assert all(part == sorted(part) for part in chosen)
        counts = [np.bincount(labels[part], minlength=3).tolist() for part in chosen]
        assert (counts == [[42, 21, 7], [12, 6, 2], [6, 3, 1]]) == by_class
    assert [len(part.records) for part in split(source, [1 / 3, 1 / 3, 1 / 3])] == [34, 33, 33]
    assert [len(part.records) for part in split(source, [0.25])] == [25]
    for shares in ([], [0.5, 0.6], [0.5, -0.1], [0.001]):
        with pytest.raises(JaffeError):
            split(source, shares)


def test_sample():
    source = open_dataset(items(50))
    drawn = [int(record["label"]) for record in sample(source, 10, seed=2).records]
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn)
    assert drawn != [int(record["label"]) for record in sample(source, 10, seed=3).records]
    with pytest.raises(JaffeError, match="expected a number from 1 to that; received 51"):
        sample(source, 51)


# What is in them.


def test_survey(tmp_path):
    values = [raw(i % 3, (1, 2, 3)) for i in range(50)]
    values[7] = b"\x0a\xff"
    values[9] = raw(2, (3, 2, 3))
    found = survey(open_dataset(write_lmdb(tmp_path / "db", values)), most=None)
    assert (found.records, found.read, len(found.damaged)) == (50, 50, 1)
    text = str(found)
    assert "50 records" in text
    assert "data: uint8 (1, 2, 3), uint8 (3, 2, 3); 0 to 2" in text
    assert "damaged: 1 of the 50 records read" in text
    assert "record 7 (key 00000007)" in text
    assert found.labels == {}  # what is damaged has none
    whole = survey(open_dataset(items(2000)), most=100)
    assert (whole.records, whole.read) == (2000, 100)
    assert len(whole.labels) == 2000  # all of them, though not all were read
    assert "and 1900 more" in str(whole)
    multi = survey(open_dataset({"data": np.zeros((4, 3)), "label": np.eye(4)}))
    assert multi.labels == {}
    assert "label: float64 (4,); 0 to 1, mean 0.25" in str(multi)


def test_survey_of_classes_with_names(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, [(4, 5)] * (3 if name == "cat" else 1))
    text = str(survey(open_dataset(f"folder:{tmp_path}")))
    assert "labels: 2 classes, from 1 to 3 records each" in text
    assert "0 cat        3 ####" in text


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_contact_sheet(tmp_path, suffix):
    write_images(tmp_path, [(40, 50)] * 10)
    (tmp_path / "4.png").write_bytes(b"nonsense")
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(10)))
    assert contact_sheet(open_dataset(str(tmp_path / "list.txt")), tmp_path / f"sheet{suffix}") == 9
    assert (tmp_path / f"sheet{suffix}").stat().st_size > 5000
    with pytest.raises(JaffeError, match=r"has no images \(C, H, W\): data \(3,\)"):
        contact_sheet(open_dataset({"data": np.zeros((4, 3))}), tmp_path / "no.png")


def test_colours_of_a_contact_sheet(tmp_path):
    """Blue is blue, whichever way round the channels are."""
    blue = np.zeros((1, 3, 4, 4), np.uint8)
    blue[:, 0] = 255
    contact_sheet(open_dataset({"data": blue}), tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image[image.shape[0] // 2, image.shape[1] // 2].tolist() == [255, 0, 0]
