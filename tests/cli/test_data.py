"""jaffe data and jaffe features."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from jaffe.netdef import JaffeError
from jaffe.netdef.means import read_mean
from jaffe.netdef.weights import write_weights
from jaffe.train.data import open_dataset, writers
from jaffe.train.data.convert import mean_image, sample, split, write_mean
from jaffe.train.data.survey import contact_sheet, survey
from tests.train.data_files import raw, write_images, write_lmdb


def run(*arguments: str):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Twenty images of four classes, and a list of them."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "in", [(4, 5)] * 20)
    (tmp_path / "list.txt").write_text("".join(f"in/{i}.png {i % 4}\n" for i in range(20)))
    return tmp_path


def test_from_a_list_to_databases(folder):
    result = run("data", "inspect", "list.txt", "--sheet", "sheet.png")
    assert "images:list.txt: 20 records" in result.stdout
    assert "labels: 4 classes, from 5 to 5 records each" in result.stdout
    assert "written sheet.png: 20 images" in result.stdout
    assert run("data", "convert", "images:list.txt?size=6x7", "lmdb:db").stdout == "written lmdb:db: 20 records\n"
    assert open_dataset("lmdb:db").fields()["data"].shape == (3, 6, 7)
    result = run("data", "mean", "lmdb:db", "mean.binaryproto")
    lines = result.stdout.splitlines()
    assert lines[0] == "Number of channels: 3"
    mean = read_mean("mean.binaryproto")
    for channel, line in enumerate(lines[1:]):
        assert line == f"mean_value channel [{channel}]: {mean[channel].mean(dtype=np.float64):.6g}"
    with pytest.raises(JaffeError, match=r"mean\.binaryproto is there already"):
        run("data", "mean", "lmdb:db", "mean.binaryproto")
    result = run("data", "split", "lmdb:db", "lmdb:a=0.8", "hdf5:b=0.2", "--by-class")
    assert result.stdout == "written lmdb:a: 16 records\nwritten hdf5:b: 4 records\n"
    assert sorted(open_dataset("b").records.gather(np.arange(4))["label"].tolist()) == [0, 1, 2, 3]
    assert run("data", "sample", "lmdb:db", "few.npz", "3").stdout == "written few.npz: 3 records\n"
    assert run("data", "convert", "list.txt", "records:r", "--encode", "png", "--shuffle", "1").exit_code == 0
    assert open_dataset("r").records.datum(0).encoded
    with pytest.raises(JaffeError, match=r"lmdb:x: expected TARGET=SHARE, such as lmdb:train=0\.9"):
        run("data", "split", "lmdb:db", "lmdb:x")


def test_damage_is_found_and_left_out(folder):
    (folder / "in" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run("data", "inspect", "list.txt", "--all")
    assert result.exit_code == 1
    assert "damaged: 1 of the 20 records read" in result.stdout
    assert "in/7.png" in result.stdout
    with pytest.raises(JaffeError, match=r"in/7\.png: "):
        run("data", "convert", "list.txt", "lmdb:db")
    assert not Path("db").exists()
    result = run("data", "convert", "list.txt", "lmdb:all", "--skip-damaged")
    assert result.stdout == "written lmdb:all: 20 records, 1 of them left out\n"
    assert "left out: " in result.stderr
    assert "in/7.png" in result.stderr


@pytest.mark.parametrize(("target", "names"), [
    ("lmdb:out", ["thesis.tex"]), ("lmdb:out", ["data.mdb", "lock.mdb", "notes"]), ("lmdb:out", []),
    ("hdf5:out", ["files.txt"]), ("hdf5:out", ["files.txt", "part-00000-000000010.h5", "x.h5"]),
    ("records:out", ["part-0.array_record", ".git/config"]), ("records:out", ["data.mdb"]), ("npz:out", ["x.npz"]),
])
def test_force_overwrites_nothing_else(folder, target, names):
    """Neither a folder with something else, nor what an interrupted run did not leave."""
    for place in ("out", "new.partial"):
        for name in names:
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_bytes(b"precious")
        (folder / place).mkdir(exist_ok=True)
    began = sorted(folder.rglob("*"))
    with pytest.raises(JaffeError, match="out is there already; --force overwrites it"):
        run("data", "convert", "list.txt", target)
    with pytest.raises(JaffeError, match=r"--force overwrites only its like: expected .*; found "):
        run("data", "convert", "list.txt", target, "--force")
    assert sorted(folder.rglob("*")) == began
    if {"thesis.tex", "notes", "x.h5", ".git/config"} & set(names):
        with pytest.raises(JaffeError, match=r"new\.partial is in the way: expected what .* run left; found"):
            run("data", "convert", "list.txt", target.replace("out", "new"), "--encode", "")
        assert sorted(folder.rglob("*")) == began


@pytest.mark.parametrize("target", ["lmdb:out", "hdf5:out", "records:out", "npz:out"])
def test_force_overwrites_data_sets(folder, target):
    (folder / "elsewhere").mkdir()
    (folder / "out").symlink_to("elsewhere/db")  # a link stays one
    run("data", "convert", "list.txt?size=2x3", target)
    run("data", "sample", "list.txt?size=2x3", target, "3", "--force")
    assert len(open_dataset(str(folder / "out") if "npz" not in target else target).records) == 3
    assert (folder / "out").is_symlink()
    assert [path.name for path in (folder / "elsewhere").iterdir()] == ["db"]


class Interrupted(Exception):
    pass


def test_interrupted_by_another_source(folder, monkeypatch):
    """Of the same name and size: another split, or what was edited since."""
    for i, part in enumerate(("train", "test")):
        write_images(folder / "both" / part / "class", [(4 + i, 5)] * 9)
    for name, second in (("db", 1), ("edited", 7)):
        write_lmdb(folder / name, [raw(0), raw(second), *[raw(2)] * 198])
    np.savez("a.npz", data=np.zeros((200, 1, 2, 3), np.uint8), label=np.arange(200))
    edits = {
        "folder:both": lambda: None,
        "lmdb:db": lambda: os.replace("edited/data.mdb", "db/data.mdb"),
        "list.txt": lambda: (folder / "list.txt").write_text("".join(f"in/{i}.png {i % 3}\n" for i in range(20))),
        "a.npz": lambda: np.savez("a.npz", data=np.ones((200, 1, 2, 3), np.uint8), label=np.arange(200)),
    }
    for i, (source, edit) in enumerate(edits.items()):
        with monkeypatch.context() as patch:
            patch.setattr(writers.RecordsWriter, "seal", interrupt)
            for _ in range(2):  # the same may go on
                with pytest.raises(Interrupted):
                    run("data", "convert", source, f"records:{i}")
        edit()
        with pytest.raises(JaffeError, match=rf"{i}\.partial was begun by another command"):
            run("data", "convert", source, f"records:{i}", "--split", "test")


def interrupt(writer):
    raise Interrupted


def test_targets_of_split_are_checked_before_the_first_is_written(folder):
    (folder / "b").mkdir()
    for targets, message in ((["lmdb:a=0.5", "lmdb:a=0.5"], "expected a path of its own for each part; lmdb:a and lm"),
                             (["lmdb:a=0.5", "hdf5:./a=0.5"], "lmdb:a and hdf5:./a have one"),
                             (["lmdb:a=0.5", "lmdb:b=0.5"], "b is there already"),
                             (["lmdb:a=0.5", "hdf5:c=0.5", "--encode", "png"], "hdf5:c holds arrays"),
                             (["lmdb:a=nan"], "together at most 1; received nan"),
                             (["lmdb:a=inf"], "together at most 1; received inf"),
                             (["lmdb:a=0.5", "lmdb:c=nan"], "together at most 1; received 0.5, nan")):
        with pytest.raises(JaffeError) as caught:
            run("data", "split", "list.txt", *targets)
        assert message in str(caught.value)
        assert sorted(path.name for path in folder.iterdir()) == ["b", "in", "list.txt"]


@pytest.mark.parametrize(("data", "arguments", "message"), [
    ({}, ["convert", "SOURCE", "lmdb:."], "'.' cannot be written: expected a path that ends in a name"),
    ({}, ["convert", "SOURCE", "hdf5:/", "--force"], "'/' cannot be written: expected a path that ends in a name"),
    ({}, ["convert", "SOURCE", "records:..", "--force"], "'..' cannot be written: expected a path that ends in a name"),
    ({}, ["convert", "SOURCE", f"lmdb:{'x' * 300}"], "cannot be written: File name too long"),
    ({}, ["convert", "SOURCE", f"npz:{'x' * 300}"], "cannot be written: File name too long"),
    ({}, ["convert", "SOURCE", f"hdf5:{'x' * 250}"], "cannot be written: File name too long"),
    ({}, ["mean", "SOURCE", f"{'x' * 300}.npy"], "cannot be written: File name too long"),
    ({"data": np.zeros((3, 4))}, ["mean", "SOURCE"], "data has shape (4,); expected images (C, H, W)"),
    ({"data": np.zeros(3)}, ["mean", "SOURCE"], "data has shape (); expected images (C, H, W)"),
    ({"data": np.zeros((3, 0, 4, 4))}, ["mean", "SOURCE"], "data has shape (0, 4, 4); expected images (C, H, W)"),
    ({"data": np.zeros((2, 1, 1, 70_000), np.uint8)}, ["convert", "SOURCE", "lmdb:out", "--encode", "jpg"],
     "record 0: an image of shape (1, 1, 70000) cannot be encoded as jpg"),
    ({"data": np.zeros((2, 1, 0, 7), np.uint8)}, ["convert", "SOURCE", "lmdb:out", "--encode", "png"],
     "record 0: an image of shape (1, 0, 7) cannot be encoded as png"),
    ({"data": np.zeros((2, 1, 2, 3)), "label": np.array([0, np.inf])}, ["convert", "SOURCE", "lmdb:out"],
     "record 1: a Datum has one whole number as label; found float64 (), inf"),
    ({"data": np.zeros((2, 1, 2, 3)), "label": np.array([np.nan, 0])}, ["convert", "SOURCE", "records:out"],
     "record 0: a Datum has one whole number as label; found float64 (), nan"),
    ({"label": np.arange(3)}, ["convert", "SOURCE", "lmdb:out"], "has the fields label; a database holds an image and"),
    ({"data": np.array(["a", "b"])}, ["convert", "SOURCE", "hdf5:out"], "expected fields of numbers; found data <U1"),
    ({"data": np.zeros((3, 0, 4, 4))}, ["inspect", "SOURCE", "--sheet", "x.png"], "no images (C, H, W) of numbers"),
    ({"data": np.zeros((3, 1, 4, 4), complex)}, ["inspect", "SOURCE", "--sheet", "x.png"],
     "no images (C, H, W) of numbers: data complex128 (1, 4, 4)"),
    ({"data": np.full((3, 1, 4, 4), "a")}, ["inspect", "SOURCE", "--sheet", "x.png"],
     "no images (C, H, W) of numbers: data <U1 (1, 4, 4)"),
])
def test_what_is_wrong_is_said(tmp_path, monkeypatch, data, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", **(data or {"data": np.zeros((3, 1, 2, 3), np.uint8), "label": np.arange(3)}))
    with pytest.raises(JaffeError) as caught:
        run("data", *["in.npz" if one == "SOURCE" else one for one in arguments])
    assert message in str(caught.value)


@pytest.mark.parametrize("arguments", [
    ["sample", "in.npz", "lmdb:out", "2", "--seed", "-1"], ["split", "in.npz", "lmdb:out=0.5", "--seed", "-1"],
    ["convert", "in.npz", "lmdb:out", "--shuffle", "-1"]])
def test_seeds_are_not_negative(arguments):
    result = run("data", *arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in result.stderr


def test_names_that_are_not_utf8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    write_images(tmp_path / name, [(4, 5)] * 3)
    assert "0 caf\\udce9        3" in run("data", "inspect", "folder:.").stdout
    assert run("data", "convert", "folder:.", f"npz:{name}.npz").stdout == "written npz:caf\\udce9.npz: 3 records\n"
    for kind, target in (("lmdb", name + "-db"), ("records", name + "-records")):
        run("data", "convert", "folder:.", f"{kind}:{target}", "--encode", "png")
        os.rename(target, kind)
    assert open_dataset("lmdb").records.keys[1] == b"00000001_caf\xe9/1.png"
    run("data", "convert", "lmdb", "lmdb:again")
    assert open_dataset("again").records.keys[1] == b"00000001_caf\xe9/1.png"


NET = """
name: "small"
layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "one" bottom: "label" top: "loss" }
"""


def test_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "db", [raw(i % 3) for i in range(10)])
    write_weights(tmp_path / "w.npz", {"one": [np.eye(3, 6, dtype=np.float32), np.zeros(3, np.float32)]})
    (tmp_path / "net.prototxt").write_text(NET)
    arguments = ["features", "--model", "net.prototxt", "--weights", "w.npz"]
    assert run(*arguments, "out.npz", "--blobs", "one,label").stdout == "written out.npz: 10 records\n"
    found = np.load("out.npz")
    np.testing.assert_array_equal(found["one"], np.repeat([[i % 3] for i in range(10)], 3, 1))
    assert found["label"].tolist() == [i % 3 for i in range(10)]
    for wrong, message in ((["lmdb:out", "--blobs", "one,loss"], "blob 'loss' of shape () has no item for each of 4"),
                           (["--blobs", "one"], "expected both TARGET and --blobs"), ([], "has no HDF5Output layer"),
                           (["out.npz", "--blobs", "one"], "out.npz is there already")):
        with pytest.raises(JaffeError) as caught:
            run(*arguments, *wrong)
        assert message in str(caught.value)
    (tmp_path / "net.prototxt").write_text(NET + """
layer { name: "out" type: "HDF5Output" bottom: "one" bottom: "label" hdf5_output_param { file_name: "out.h5" } }""")
    assert run(*arguments).stdout == "written out.h5: 10 records\n"
    assert open_dataset("out.h5").records[4]["data"].tolist() == [1, 1, 1]


def test_training_goes_on_over_damage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "db", [raw(0), b"\x0a\xff", *[raw(1)] * 6])
    (tmp_path / "net.prototxt").write_text(NET)
    arguments = ["train", "--model", "net.prototxt", "--iterations", "2", "--set", "base_lr=0.1", "--set",
                 "lr_policy=fixed", "--output", "runs/x"]
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt"')
    arguments += ["--solver", "solver.prototxt"]
    with pytest.raises(JaffeError, match=r"record 1 \(key 00000001\)"):
        run(*arguments)
    result = run(*arguments, "--skip-damaged", "--workers", "1")
    assert "skipped: LMDB" in result.stdout
    assert all(option in result.stdout for option in ("--workers 1", "--skip-damaged"))  # what to type next


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
    source = open_dataset({"data": np.zeros((50, 1, 2, 3)), "label": np.arange(50)})
    drawn = [int(record["label"]) for record in sample(source, 10, seed=2).records]
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn)
    assert drawn != [int(record["label"]) for record in sample(source, 10, seed=3).records]
    with pytest.raises(JaffeError, match="expected a number from 1 to that; received 51"):
        sample(source, 51)
    with pytest.raises(JaffeError, match="a seed is a whole number from 0 on; received -1"):
        sample(source, 1, seed=-1)


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
    whole = survey(open_dataset({"data": np.zeros((2000, 2)), "label": np.arange(2000)}), most=100)
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
    with pytest.raises(JaffeError, match=r"has no images \(C, H, W\) of numbers: data float64 \(3,\)"):
        contact_sheet(open_dataset({"data": np.zeros((4, 3))}), tmp_path / "no.png")


@pytest.mark.parametrize("data", [
    np.full((2, 1, 3, 4), np.nan), np.full((2, 3, 3, 4), np.inf), np.zeros((2, 1, 3, 4), bool),
    np.full((2, 2, 3, 4), [[-128], [127], [0]], np.int8)])
def test_any_numbers_on_a_contact_sheet(tmp_path, data):
    labels = np.array(["$x^", "\udcff"])
    assert contact_sheet(open_dataset({"data": data, "label": labels}), tmp_path / "sheet.png") == 2


def test_colours_of_a_contact_sheet(tmp_path):
    """Blue is blue, whichever way round the channels are."""
    blue = np.zeros((1, 3, 4, 4), np.uint8)
    blue[:, 0] = 255
    contact_sheet(open_dataset({"data": blue}), tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image[image.shape[0] // 2, image.shape[1] // 2].tolist() == [255, 0, 0]
