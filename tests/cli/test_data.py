"""jaffe data and jaffe features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jaffe.cli import app
from jaffe.netdef import JaffeError
from jaffe.netdef.means import read_mean
from jaffe.netdef.weights import write_weights
from jaffe.train.data import open_dataset
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
