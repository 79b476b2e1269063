"""What is read from files, against the files' own content."""

from __future__ import annotations

import gc
import gzip
import os
import pickle
import struct
import threading
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from jaffe.netdef import JaffeError
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import open_dataset, renamed
from jaffe.train.data.images import decode_image, image_size
from tests.train.data_files import encoded, picture, raw, write_images, write_lmdb


def both(name: str, split: str = "train"):
    """A data set as it was opened, and as a process that reads it gets it."""
    dataset = open_dataset(name, split)
    return [dataset, pickle.loads(pickle.dumps(dataset))]


# The databases that Caffe's own tools wrote.


@pytest.mark.parametrize(("name", "count"), [
    ("mnist_train_6000_lmdb", 6000), ("mnist_test_1000_lmdb", 1000), ("mnist_test_1000_leveldb", 1000)])
def test_mnist_databases_of_the_original(shared, name, count):
    split = name.split("_")[1]
    original = open_dataset(f"mnist:{shared / 'data' / 'mnist'}", split)
    assert len(original.records) == (60_000 if split == "train" else 10_000)
    for one in both(f"{name.rsplit('_')[-1]}:{shared / 'data' / name}"):
        assert not one.shuffle
        assert len(one.records) == count
        for i in (0, 1, count // 2, count - 1):
            assert one.records.key(i) == f"{i:08}"
            np.testing.assert_array_equal(one.records[i]["data"], original.records[i]["data"])
            assert one.records[i]["label"] == original.records[i]["label"]
        at = np.array([5, 3, 3, count - 1])
        gathered = one.records.gather(at)
        np.testing.assert_array_equal(gathered["data"], original.records.gather(at)["data"])
        np.testing.assert_array_equal(gathered["label"], original.records.gather(at)["label"])


def test_reading_changes_no_database(shared):
    for name in ("mnist_test_1000_leveldb", "images_gray_leveldb", "images_raw_lmdb"):
        folder = shared / "data" / name
        before = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()}
        dataset = open_dataset(str(folder))
        dataset.fields()
        assert {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_image_databases_of_the_original(shared):
    """convert_imageset wrote the three pictures of a list, raw, as JPEG, and in grey."""
    data = shared / "data"
    images = open_dataset(f"images:{data / 'list.txt'}?root={data / 'imgs'}/&size=64x80")
    grey = open_dataset(f"images:{data / 'list.txt'}?root={data / 'imgs'}/&size=64x80&color=false")
    stored = open_dataset(str(data / "images_raw_lmdb"))
    kept = open_dataset(str(data / "images_encoded_lmdb"))
    stored_grey = open_dataset(str(data / "images_gray_leveldb"))
    assert (images.shuffle, stored.shuffle) == (True, False)
    for i, name in enumerate(("cat.jpg", "fish-bike.jpg", "cat_gray.jpg")):
        assert images.records.key(i) == name
        assert stored.records.key(i) == stored_grey.records.key(i) == f"{i:08}_{name}"
        assert [int(one.records[i]["label"]) for one in (images, stored, kept, stored_grey)] == [i] * 4
        assert stored.records[i]["data"].shape == (3, 64, 80)
        assert stored_grey.records[i]["data"].shape == (1, 64, 80)
        # Caffe's OpenCV decoded and resized with other roundings.
        for ours, theirs in ((images, stored), (grey, stored_grey)):
            off = np.abs(ours.records[i]["data"].astype(int) - theirs.records[i]["data"])
            assert off.max() <= 2
            assert off.mean() < 0.1
        np.testing.assert_array_equal(kept.records[i]["data"],
                                      decode_image((data / "imgs" / name).read_bytes()))


def test_leveldb_in_tables_and_levels(tmp_path):
    """What a LevelDB becomes that is larger than its log: tables, compressed, several levels, keys written twice."""
    plyvel = pytest.importorskip("plyvel", reason="plyvel, which writes LevelDBs, has no wheel for this Python")
    rng = np.random.default_rng(0)
    values = {f"{i:08}".encode(): Datum(channels=1, height=8, width=64, data=rng.bytes(256) * 2, label=i)
              .SerializeToString() for i in range(4000)}
    with plyvel.DB(str(tmp_path / "db"), create_if_missing=True, write_buffer_size=2**16, max_file_size=2**20) as db:
        for key, value in values.items():
            db.put(key, b"first" + value)
        for key, value in values.items():
            db.put(key, value)
        db.delete(b"00000007")
    del values[b"00000007"]
    tables = list((tmp_path / "db").glob("*.ldb"))
    assert len(tables) > 2
    for one in both(f"leveldb:{tmp_path / 'db'}"):
        assert [key.encode() for key in map(one.records.key, range(len(one.records)))] == list(values)
        assert one.records.values(range(len(one.records))) == list(values.values())


def test_databases_are_read_by_several_threads(tmp_path):
    dataset = open_dataset(write_lmdb(tmp_path / "db", [raw(i) for i in range(100)]))
    wrong = []

    def read(start: int) -> None:
        for i in range(start, 100):
            if dataset.records[i]["data"].ravel().tolist() != [i] * 6:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_records_that_are_not_alike_in_a_database(tmp_path):
    """gather is for any records: floats, encoded ones, a mixture."""
    floats = Datum(channels=1, height=2, width=3, float_data=range(6), label=1).SerializeToString()
    for values in ([floats, floats], [raw(1), raw(2)], [Datum(data=encoded(picture(2, 3, channels=1)), encoded=True)
                                                        .SerializeToString()] * 2):
        path = tmp_path / str(len(values[0]))
        records = open_dataset(write_lmdb(path, values)).records
        gathered = records.gather(np.array([1, 0]))
        for field in ("data", "label"):
            np.testing.assert_array_equal(gathered[field], [records[1][field], records[0][field]])
            assert gathered[field].dtype == records[0][field].dtype


def test_colour_of_encoded_records(tmp_path):
    colour, grey = picture(4, 5), picture(4, 5, channels=1)
    alpha = np.concatenate([colour, grey[..., None]], axis=2)
    values = [Datum(data=encoded(image), encoded=True).SerializeToString() for image in (colour, grey, alpha)]
    records = open_dataset(write_lmdb(tmp_path / "db", values)).records
    assert records.ragged
    np.testing.assert_array_equal(records[0]["data"], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(records[1]["data"], grey[None])
    np.testing.assert_array_equal(records[2]["data"], alpha.transpose(2, 0, 1))
    assert [records.with_color(True)[i]["data"].shape[0] for i in range(3)] == [3, 3, 3]
    # The decoder's own grey, which rounds otherwise.
    off = records.with_color(False)[0]["data"][0] - cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY).astype(int)
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize("kind", ["leveldb", "lmdb"])
def test_another_colour_does_not_open_a_database_anew(tmp_path, monkeypatch, kind):
    """To open a LevelDB is to pass over it. Its links stay while the other one is there."""
    image = Datum(data=encoded(picture(4, 5)), encoded=True).SerializeToString()
    if kind == "lmdb":
        write_lmdb(tmp_path / "db", [image] * 3)
    else:
        plyvel = pytest.importorskip("plyvel", reason="plyvel, which writes LevelDBs, has no wheel for this Python")
        with plyvel.DB(str(tmp_path / "db"), create_if_missing=True) as db:
            for i in range(3):
                db.put(b"%d" % i, image)
    records = open_dataset(f"{kind}:{tmp_path / 'db'}").records
    monkeypatch.setattr(type(records), "_open", None)
    grey = records.with_color(False)
    assert (records.color, grey.color) == (None, False)
    del records
    gc.collect()
    assert [grey[i]["data"].shape for i in range(3)] == [(1, 4, 5)] * 3


def test_array_record(tmp_path):
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for i in range(10):
        writer.write(raw(i))
    writer.close()
    for one in [*both(f"records:{tmp_path / 'a.array_record'}"), *both(str(tmp_path))]:
        assert [int(one.records[i]["label"]) for i in range(10)] == list(range(10))
        assert one.records.gather(np.array([7, 2]))["data"][:, 0, 0, 0].tolist() == [7, 2]


# Images.


def test_image_list(tmp_path):
    pixels = write_images(tmp_path / "in it", [(4, 5), (6, 7), (4, 5)])
    (tmp_path / "list.txt").write_text("in it/0.png 7\r\n\nin it/1.png -1\nin it/2.png 0\n")
    for one in both(f"images:{tmp_path / 'list.txt'}"):
        assert one.records.ragged
        assert [int(one.records[i]["label"]) for i in range(3)] == [7, -1, 0]
        for i, image in enumerate(pixels):
            np.testing.assert_array_equal(one.records[i]["data"], image.transpose(2, 0, 1))
    resized = open_dataset(f"{tmp_path / 'list.txt'}?size=3x9&color=false").records
    assert not resized.ragged
    expected = cv2.resize(cv2.imdecode(np.frombuffer(encoded(pixels[1]), np.uint8), cv2.IMREAD_GRAYSCALE), (9, 3))
    np.testing.assert_array_equal(resized[1]["data"][0], expected)


def test_image_list_with_several_labels_and_none(tmp_path):
    write_images(tmp_path, [(4, 5)])
    (tmp_path / "several.txt").write_text("0.png 1 0 0.5\n")
    several = open_dataset(f"{tmp_path / 'several.txt'}?labels=3").records[0]["label"]
    assert several.dtype == np.float32
    assert several.tolist() == [1, 0, 0.5]
    (tmp_path / "none.txt").write_text("0.png\n")
    assert open_dataset(str(tmp_path / "none.txt")).records[0]["label"] == 0


def test_folder_of_classes(tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        for name in ("dog", "cat"):
            write_images(tmp_path / split / name, [(4, 5)] * count)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    for split, count in (("train", 4), ("test", 2)):
        (one, again) = both(str(tmp_path), split)
        assert len(one.records) == len(again.records) == count
        assert one.records.classes == ["cat", "dog"]
        assert one.records.labels.tolist() == [0] * (count // 2) + [1] * (count // 2)
    assert one.records.key(0) == os.path.join("cat", "0.png")


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
def test_size_from_the_header_alone(kind):
    assert image_size(encoded(picture(37, 53), kind)) == (37, 53)


# Arrays, HDF5, MNIST and CIFAR.


@pytest.fixture
def hdf5(tmp_path) -> Path:
    """Two files: contiguous and compressed, a label, several labels, and a picture of another size."""
    for file, rows, settings in (("a", 5, {}), ("b", 3, {"chunks": (2, 1, 2, 3), "compression": "gzip"})):
        start = 0 if file == "a" else 5
        items = np.arange(start, start + rows)
        with h5py.File(tmp_path / f"{file}.h5", "w") as out:
            out.create_dataset("data", data=np.broadcast_to(items.reshape(-1, 1, 1, 1), (rows, 1, 2, 3)).astype("f8"),
                               **settings)
            out["label"] = items
            out["group/several"] = np.stack([items, -items], axis=1).astype("f4")
    (tmp_path / "list.txt").write_text("a.h5\nb.h5")
    return tmp_path / "list.txt"


def test_hdf5(hdf5):
    for one in [*both(f"hdf5:{hdf5}"), *both(str(hdf5))]:
        assert len(one.records) == 8
        for i in range(8):
            record = one.records[i]
            assert record["data"].dtype == np.float32
            assert record["data"].ravel().tolist() == [i] * 6
            assert record["label"] == i
            assert record["group/several"].tolist() == [i, -i]
        assert one.records.key(6) == f"{hdf5.parent / 'b.h5'}, row 1"
        for at in ([6, 1, 7, 6, 0], [7, 5], [4]):
            gathered = one.records.gather(np.array(at))
            assert gathered["data"][:, 0, 1, 2].tolist() == at
            assert gathered["label"].tolist() == at
            assert gathered["group/several"][:, 1].tolist() == [-i for i in at]
    assert len(open_dataset(str(hdf5.parent / "a.h5")).records) == 5


def test_hdf5_in_another_byte_order(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out.create_dataset("data", data=np.arange(6.0).reshape(3, 2), dtype=">f4")
        out.create_dataset("label", data=np.arange(3), dtype=">i2")
    records = open_dataset(str(tmp_path / "a.h5")).records
    assert records[2]["data"].tolist() == [4, 5]
    assert records[2]["data"].dtype == np.float32
    assert records.gather(np.array([2, 0]))["label"].tolist() == [2, 0]


def test_npy(tmp_path):
    np.save(tmp_path / "d.npy", np.arange(6).reshape(3, 2))
    assert open_dataset(str(tmp_path / "d.npy")).records[1]["data"].tolist() == [2, 3]


def test_mnist_uncompressed(tmp_path):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 3, 4) + images.tobytes())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x801, 2) + b"\x07\x09"))
    one = open_dataset(str(tmp_path), "test")
    np.testing.assert_array_equal(one.records.arrays["data"], images[:, None])
    assert one.records.arrays["label"].tolist() == [7, 9]


@pytest.mark.parametrize(("kind", "files", "header"), [
    ("cifar10", [f"data_batch_{i}.bin" for i in range(1, 6)], b"\x03"), ("cifar100", ["train.bin"], b"\x09\x03")])
def test_cifar(tmp_path, kind, files, header):
    for i, name in enumerate(files):
        (tmp_path / name).write_bytes(b"".join(header + bytes([i]) * 1024 + bytes([10]) * 1024 + bytes([20]) * 1024
                                               for _ in range(2)))
    one = open_dataset(str(tmp_path))
    assert one.name.startswith(kind)
    assert one.records.arrays["data"].shape == (2 * len(files), 3, 32, 32)
    assert one.records[2 * len(files) - 1]["data"][:, 0, 0].tolist() == [len(files) - 1, 10, 20]
    assert set(one.records.arrays["label"].tolist()) == {3}


# Names.


def test_fields_by_name():
    digits = open_dataset("tfds:digits?data=image&label=label", "test")
    assert list(digits.fields()) == ["data", "label"]
    arrays = renamed(open_dataset({"a": np.zeros((3, 2)), "b": np.ones(3)}), {"data": "b"})
    assert list(arrays.fields()) == ["data"]
    again = pickle.loads(pickle.dumps(digits))
    assert again.records[3]["data"].tolist() == digits.records[3]["data"].tolist()


@pytest.mark.parametrize(("name", "message"), [
    ("made:shapess", "data 'made:shapess' is not known; did you mean 'made:shapes'?"),
    ("lmbd:x", "data 'lmbd:x' is not known; did you mean 'lmdb'?"),
    ("lmdb:nowhere", "lmdb:nowhere: there is no nowhere in"),
    ("some/where", "some/where: there is no some/where in"),
    ("{}/empty", "is not data of a kind that is known: found nothing; expected lmdb, leveldb"),
    ("{}/picture.png", "is not data of a kind that is known: found a file"),
    ("{}/list.txt?size=big", "size=big: expected HEIGHTxWIDTH"),
    ("{}/list.txt?size=0x3", "size=0x3: expected HEIGHTxWIDTH"),
    ("{}/list.txt?labels=0", "labels=0: expected a number from 1 on"),
    ("{}/list.txt?color=blue", "color=blue: expected true or false"),
    ("{}/list.txt?data=image", "has no field 'image'; it has data, label"),
    ("{}/wrong.txt", "wrong.txt:2: expected a path and a whole number of 32 bits, the label; found 'a picture.png'"),
    ("{}/half.txt", "half.txt:1: expected a path and a whole number of 32 bits, the label; found 'picture.png 0.5'"),
    ("images:{}/blank.txt", "lists no images"),
    ("hdf5:{}/blank.txt", "names no HDF5 files"),
    ("hdf5:{}/gone.txt", "names gone.h5, which is neither in"),
    ("folder:{}", "expected a folder of images for each class; found empty without images"),
    ("leveldb:{}/empty", "expected a folder with a file CURRENT; found none"),
    ("records:{}/empty", "expected array_record files; found none"),
    ("mnist:{}/empty", "expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz; found neither"),
    ("cifar10:{}/empty", "cannot be read: No such file or directory"),
    ("npz:{}/one.npy", "it is an .npy file"),
])
def test_wrong_names(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(encoded(picture(4, 5)))
    np.save(tmp_path / "one.npy", np.zeros(3))
    for file, text in (("list", "picture.png 1\n"), ("wrong", "picture.png 1\na picture.png"),
                       ("half", "picture.png 0.5"), ("blank", "\n \n"), ("gone", "gone.h5")):
        (tmp_path / f"{file}.txt").write_text(text)
    with pytest.raises(JaffeError) as caught:
        open_dataset(name.format(tmp_path))
    assert message in str(caught.value)


# What an audit found.


def test_classes_of_a_folder_are_those_to_train_on(tmp_path):
    for folder in ("train/a", "train/b", "train/c", "test/a", "test/c", "train/.ipynb_checkpoints"):
        write_images(tmp_path / folder, [(4, 5)])
    (tmp_path / "train" / "a" / "folder.jpg").mkdir()
    assert open_dataset(str(tmp_path)).records.labels.tolist() == [0, 1, 2]
    assert open_dataset(str(tmp_path), "test").records.labels.tolist() == [0, 2]
    write_images(tmp_path / "test" / "d", [(4, 5)])
    with pytest.raises(JaffeError, match=r"class d is not in .*train, which has a, b, c"):
        open_dataset(str(tmp_path), "test")


def test_whole_numbers_of_more_than_32_bits(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["fine"] = np.array([1, 2**31 - 1, 3])
        out["wide"] = np.array([1, 2**31, 3])
        out.create_dataset("chunked", data=np.array([1, 2**31, 3], np.uint64), chunks=(1,))
    from jaffe.train.data.hdf5 import Hdf5Source

    fine = Hdf5Source([tmp_path / "a.h5"], ["fine"])[1]["fine"]
    assert (fine, fine.dtype) == (2**31 - 1, np.int32)
    for name in ("wide", "chunked"):
        with pytest.raises(JaffeError, match=f"data set '{name}' has whole numbers beyond 32 bits"):
            Hdf5Source([tmp_path / "a.h5"], [name])[1]
    (tmp_path / "list.txt").write_text("x.png 3000000000")
    with pytest.raises(JaffeError, match="a whole number of 32 bits"):
        open_dataset(str(tmp_path / "list.txt"))


def test_data_sets_of_an_hdf5_file_that_are_not_records(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["data"], out["label"], out["names"] = np.zeros((5, 2)), np.arange(5), np.arange(3)
    assert list(open_dataset(str(tmp_path / "a.h5")).fields()) == ["data", "label"]


def test_numbers_of_twelve_bits(tmp_path):
    """Stored in a type that NumPy has not: HDF5 unpacks it."""
    kind = h5py.h5t.NATIVE_UINT16.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    with h5py.File(tmp_path / "a.h5", "w") as out:
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(out.id, b"x", kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3, 4], np.uint16))
    assert open_dataset(str(tmp_path / "a.h5")).records.gather(np.array([0, 1, 3]))["x"].tolist() == [1, 2, 4]


def test_a_database_that_was_put_in_anothers_place(tmp_path):
    one = open_dataset(write_lmdb(tmp_path / "db", [raw(1)]))
    write_lmdb(tmp_path / "new", [raw(2), raw(3)])
    os.rename(tmp_path / "db", tmp_path / "old")
    os.rename(tmp_path / "new", tmp_path / "db")
    other, file = open_dataset(f"lmdb:{tmp_path / 'db'}"), open_dataset(f"lmdb:{tmp_path / 'db' / 'data.mdb'}")
    assert [int(dataset.records[0]["label"]) for dataset in (one, other, file)] == [1, 2, 2]


@pytest.mark.parametrize("kind", ["lmdb", "records", "hdf5", "images", "npz", "npy", "leveldb", "folder", "mnist"])
def test_pipes_are_not_waited_for(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JaffeError, match="is not a regular file"):
        open_dataset(f"{kind}:{tmp_path / 'pipe'}")
    (tmp_path / "db").mkdir()
    os.mkfifo(tmp_path / "db" / "data.mdb")
    with pytest.raises(JaffeError, match=r"expected a file data\.mdb; found none"):
        open_dataset(f"lmdb:{tmp_path / 'db'}")


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode("é.png".encode("latin-1"))
    write_images(tmp_path, [(4, 5)])
    os.rename(tmp_path / "0.png", tmp_path / name)
    (tmp_path / "list.txt").write_bytes("é.png 1\n".encode("latin-1"))
    assert open_dataset(str(tmp_path / "list.txt")).records[0]["label"] == 1


def test_what_unpacks_to_more_than_it_states(tmp_path):
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 0x801, 2) + bytes(2**24)))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 1, 1) + b"ab")
    with pytest.raises(JaffeError, match=r"expected 2 values of shape \(2,\); found more"):
        open_dataset(f"mnist:{tmp_path}", "test")
