"""The command line: start-up, commands, and what it says of wrong options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaffe.netdef import read_weights

COMMANDS = ["train", "test", "plot", "report", "summary", "plan", "time", "upgrade", "deploy", "convert", "diff",
            "compare", "export", "features", "devices", "zoo", "data"]
COMMAND = [sys.executable, "-c", "from jaffe.cli import main; main()"]


def jaffe(*arguments: str, cwd: Path | None = None, status: int = 0) -> str:
    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def test_help_loads_nothing_heavy():
    code = ("import sys; sys.argv = ['jaffe', '--help']\nfrom jaffe.cli import main\ntry: main()\n"
            "except SystemExit: pass\nprint([m for m in ('jax', 'flax', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().endswith("[]")
    listed = done.stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line[:3].strip() and line.startswith("  ")] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command):
    assert "--help" in jaffe(command, "--help")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which logistic regression was trained for 200 iterations."""
    folder = tmp_path_factory.mktemp("run")
    output = jaffe("train", "--recipe", "logreg", "--iterations", "200", cwd=folder)
    (folder / "output.txt").write_text(output)
    return folder


def test_train_says_what_it_did(trained: Path):
    output = (trained / "output.txt").read_text()
    assert "net LogisticRegression: 650 parameters; seed 1" in output
    assert "\ncompiled in " in output
    assert "iteration    150  loss" in output
    assert "iteration    200  test accuracy 0.9" in output
    for name in ("metrics.jsonl", "curves.png", "snapshots"):
        path = f"runs/logreg/logreg_{name}"
        assert path in output
        assert (trained / path).exists()
    assert "try next" in output


def test_train_goes_on(trained: Path, tmp_path: Path):
    output = jaffe("train", "--recipe", "logreg", "--snapshot", str(trained / "runs/logreg/logreg_snapshots"),
                   "--iterations", "250", "--output", "more/run", cwd=tmp_path)
    assert "iteration    200  loss" in output
    assert "iteration      0" not in output
    assert (tmp_path / "more" / "run_snapshots" / "iter_250").is_dir()


def test_test(trained: Path, tmp_path: Path):
    snapshot = str(trained / "runs/logreg/logreg_snapshots/iter_200")
    output = jaffe("test", "--model", "logreg", "--snapshot", snapshot, "--iterations", "3")
    assert float(output.split("accuracy = ")[1].split()[0]) > 0.9
    # the same from a file of weights
    from jaffe.netdef import NetParameter
    from jaffe.netdef.weights import array_to_blob

    assert not list(tmp_path.iterdir())
    import jax

    from jaffe import compile_net, zoo
    from jaffe.train.snapshots import restore_variables

    net = compile_net(zoo.logreg())
    params = restore_variables(Path(snapshot), net.init(jax.random.key(0)))["params"]["scores"]
    file = NetParameter()
    layer = file.layer.add(name="scores", type="InnerProduct")
    layer.blobs.extend([array_to_blob(params["weight"]), array_to_blob(params["bias"])])
    path = tmp_path / "scores.caffemodel"
    path.write_bytes(file.SerializeToString())
    assert list(read_weights(path)) == ["scores"]
    assert jaffe("test", "--model", "logreg", "--weights", str(path), "--iterations", "3") == output


def test_summary_and_time_and_devices():
    output = jaffe("summary", "--model", "lenet", "--phase", "TRAIN")
    assert "431,080" in output
    assert "64x20x24x24" in output
    output = jaffe("time", "--model", "mlp", "--iterations", "3")
    assert "whole net" in output
    assert "scores" in output
    assert "cpu:0" in jaffe("devices")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "lnet"], "jaffe: no recipe 'lnet'; did you mean 'lenet'?"),
        (["train", "--solver", "gone.prototxt"], "jaffe: gone.prototxt: cannot be read: No such file or directory"),
        (["train", "--solver", "x", "--recipe", "y"], "jaffe: --solver excludes --recipe; use one"),
        (["train", "--recipe", "logreg", "--device", "gpu:9"], "jaffe: --device gpu:9 is not there; found cpu:0"),
        (["train", "--recipe", "logreg", "--gpu", "0,1"], "jaffe: --device 0 is not there; found cpu:0"),
        (["train", "--recipe", "logreg", "--devices", "2"], "jaffe: expected 1 to 1 devices (cpu:0); found 2"),
        (["train", "--recipe", "logreg", "--devices", "1", "--gpu", "0"], "--devices 1 excludes --device 0; use one"),
        (["train", "--recipe", "logreg", "--zero"], "--zero are for several devices; expected --devices N or --device"),
        (["train", "--recipe", "logreg", "--device", "all", "--scaling", "big"], "(--scaling) is 'weak' or 'strong'"),
        (["train", "--recipe", "logreg", "--device", "cpu:0,"], "as gpu:0,gpu:1; found an empty one"),
        (["train", "--process", "1"], "--coordinator, --processes and --process go with --distributed"),
        (["time", "--model", "lenet", "--gpu", "all"], "jaffe: --device all: this command uses one device;"),
        (["train", "--recipe", "logreg", "--snapshot", "gone"], "gone holds no snapshot"),
        (["test", "--model", "lenet"], "jaffe: expected --weights or --snapshot, one of them"),
        (["test", "--model", "lenet", "--weights", "gone"], "jaffe: gone: cannot be read"),
        (["test", "--model", "lenet", "--weights", "."], "jaffe: --weights . is a folder: expected a file"),
        (["test", "--model", "lenet", "--snapshot", "a.solverstate"], "the .caffemodel beside it: expected --weights"),
        (["train", "--recipe", "logreg", "--set", "weights=a"], "jaffe: --set weights=a: expected --weights for that"),
        (["summary"], "jaffe: expected --model: a net prototxt, or the name of a recipe or net, which jaffe zoo lists"),
        (["summary", "--model", "lenet", "--input", "data=a"], "jaffe: --input data=a: expected name=sizes"),
        (["summary", "--model", "lenet", "--phase", "train"], "phase is 'TRAIN' or 'TEST'; received 'train'"),
    ],
)
def test_wrong_options(arguments, message, tmp_path):
    assert message in jaffe(*arguments, cwd=tmp_path, status=1)
