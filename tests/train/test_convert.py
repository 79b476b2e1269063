"""Data sets from data sets: conversions."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

from jaffe.netdef import JaffeError
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import only_labels, open_dataset, writers
from jaffe.train.data.convert import convert, mean_image, sample, shuffled, write_mean
from jaffe.train.data.databases import LmdbSource
from jaffe.train.data.dataset import View
from tests.train.data_files import encoded, picture, raw, write_images, write_lmdb


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


def test_names_of_any_kind_into_npz(tmp_path):
    """Those of numpy.savez's own arguments, too."""
    convert(open_dataset({"file": np.arange(3), "allow_pickle": np.ones(3)}), f"npz:{tmp_path / 'out.npz'}")
    assert sorted(np.load(tmp_path / "out.npz")) == ["allow_pickle", "file"]


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


@pytest.mark.parametrize("kind", ["raw", "encoded"])
def test_labels_of_a_view(tmp_path, kind):
    """They are written in place of those of the database; images stay as they are stored."""
    values = [raw(i % 6) for i in range(12)]
    if kind == "encoded":
        values = [Datum(data=encoded(picture(2, 3, i)), encoded=True, label=i % 6).SerializeToString()
                  for i in range(12)]
    source = write_lmdb(tmp_path / "in", values)
    convert(only_labels(source, [5, 3], renumber=True), f"lmdb:{tmp_path / 'out'}")
    found = {key: Datum.FromString(value) for key, value in stored(tmp_path / "out").items()}
    assert {key: datum.label for key, datum in found.items()} == {
        b"00000003": 1, b"00000005": 0, b"00000009": 1, b"00000011": 0}
    assert all(datum.data == Datum.FromString(values[int(key)]).data for key, datum in found.items())
    own = View(open_dataset(source).records, np.arange(12), {"data": np.full((12, 1, 2, 3), 9, np.uint8)})
    convert(open_dataset(own), f"lmdb:{tmp_path / 'data'}")
    assert open_dataset(str(tmp_path / "data")).records[3]["data"].max() == 9


def test_keys_of_records_in_another_order(tmp_path):
    """They are numbered, since a database sorts by them; so they may repeat, too."""
    source = open_dataset(write_lmdb(tmp_path / "in", [raw(i) for i in range(20)]))
    repeated = replace(source, records=View(source.records, np.array([3, 3, 7]), {}))
    for name, dataset in (("shuffled", shuffled(source, 3)), ("sampled", sample(shuffled(source, 3), 5)),
                          ("repeated", repeated)):
        order = [int(record["label"]) for record in dataset.records]
        convert(dataset, f"lmdb:{tmp_path / name}")
        found = open_dataset(str(tmp_path / name)).records
        assert [int(record["label"]) for record in found] == order != sorted(set(order))
        assert [found.key(i) for i in range(len(order))] == [f"{i:08}_{label:08}" for i, label in enumerate(order)]
    convert(sample(sample(source, 15), 5), f"lmdb:{tmp_path / 'in order'}")
    assert stored(tmp_path / "in order").items() < stored(tmp_path / "in").items()


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
    ([{"data": np.zeros(2), "label": 0}, {"data": np.zeros(2)}], "npz:out", {},
     "record 1: expected a field 'label', as in record 0; found data"),
    ([{"data": np.zeros(2)}, {"data": np.array(["a", "b"])}], "hdf5:out", {}, "record 1: data holds <U1; expected num"),
])
def test_what_cannot_be_converted(tmp_path, monkeypatch, data, target, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaffeError) as caught:
        convert(open_dataset(data), target, **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_differs_is_no_row_of_hdf5(tmp_path, monkeypatch):
    """Nor across parts, nor behind what an interrupted run wrote: it would not be read."""
    monkeypatch.setattr(writers, "PART_BYTES", 1)
    monkeypatch.setattr("jaffe.train.data.convert.CHUNK", 1)
    rows = [{"data": np.zeros((1, 2, 3), "f4")}] * 3
    for last, message in ((np.zeros((1, 2, 4), "f4"), "data of '00000003' has shape (1, 2, 4), that of"),
                          (np.zeros((1, 2, 3)), "data of '00000003' is float64; expected float32, as that of")):
        for _ in range(2):
            with pytest.raises(JaffeError) as caught:
                convert(open_dataset([*rows, {"data": last}]), f"hdf5:{tmp_path / str(last.dtype)}")
            assert message in str(caught.value)
    convert(open_dataset([*rows, {"data": np.ones((1, 2, 3), "u1")}]), f"hdf5:{tmp_path / 'fits'}")
    back = open_dataset(f"hdf5:{tmp_path / 'fits'}").records.gather(np.arange(4))["data"]
    assert (back.dtype, back[:, 0, 0, 0].tolist()) == (np.float32, [0, 0, 0, 1])


def test_memory_is_bounded(tmp_path, monkeypatch):
    """By the bytes of the records, too; and pixels are not kept beside what is written of them."""
    monkeypatch.setattr("jaffe.train.data.convert.CHUNK_BYTES", 60)  # records of 14 bytes
    told, fields, write = [], [], writers.LmdbWriter.write
    monkeypatch.setattr(writers.LmdbWriter, "write", lambda self, items, position: (
        fields.extend(item.fields for item in items), write(self, items, position)))
    convert(open_dataset(items(10)), f"lmdb:{tmp_path / 'out'}", advance=told.append)
    assert told == [0, 4, 4, 2]
    assert fields == [{}] * 10


@pytest.mark.parametrize("kind", ["lmdb", "hdf5", "records"])
@pytest.mark.parametrize("planned", [True, False])
def test_death_before_it_has_its_name(tmp_path, monkeypatch, kind, planned):
    """All of it is there, with the plan or without: the next run ends well."""
    target, check = f"{kind}:{tmp_path / 'out'}", writers.check_path

    def die(path, writer, *, force):
        if isinstance(writer, writers.Writer):  # at the end
            raise Interrupted
        return check(path, writer, force=force)

    with monkeypatch.context() as patch:
        patch.setattr(writers, "check_path", die)
        with pytest.raises(Interrupted):
            convert(open_dataset(items(10)), target)
    assert os.listdir(tmp_path) == ["out.partial"]
    if not planned:
        (tmp_path / "out.partial" / "plan.json").unlink()
    assert convert(open_dataset(items(10)), target).begun == (10 if planned else 0)
    back = open_dataset(str(tmp_path / "out")).records
    assert [int(back[i]["label"]) for i in range(len(back))] == list(range(10))


def test_two_records_of_one_key(tmp_path):
    """Keys that are longer than LMDB's may become one."""
    plyvel = pytest.importorskip("plyvel")
    with plyvel.DB(str(tmp_path / "in"), create_if_missing=True) as database:
        for i in range(2):
            database.put(b"k" * writers.MOST_KEY + b"%d" % i, raw(i))
    with pytest.raises(JaffeError, match="two records have the key 'kkk"):
        convert(open_dataset(str(tmp_path / "in")), f"lmdb:{tmp_path / 'out'}")
