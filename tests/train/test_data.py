"""Sources, transforms, and the feed."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto, Datum
from jaffe.train.data import Feed, open_dataset, stream
from jaffe.train.data.transform import Transform
from tests.train.data_files import write_lmdb

NET = """
layer {{ name: "d" type: "MemoryData" top: "data" top: "label" {transform}
        memory_data_param {{ batch_size: 4 channels: 1 height: 2 width: 3 }} }}
"""


def arrays(items: int = 10) -> dict[str, np.ndarray]:
    """Item i is filled with i, and labelled i."""
    return {"data": np.broadcast_to(np.arange(items, dtype=np.uint8).reshape(-1, 1, 1, 1), (items, 1, 2, 3)),
            "label": np.arange(items)}


def make_feed(data, phase: str = "TRAIN", transform: str = "", **settings) -> Feed:
    return Feed(resolve(NET.format(transform=transform), NetState(phase)), data, **settings)


def labels(one: Feed, batches: int, start: int = 0, group: int = 1) -> list[list[int]]:
    stream = one.batches(start, group)
    seen = []
    for _ in range(batches):
        inputs = one.fetch(one.resident, next(stream), jax.random.key(0))
        np.testing.assert_array_equal(np.asarray(inputs["data"]).reshape(*inputs["label"].shape, -1)[..., 0],
                                      inputs["label"])
        seen.append(inputs["label"].tolist())
    return seen


@pytest.fixture(params=["resident", "streamed"])
def where(request, monkeypatch):
    if request.param == "streamed":
        monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)


def test_test_phase_takes_records_in_order(where):
    assert labels(make_feed(arrays(), "TEST"), 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_training_takes_each_record_once_an_epoch(where):
    batches = labels(make_feed(arrays(12), seed=3), 6)
    first, second = (list(itertools.chain(*batches[i : i + 3])) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second != list(range(12))
    assert labels(make_feed(arrays(12), seed=3), 6) == batches
    assert labels(make_feed(arrays(12), seed=4), 6) != batches


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_any_position_is_a_start(where, start):
    one = make_feed(arrays(), seed=1)
    assert labels(one, 3, start) == labels(one, 8)[start : start + 3]


def test_groups_are_consecutive_batches(where):
    one = make_feed(arrays(), seed=1)
    batch = next(one.batches(2, 2))
    grouped = [one.fetch(one.resident, jax.tree.map(lambda x, k=k: x[k], batch), jax.random.key(0))["label"].tolist()
               for k in range(2)]
    assert grouped == labels(one, 4)[2:]


def test_lmdb_of_the_original(shared):
    one = open_dataset(f"lmdb:{shared / 'data' / 'mnist_train_6000_lmdb'}", "train")
    assert not one.shuffle
    assert len(one.records) == 6000
    record = one.records[0]
    assert record["data"].shape == (1, 28, 28)
    assert record["data"].dtype == np.uint8
    assert int(record["label"]) == 5


def test_damaged_lmdb(tmp_path):
    short = Datum(channels=1, height=2, width=3, data=b"12345", label=1).SerializeToString()
    for value, message in ((short, "expected (1, 2, 3) values; found 5"), (b"\x0a\xff", "record 0")):
        path = tmp_path / str(len(value))
        with pytest.raises(JaffeError) as caught:
            open_dataset(write_lmdb(path, [value]), "train").fields()
        assert message in str(caught.value)
        assert "00000000" in str(caught.value)
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "data.mdb").write_bytes(b"nonsense" * 1000)
    with pytest.raises(JaffeError, match="is no meta page of LMDB"):
        open_dataset(f"lmdb:{tmp_path / 'no'}", "train")
    with pytest.raises(JaffeError, match="is empty"):
        make_feed(write_lmdb(tmp_path / "empty", []))


def test_float_datum(tmp_path):
    value = Datum(channels=1, height=2, width=3, float_data=range(6), label=7).SerializeToString()
    record = open_dataset(write_lmdb(tmp_path / "f", [value]), "train").fields()
    assert record["data"].ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert record["label"] == 7


def test_npz(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays(5))
    one = make_feed(f"npz:{tmp_path / 'd.npz'}", "TEST")
    assert labels(one, 1) == [[0, 1, 2, 3]]


def test_fields_by_order_where_names_differ():
    one = make_feed({"image": arrays()["data"], "class": arrays()["label"]}, "TEST")
    assert labels(one, 1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "layer 'd' (<text>:2): MemoryData has no data of its own here: expected data=...; found none"),
        ("tdfs:digits", "data 'tdfs:digits' is not known; did you mean 'tfds'?; expected a path, tfds:NAME, "),
        ("lmdb:gone", "lmdb:gone: there is no gone in "),
        ("tfds:digits:tset", "tfds:digits has no split 'tset'; did you mean 'test'?; it has "),
        ({"data": np.zeros((3, 1, 2, 3)), "label": np.zeros(2)}, "data: arrays have one first axis, the records; found "
                                                                 "data (3, 1, 2, 3), label (2,)"),
        ({"data": np.zeros((3, 1, 2, 3))}, "arrays has the fields data; the net's inputs are data, label: expected as "
                                           "many, or the same names"),
        ({"data": np.zeros((3, 1, 8, 8)), "label": np.zeros(3)},
         "layer 'd' (<text>:2): 'data' is declared with items of shape (1, 2, 3); arrays gives (1, 8, 8)"),
    ],
)
def test_wrong_data(data, message):
    with pytest.raises(JaffeError) as caught:
        make_feed(data)
    assert message in str(caught.value)


def transform(text: str, shape, phase: str = "TEST") -> Transform:
    net = f'layer {{ name: "d" type: "Data" top: "x" transform_param {{ {text} }} data_param {{ batch_size: 1 }} }}'
    return Transform(resolve(net, NetState(phase)).nodes[0], shape)


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 11, 13)).astype(np.uint8)
KEY = jax.random.key(0)


def test_mean_and_scale():
    one = transform("mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5", (3, 11, 13))
    expected = (IMAGES - np.array([1.0, 2, 3]).reshape(3, 1, 1)) * 0.5
    np.testing.assert_allclose(one(IMAGES, KEY), expected, rtol=1e-6)


def test_central_crop_reads_the_mean_at_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mean = np.arange(3 * 11 * 13, dtype=np.float32).reshape(1, 3, 11, 13)
    blob = BlobProto(num=1, channels=3, height=11, width=13, data=mean.ravel())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    one = transform('mean_file: "mean.binaryproto" crop_size: 6', (3, 11, 13))
    assert one.shape == (3, 6, 6)
    expected = (IMAGES - mean)[:, :, 2:8, 3:9]  # floor((11 - 6) / 2), floor((13 - 6) / 2)
    np.testing.assert_array_equal(one(IMAGES, KEY), expected)


def test_random_crop_and_mirror():
    one = transform("crop_size: 6 mirror: true", (3, 11, 13), "TRAIN")
    many = np.repeat(IMAGES[:1], 2000, 0)
    found = np.asarray(jax.jit(one.__call__)(many, KEY))
    windows = {}
    for i, j in itertools.product(range(6), range(8)):
        window = IMAGES[0][:, i : i + 6, j : j + 6].astype(np.float32)
        windows[window.tobytes()] = (i, j, False)
        windows[window[..., ::-1].tobytes()] = (i, j, True)
    seen = [windows[item.tobytes()] for item in found]
    assert len({at[:2] for at in seen}) == 6 * 8  # every corner, both extremes included
    assert np.mean([at[2] for at in seen]) == pytest.approx(0.5, abs=0.06)
    for half in (True, False):  # whether an image is mirrored says nothing of where it was cut
        assert np.mean([at[2] for at in seen if (at[0] < 3) == half]) == pytest.approx(0.5, abs=0.08)


def test_mirror_is_active_in_test_too():
    flipped = np.asarray(transform("mirror: true", (3, 11, 13))(np.repeat(IMAGES[:1], 100, 0), KEY))
    share = (flipped == IMAGES[0][..., ::-1]).all((1, 2, 3)).mean()
    assert 0.2 < share < 0.8


def test_resize_comes_first():
    one = transform("resize: 8 resize: 9 crop_size: 5 mean_value: 1", (3, 11, 13))
    assert one.shape == (3, 5, 5)
    resized = jax.image.resize(IMAGES.astype(np.float32), (7, 3, 8, 9), "bilinear")
    np.testing.assert_allclose(one(IMAGES, KEY), resized[:, :, 1:6, 2:7] - 1, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop_size: 12", "crop_size 12 is larger than the images, (11, 13)"),
        ("mean_value: 1 mean_value: 2", "expected one mean_value, or one for each of 3 channels; found 2"),
        ("mean_value: 1 mean_file: 'x'", "mean_file excludes mean_value; found both"),
        ("mean_file: 'gone'", "'gone' is not found"),
        ("resize: 1 resize: 2 resize: 3", "resize is one positive number, or height and width; found [1, 2, 3]"),
    ],
)
def test_wrong_transforms(text, message):
    with pytest.raises(JaffeError) as caught:
        transform(text, (3, 11, 13))
    assert message in str(caught.value)


def test_digits():
    train, test = (open_dataset("tfds:digits", split) for split in ("train", "test"))
    assert (len(train.records), len(test.records)) == (1497, 300)
    counts = np.bincount([int(record["label"]) for record in test.records])
    assert counts.tolist() == [30] * 10
    first = train.fields()
    assert first["image"].shape == (1, 8, 8)
    assert first["image"].max() <= 16


def records(count: int = 10) -> list[dict[str, np.ndarray]]:
    data = arrays(count)
    return [{"data": data["data"][i], "label": data["label"][i]} for i in range(count)]


def broken(index: int, **fields) -> list:
    result = records()
    result[index] = {**result[index], **fields}
    return [{k: v for k, v in record.items() if v is not None} for record in result]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(3, label=None), "list, record 3: KeyError: 'label'"),
        (broken(3, data=np.zeros((1, 2, 4), np.uint8)),
         "list, record 3: data is uint8 (1, 2, 4); expected uint8 (1, 2, 3), as record 0"),
        (broken(3, data=np.zeros((1, 2, 3))), "list, record 3: data is float64 (1, 2, 3); expected uint8 (1, 2, 3)"),
        (broken(0, label="cat"), "list: field 'label' holds <U3; expected numbers"),
        ([1, 2, 3], "list, record 0: expected a dict of arrays; TypeError: found int"),
        ([], "list is empty"),
    ],
    ids=range(6),
)
def test_records_that_differ(where, data, message):
    with pytest.raises(JaffeError) as caught:
        labels(make_feed(data, "TEST"), 3)
    assert message in str(caught.value)


def test_fields_that_are_not_needed_do_not_matter():
    data = [{**record, "name": "x" * i} for i, record in enumerate(records())]
    assert labels(make_feed(data, "TEST"), 1) == [[0, 1, 2, 3]]


def test_equal_names_come_first():
    one = make_feed({"label": arrays()["label"], "picture": arrays()["data"]}, "TEST")
    assert labels(one, 1) == [[0, 1, 2, 3]]


def test_one_lmdb_twice(tmp_path):
    value = Datum(channels=1, height=2, width=3, data=b"123456", label=1).SerializeToString()
    name = write_lmdb(tmp_path / "db", [value])
    first, second = open_dataset(name, "train"), open_dataset(name, "test")
    assert len(first.records) == len(second.records) == 1


def test_files_that_are_not_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nonsense")
    np.save(tmp_path / "b.npy", np.zeros(3))
    for name in ("a.npz", "b.npy"):
        with pytest.raises(JaffeError, match="cannot be read"):
            open_dataset(f"npz:{tmp_path / name}", "train")


def test_tfds_that_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(JaffeError, match="tfds:no_such_set cannot be had: DatasetNotFoundError"):
        open_dataset("tfds:no_such_set", "train")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAFFE_DATA", str(tmp_path / "file"))
    with pytest.raises(JaffeError, match="tfds:digits cannot be had: "):
        open_dataset("tfds:digits", "train")
