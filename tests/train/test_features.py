"""Blobs over a data set, in files."""

from __future__ import annotations

import h5py
import jax
import numpy as np
import pytest

import jaffe
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.train import Evaluation, Feed
from jaffe.train.data import open_dataset
from jaffe.train.features import write_features, write_outputs

NET = """
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 1 height: 2 width: 3 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip/scores"
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip/scores" bottom: "label" top: "loss" }
"""
DATA = {"data": np.random.default_rng(0).normal(size=(10, 1, 2, 3)).astype(np.float32), "label": np.arange(10) % 7}


def make(text: str = NET, iterations: int | None = None, data=DATA):
    """An evaluation over ten records in batches of four, its variables, and the blobs of a net that takes all ten."""
    feed = Feed(resolve(text, NetState("TEST")), data)
    net = jaffe.compile_net(text, phase="TEST", inputs=feed.shapes)
    variables = net.init(jax.random.key(0))
    blobs, _ = net.apply(variables, data, blobs=["conv", "ip/scores"])
    return Evaluation(net, feed, iterations, jax.random.key(0)), variables, blobs


@pytest.mark.parametrize("target", ["npz:out.npz", "hdf5:out"])
def test_all_blobs_by_name(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    evaluation, variables, blobs = make()
    told = []
    assert write_features(evaluation, variables, ["conv", "ip/scores", "label", "conv"], target,
                          advance=told.append) == [target]
    assert told == [4, 4, 2]
    found = open_dataset(target).records.gather(np.arange(10))
    assert len(open_dataset(target).records) == 10
    for name in ("conv", "ip/scores"):
        np.testing.assert_allclose(found[name], blobs[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["label"], DATA["label"])


@pytest.mark.parametrize("kind", ["lmdb", "records"])
def test_a_database_for_each_blob(tmp_path, kind):
    evaluation, variables, blobs = make()
    written = write_features(evaluation, variables, ["conv", "ip/scores"], f"{kind}:{tmp_path / 'out'}")
    assert written == [f"{kind}:{tmp_path / 'out'}/conv", f"{kind}:{tmp_path / 'out'}/ip_scores"]
    for name, blob in zip(written, ("conv", "ip/scores"), strict=True):
        records = open_dataset(name).records
        assert len(records) == 10
        if kind == "lmdb":
            assert records.key(3) == "0000000003"
        for i in range(10):
            expected = np.asarray(blobs[blob][i])
            np.testing.assert_allclose(records[i]["data"], expected.reshape((*expected.shape, 1, 1, 1)[:3]), rtol=1e-6,
                                       atol=1e-6)
            assert records[i]["label"] == DATA["label"][i]
    one = f"{kind}:{tmp_path / 'one'}"
    assert write_features(evaluation, variables, ["conv"], one) == [one]


def test_some_batches(tmp_path):
    evaluation, variables, _ = make(iterations=3)
    write_features(evaluation, variables, ["conv"], f"npz:{tmp_path / 'out.npz'}")
    assert np.load(tmp_path / "out.npz")["conv"].shape == (12, 5, 2, 3)


def test_hdf5_output_layers(tmp_path):
    text = NET + f"""
        layer {{ name: "out" type: "HDF5Output" bottom: "ip/scores" bottom: "label"
                hdf5_output_param {{ file_name: "{tmp_path / 'out.h5'}" }} }}"""
    evaluation, variables, blobs = make(text)
    assert write_outputs(evaluation, variables) == [str(tmp_path / "out.h5")]
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["data", "label"]
        np.testing.assert_allclose(file["data"], blobs["ip/scores"], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(file["label"], DATA["label"])
    with pytest.raises(JaffeError, match=r"out\.h5 is there already; --force overwrites it"):
        write_outputs(evaluation, variables)
    write_outputs(evaluation, variables, force=True)


def test_hdf5_output_layers_that_cannot_write(tmp_path, monkeypatch):
    """It is said before the net runs; a folder is not a file that force overwrites."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.h5").mkdir()
    text = """layer { name: "%s" type: "HDF5Output" bottom: "conv" bottom: "label"
                      hdf5_output_param { file_name: "%s" } }"""
    for names, message in ((["folder.h5"], "--force overwrites only its like: expected a regular file; found an empty"),
                           (["no/where.h5"], "no/where.h5 cannot be written: there is no folder no"),
                           (["x" * 300], "cannot be written: File name too long"),
                           (["a.h5", "a.h5"], "has two HDF5Output layers of a.h5; expected a file each")):
        evaluation, variables, _ = make(NET + "".join(text % (i, name) for i, name in enumerate(names)))
        with pytest.raises(JaffeError) as caught:
            write_outputs(evaluation, variables, force=True, advance=pytest.fail)
        assert message in str(caught.value)


OTHERS = """
layer { name: "a" type: "Flatten" bottom: "data" top: "conv_1" }
layer { name: "b" type: "Flatten" bottom: "data" top: "conv/1" }
layer { name: "c" type: "Reshape" bottom: "data" top: "five" reshape_param { shape { dim: [0, 1, 1, 2, 3] } } }
"""


@pytest.mark.parametrize(("target", "blobs", "message"), [
    ("lmdb:no/where", ["conv", "label"], "no/where cannot be written: No such file or directory"),
    ("lmdb:no/where", ["conv"], "no/where cannot be written: there is no folder no"),
    ("records:file", ["conv", "label"], "file cannot be written: File exists"),
    ("lmdb:out", ["label", "conv_1", "conv/1"], "blobs 'conv_1' and 'conv/1' would both be lmdb:out/conv_1"),
    ("hdf5:out", ["label", "conv/1", "conv"], "blobs 'conv' and 'conv/1': expected one of them; HDF5 takes the first"),
    ("lmdb:out", ["five"], "blob 'five', record 0: a Datum holds (channels, height, width); found shape (1, 1, 2, 3)"),
    ("records:out", ["five"], "blob 'five', record 0: a Datum holds (channels, height, width)"),
    ("lmdb:theirs", ["conv"], "expected an LMDB: data.mdb, and lock.mdb or not; found conv"),
    ("lmdb:theirs", ["label", "conv"], "theirs/conv is there already, and --force overwrites only its like"),
])
def test_targets_that_do_not_fit(tmp_path, monkeypatch, target, blobs, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "conv" / "thesis").mkdir(parents=True)
    (tmp_path / "file").touch()
    evaluation, variables, _ = make(NET + OTHERS)
    with pytest.raises(JaffeError) as caught:
        write_features(evaluation, variables, blobs, target, force=True, advance=pytest.fail)
    assert message in str(caught.value)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["conv"]


@pytest.mark.parametrize("kind", ["lmdb", "records"])
def test_labels_that_are_no_classes(tmp_path, kind):
    data = {"data": DATA["data"], "label": np.where(np.arange(10) == 5, 0.5, 1).astype(np.float32)}
    text = NET.replace("SoftmaxWithLoss", "EuclideanLoss").replace("num_output: 7", "num_output: 1")
    evaluation, variables, _ = make(text, data=data)
    with pytest.raises(JaffeError, match=r"blob 'conv', record 5: a Datum has one whole number as label; found"):
        write_features(evaluation, variables, ["conv"], f"{kind}:{tmp_path / 'out'}")


@pytest.mark.parametrize(("blobs", "message"), [
    (["cnov"], "the net has no blob 'cnov'; did you mean 'conv'?"),
    (["loss"], "blob 'loss' of shape () has no item for each of 4 records"),
])
def test_blobs_that_cannot_be_had(tmp_path, blobs, message):
    evaluation, variables, _ = make()
    with pytest.raises(JaffeError) as caught:
        write_features(evaluation, variables, blobs, f"npz:{tmp_path / 'out.npz'}")
    assert message in str(caught.value)
    with pytest.raises(JaffeError, match="has no HDF5Output layer: expected names of blobs"):
        write_outputs(evaluation, variables)
