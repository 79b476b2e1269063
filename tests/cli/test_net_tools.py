"""jaffe upgrade and jaffe deploy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef import NetParameter, format_text, load, read_weights
from jaffe.netdef.jaffe_pb2 import V1LayerParameter
from jaffe.netdef.weights import array_to_blob
from tests.cli.test_cli import COMMAND, jaffe

OLD = """name: "old"
input: "x" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7
layers { name: "fc" type: INNER_PRODUCT bottom: "x" top: "fc" blobs_lr: 2 inner_product_param { num_output: 3 } }
"""
NEW = format_text(load("""name: "old"
layer { name: "input" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
layer {
  name: "fc" type: "InnerProduct" bottom: "x" top: "fc" param { lr_mult: 2 } inner_product_param { num_output: 3 }
}
""").net)

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def told(*arguments: str, cwd: Path) -> tuple[str, str]:
    """What the command prints and what it says beside."""
    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, done.stderr


def test_upgrade_prints(tmp_path: Path):
    (tmp_path / "old.prototxt").write_text(OLD)
    assert told("upgrade", "old.prototxt", cwd=tmp_path) == (
        NEW, "old.prototxt: 1 layers entry written as layer\nold.prototxt: input fields written as an Input layer\n"
    )
    (tmp_path / "new.prototxt").write_text(NEW)
    assert told("upgrade", "new.prototxt", cwd=tmp_path) == (NEW, "new.prototxt: is in the current format already\n")


def test_upgrade_writes_and_does_not_overwrite(tmp_path: Path):
    (tmp_path / "old.prototxt").write_text(OLD)
    jaffe("upgrade", "old.prototxt", "new.prototxt", cwd=tmp_path)
    assert (tmp_path / "new.prototxt").read_text() == NEW
    (tmp_path / "new.prototxt").write_text("kept")
    message = jaffe("upgrade", "old.prototxt", "new.prototxt", cwd=tmp_path, status=1)
    assert message == "jaffe: new.prototxt is there already; --force overwrites it\n"
    assert (tmp_path / "new.prototxt").read_text() == "kept"
    jaffe("upgrade", "--force", "old.prototxt", "new.prototxt", cwd=tmp_path)
    assert (tmp_path / "new.prototxt").read_text() == NEW


def test_upgrade_binary(tmp_path: Path):
    old = NetParameter()
    layer = old.layers.add(name="fc", type=V1LayerParameter.INNER_PRODUCT)
    layer.blobs.append(array_to_blob(WEIGHT))
    (tmp_path / "old.caffemodel").write_bytes(old.SerializeToString())
    printed, said = told("upgrade", "old.caffemodel", cwd=tmp_path)
    assert printed == 'layer {\n  name: "fc"\n  type: "InnerProduct"\n}\n'
    assert said.endswith("old.caffemodel: weights are not printed; name OUT to write them\n")
    jaffe("upgrade", "old.caffemodel", "new.caffemodel", cwd=tmp_path)
    assert NetParameter.FromString((tmp_path / "new.caffemodel").read_bytes()).layer[0].type == "InnerProduct"
    assert (read_weights(tmp_path / "new.caffemodel")["fc"][0] == WEIGHT).all()


def test_upgrade_solver(tmp_path: Path):
    (tmp_path / "solver.prototxt").write_text("solver_type: ADAM  # the old way\nbase_lr: 0.5\n")
    printed, said = told("upgrade", "solver.prototxt", cwd=tmp_path)
    assert printed == 'base_lr: 0.5\ntype: "Adam"\n'
    assert said == 'solver.prototxt: solver_type: ADAM written as type: "Adam"\n'


DEPLOY = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { scale: 0.5 } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" }
"""


def test_deploy(tmp_path: Path):
    (tmp_path / "train.prototxt").write_text(DEPLOY)
    printed, said = told("deploy", "train.prototxt", "--shape", "data=1,3,5,7", cwd=tmp_path)
    assert said == "train.prototxt: reads data (1, 3, 5, 7); gives prob\n"
    jaffe("deploy", "train.prototxt", "--shape", "data=1,3,5,7", "-o", "deploy.prototxt", cwd=tmp_path)
    assert (tmp_path / "deploy.prototxt").read_text() == printed
    assert load(tmp_path / "deploy.prototxt").net.layer[0].transform_param.scale == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upgrade", "gone.prototxt"], "jaffe: gone.prototxt: cannot be read: No such file or directory\n"),
        (["upgrade", "train.prototxt", "no/where"], "jaffe: no/where: cannot be written: No such file or directory\n"),
        (["upgrade", "solver.prototxt", "x.caffemodel"],
         "jaffe: x.caffemodel: a solver is written as text; expected a .prototxt\n"),
        (["deploy", "train.prototxt"], "jaffe: layer 'd' (train.prototxt:1): the shape of 'data' is not in the net, "
         "only in the data: expected inputs={'data': (1, ...)} (--shape data=1,...); found none\n"),
        (["deploy", "train.prototxt", "--shape", "data=a"],
         "jaffe: --shape data=a: expected name=sizes, such as data=64,1,28,28\n"),
        (["deploy", "train.prototxt", "--shape", "data=99999999999999999999999,28"],
         "jaffe: inputs['data']: sizes are at most 2147483647; received (99999999999999999999999, 28)\n"),
        (["deploy", "train.prototxt", "--output", "fcc"],
         "jaffe: no blob 'fcc' can be had without labels; did you mean 'fc'?\n"),
    ],
)
def test_wrong(arguments, message, tmp_path: Path):
    (tmp_path / "train.prototxt").write_text(DEPLOY)
    (tmp_path / "solver.prototxt").write_text("base_lr: 0.5\n")
    assert jaffe(*arguments, cwd=tmp_path, status=1) == message


@pytest.mark.parametrize("command", ["upgrade", "deploy"])
def test_a_failed_write_leaves_the_file(tmp_path: Path, command: str, monkeypatch):
    """IN is OUT, and the disk is full."""
    import os

    from jaffe.cli.deploy import deploy
    from jaffe.cli.upgrade import upgrade
    from jaffe.netdef import SpecError

    path = tmp_path / "net.prototxt"
    path.write_text(text := OLD if command == "upgrade" else NEW)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SpecError, match=r"net\.prototxt: cannot be written: No space left on device"):
        upgrade(str(path), str(path), True) if command == "upgrade" else deploy(str(path), str(path), force=True)
    assert path.read_text() == text
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_output_that_cannot_be_written(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full (a device that is always full) is not here")
    (tmp_path / "old.prototxt").write_text(OLD)
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "upgrade", "old.prototxt"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
                              text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (1, "jaffe: the output cannot be written: No space left on device\n")


def test_upgrade_of_a_net_with_a_word_of_solvers(tmp_path: Path):
    (tmp_path / "net.prototxt").write_text('type: "CNN"\n' + NEW)
    assert jaffe("upgrade", "net.prototxt", cwd=tmp_path, status=1).startswith(
        "jaffe: net.prototxt:1:1: NetParameter has no field 'type'")


def test_upgrade_says_what_of_a_fork_it_leaves_out(tmp_path: Path):
    """Messages that stay keep their unknown fields in a binary file; a V1 entry does not stay, and text has none."""
    unknown, two = b"\xa8\x46\x07", b"\xa8\x46\x07\xb0\x46\x07"  # fields 1125, and 1125 and 1126
    fc = V1LayerParameter(name="fc", type=V1LayerParameter.INNER_PRODUCT)
    fc.inner_product_param.MergeFromString(unknown)
    fc.MergeFromString(two)
    old = NetParameter(layers=[fc])
    old.MergeFromString(unknown)
    (tmp_path / "old.caffemodel").write_bytes(old.SerializeToString())
    _, said = told("upgrade", "old.caffemodel", cwd=tmp_path)
    assert said.splitlines()[1:] == [
        "old.caffemodel: the net: field 1125 is not in the schema and is left out",
        "old.caffemodel: layer 'fc': fields 1125, 1126, inner_product_param.1125 are not in the schema and are left "
        "out",
    ]
    _, said = told("upgrade", "old.caffemodel", "new.pb", cwd=tmp_path)
    assert said.splitlines()[1:] == [
        "old.caffemodel: the net: field 1125 is not in the schema and is left out",
        "old.caffemodel: layer 'fc': fields 1125, 1126 are not in the schema and are left out",
    ]
    _, said = told("upgrade", "new.pb", "same.pb", cwd=tmp_path)
    assert said == "new.pb: is in the current format already\n"
    assert (tmp_path / "same.pb").read_bytes() == (tmp_path / "new.pb").read_bytes()
