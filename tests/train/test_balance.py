"""Class balancing, label capping and subsets of labelled data."""

from __future__ import annotations

from collections import Counter

import jax
import lmdb
import numpy as np
import pytest

from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import Dataset, Feed, balance, cap_labels, few_shot, only_labels, open_dataset
from jaffe.train.data import stream as streams
from jaffe.train.data.dataset import ArraySource

# 11 of class 0, 5 of class 3, 2 of class 7; record i holds i.
LABELS = np.array([0, 3, 0, 0, 7, 0, 3, 0, 0, 0, 3, 0, 0, 7, 3, 0, 0, 3], np.int32)
COUNTS = {0: 11, 3: 5, 7: 2}


class Counted(list):
    """Records that count how often each is read."""

    def __init__(self, records):
        super().__init__(records)
        self.reads = Counter()

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


def records() -> list[dict[str, np.ndarray]]:
    return [{"data": np.array([i], np.uint8), "label": label} for i, label in enumerate(LABELS)]


def arrays() -> dict[str, np.ndarray]:
    return {"data": np.arange(len(LABELS), dtype=np.uint8).reshape(-1, 1), "label": LABELS}


@pytest.fixture(params=["arrays", "records", "lmdb"])
def data(request, tmp_path):
    if request.param == "arrays":
        return arrays()
    if request.param == "records":
        return records()
    with lmdb.open(str(tmp_path / "db"), map_size=2**20) as env, env.begin(write=True) as transaction:
        for i, label in enumerate(LABELS):
            datum = Datum(channels=1, height=1, width=1, data=bytes([i]), label=int(label))
            transaction.put(f"{i:08}".encode(), datum.SerializeToString())
    return f"lmdb:{tmp_path / 'db'}"


def taken(dataset: Dataset) -> list[tuple[int, int]]:
    """(value, label) of every record."""
    every = [dataset.records[i] for i in range(len(dataset.records))]
    return [(int(np.ravel(one["data"])[0]), int(one["label"])) for one in every]


def classes(dataset: Dataset) -> dict[int, int]:
    return dict(Counter(label for _, label in taken(dataset)))


def test_cap_labels(data):
    capped = cap_labels(data, 4)
    assert classes(capped) == {0: 4, 3: 4, 7: 2}
    values = [value for value, _ in taken(capped)]
    assert values == sorted(set(values))  # none twice, in their order
    assert all(LABELS[value] == label for value, label in taken(capped))
    assert taken(cap_labels(data, 4)) == taken(capped)
    others = [taken(cap_labels(data, 4, seed=seed)) for seed in range(1, 5)]
    assert any(other != taken(capped) for other in others)
    assert set(taken(cap_labels(data, 2))) < set(taken(capped))
    assert len(taken(cap_labels(data, 99))) == len(LABELS)


def test_few_shot(data):
    two = few_shot(data, 2)
    assert [label for _, label in taken(two)] == [0, 3, 7, 0, 3, 7]
    assert taken(few_shot(data, 1)) == taken(two)[:3]
    assert {value for value, label in taken(two) if label == 7} == {4, 13}
    with pytest.raises(JaffeError, match=r"expected 3 records of each class; found fewer: 7 has 2; cap_labels takes"):
        few_shot(data, 3)


def test_balance(data):
    balanced = balance(data)
    assert classes(balanced) == {0: 11, 3: 11, 7: 11}
    often = Counter(value for value, _ in taken(balanced))
    assert {often[i] for i in np.flatnonzero(LABELS == 0)} == {1}
    assert sorted(often[i] for i in np.flatnonzero(LABELS == 3)) == [2, 2, 2, 2, 3]
    assert sorted(often[i] for i in np.flatnonzero(LABELS == 7)) == [5, 6]
    for i in range(0, 33, 3):  # the classes in turn
        assert [label for _, label in taken(balanced)[i : i + 3]] == [0, 3, 7]
    assert len({tuple(taken(balance(data, seed=seed))) for seed in range(8)}) > 1  # who is there once more
    assert classes(balance(cap_labels(data, 4))) == {0: 4, 3: 4, 7: 4}


def test_only_labels(data):
    some = only_labels(data, [7, 3])
    assert [value for value, _ in taken(some)] == np.flatnonzero(LABELS != 0).tolist()
    assert classes(some) == {3: 5, 7: 2}
    renumbered = only_labels(data, [7, 3], renumber=True)
    assert [value for value, _ in taken(renumbered)] == [value for value, _ in taken(some)]
    assert classes(renumbered) == {1: 5, 0: 2}
    assert renumbered.records[0]["label"].dtype == np.int32
    assert classes(few_shot(renumbered, 2)) == {0: 2, 1: 2}  # the new names count from here on
    assert classes(balance(few_shot(only_labels(data, [0, 3]), 3))) == {0: 3, 3: 3}


NET = """
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 3 channels: 1 height: 1 width: 1 } }
"""


@pytest.mark.parametrize("where", ["resident", "streamed"])
@pytest.mark.parametrize("kind", ["arrays", "records"])
def test_feeds_take_views(kind, where, monkeypatch):
    given = arrays() if kind == "arrays" else records()
    if kind == "arrays":
        given["data"] = given["data"].reshape(-1, 1, 1, 1)
    else:
        given = [{**record, "data": record["data"].reshape(1, 1, 1)} for record in given]
    if where == "streamed":
        monkeypatch.setattr(streams, "RESIDENT_BYTES", 0)
    balanced = balance(given)
    assert isinstance(balanced.records, ArraySource) == (kind == "arrays" and where == "resident")
    one = Feed(resolve(NET, NetState("TRAIN")), balanced, seed=1)
    assert (one.resident[0] is None) == (where == "streamed")
    stream, seen = one.batches(), []
    for _ in range(11):
        inputs = one.fetch(one.resident, next(stream), jax.random.key(0))
        seen += zip(np.ravel(inputs["data"]).tolist(), inputs["label"].tolist(), strict=True)
    assert sorted(seen) == sorted(taken(balanced))  # an epoch: 33 records in 11 batches
    assert seen != taken(balanced)  # shuffled


def test_a_view_of_a_view_reads_the_source_itself():
    source = Counted(records())
    balanced = balance(only_labels(source, [0, 3], renumber=True))
    assert set(source.reads) == set(range(len(LABELS)))  # labels are read once; record 0 tells the fields
    assert max(count for index, count in source.reads.items() if index) <= 2
    source.reads.clear()
    _ = balanced.records[7]
    assert sum(source.reads.values()) == 1


def test_order_of_databases_and_arrays(tmp_path, data):
    assert balance(data).shuffle == open_dataset(data, "train").shuffle


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_labels_keep_their_shape_and_type(shape):
    given = {"data": np.zeros((4, 2)), "kind": np.array([5.0, 2, 5, 5], np.float32).reshape(4, *shape)}
    found = only_labels(given, [5], label="kind", renumber=True).records
    assert len(found) == 3
    assert found[0]["kind"].shape == shape
    assert found[0]["kind"].dtype == np.float32
    assert found[0]["kind"].item() == 0


def with_labels(labels) -> dict[str, np.ndarray]:
    return {"data": np.zeros((len(labels), 2)), "label": np.asarray(labels)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: balance({"data": np.zeros((3, 2)), "lable": np.zeros(3)}),
         "arrays has the fields data, lable; found no 'label'; did you mean 'lable'?; label=... names the one"),
        (lambda: balance(with_labels(np.eye(3))), "arrays: field 'label' has shape (3,); expected one class a record: "
                                                  "records of several classes have no single one"),
        (lambda: balance(with_labels(["cat", "dog"])), "arrays: field 'label' holds <U3; expected whole numbers"),
        (lambda: balance(with_labels([0, 1, 0.5])), "arrays, record 2: label is 0.5; expected whole numbers"),
        (lambda: balance(with_labels([0, np.nan])), "arrays, record 1: label is nan; expected whole numbers"),
        (lambda: balance([{"label": np.zeros(())}, {"label": np.zeros(2)}]),
         "list, record 1: label is float64 (2,); expected float64 (), as record 0"),
        (lambda: balance([{"label": np.zeros(())}, {"lable": 0}]), "list, record 1: KeyError: 'label'"),
        (lambda: balance([]), "list is empty"),
        (lambda: balance("tfds:digits:tset"), "tfds:digits has no split 'tset'"),
        (lambda: cap_labels(arrays(), 0), "most is a number of records, at least 1; received 0"),
        (lambda: few_shot(arrays(), -1), "per_class is a number of records, at least 1; received -1"),
        (lambda: only_labels(arrays(), [0, 5]), "arrays has no records of class 5; it has 0, 3, 7"),
        (lambda: only_labels(arrays(), [0, 0]), "labels are classes, at least one and each once; received 0, 0"),
        (lambda: only_labels(arrays(), []), "labels are classes, at least one and each once; received none"),
    ],
)
def test_what_cannot_be_balanced(make, message):
    with pytest.raises(JaffeError) as caught:
        make()
    assert message in str(caught.value)


def test_other_splits():
    whole = open_dataset("tfds:digits", "test").records
    tens = few_shot("tfds:digits", 10, split="test")
    assert len(tens.records) == 100
    assert len(only_labels("tfds:digits", range(10), split="test").records) == len(whole)
