"""Options of jaffe train: settings, weights, logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaffe.cli.options import parse_settings
from jaffe.netdef import JaffeError
from jaffe.netdef.weights import write_weights
from tests.cli.test_cli import jaffe


def test_settings_of_every_kind():
    options = ["base_lr=0.01", "type=AdamW", "stepvalue=100,200", "test_initialization=false", "debug_info=1",
               "snapshot_format=HDF5", "max_iter = 7", "test_iter=3"]
    assert parse_settings(options) == {
        "base_lr": 0.01, "type": "AdamW", "stepvalue": [100, 200], "test_initialization": False, "debug_info": True,
        "snapshot_format": "HDF5", "max_iter": 7, "test_iter": [3],
    }


@pytest.mark.parametrize(("option", "message"), [
    ("base_lr", "--set base_lr: expected NAME=VALUE, such as base_lr=0.01"),
    ("bse_lr=1", "--set bse_lr=1: expected a solver setting, such as base_lr=0.01; did you mean 'base_lr'?"),
    ("base_lr=fast", "--set base_lr=fast: base_lr is a number; found 'fast'"),
    ("max_iter=1.5", "--set max_iter=1.5: max_iter is a whole number; found '1.5'"),
    ("debug_info=maybe", "--set debug_info=maybe: debug_info is true or false; found 'maybe'"),
    ("net_param=x", "--set net_param=x: expected a solver setting, such as base_lr=0.01"),
])
def test_wrong_settings(option, message):
    with pytest.raises(JaffeError) as caught:
        parse_settings([option])
    assert str(caught.value).startswith(message)


def test_fine_tuning_with_another_solver_and_logs(tmp_path: Path):
    """Weights of two files, AdamW with a warm-up and a cosine, Caffe's log, events: all from the command line."""
    weights = {"ip1": [np.zeros((256, 64), np.float32), np.full(256, 0.1, np.float32)],
               "gone": [np.zeros(3, np.float32)]}
    write_weights(tmp_path / "a.npz", weights)
    write_weights(tmp_path / "b.npz", {"ip2": [np.ones((128, 256), np.float32), np.zeros(128, np.float32)]})
    output = jaffe(
        "train", "--recipe", "mlp", "--iterations", "30", "--weights", "a.npz,b.npz", "--output", "run/mlp",
        "--set", "type=AdamW", "--set", "lr_policy=cosine", "--set", "warmup_iter=10", "--set", "momentum=0.9",
        "--set", "base_lr=0.001", "--set", "display=5", "--caffe-log", "run/caffe.log", "--tensorboard", "run/events",
        cwd=tmp_path)
    assert "copied ip1, ip2" in output
    assert "ignored gone" in output
    assert "left scores" in output
    log = (tmp_path / "run" / "caffe.log").read_text()
    assert "Iteration 5, lr = 0.0006" in log
    assert list((tmp_path / "run" / "events").iterdir())
    assert "--set type=AdamW" in output  # what to type to go on
