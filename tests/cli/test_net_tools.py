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
        (["upgrade", "train.prototxt", "no/where"], "jaffe: no/where cannot be written: No such file or directory\n"),
        (["upgrade", "solver.prototxt", "x.caffemodel"],
         "jaffe: x.caffemodel: a solver is written as text; expected a .prototxt\n"),
        (["deploy", "train.prototxt"], "jaffe: layer 'd' (train.prototxt:1): the shape of 'data' is not in the net, "
         "only in the data: expected inputs={'data': (1, ...)} (--shape data=1,...); found none\n"),
        (["deploy", "train.prototxt", "--output", "fcc"],
         "jaffe: no blob 'fcc' can be had without labels; did you mean 'fc'?\n"),
    ],
)
def test_wrong(arguments, message, tmp_path: Path):
    (tmp_path / "train.prototxt").write_text(DEPLOY)
    (tmp_path / "solver.prototxt").write_text("base_lr: 0.5\n")
    assert jaffe(*arguments, cwd=tmp_path, status=1) == message
