"""Bytes that are predicted, against those of programs compiled for eight virtual devices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CASES = [  # a net of the zoo, its arguments, devices, and over how many layers are divided
    ("lenet", {"batch": 6}, 8, 1),
    ("lenet", {"batch": 6}, 8, 2),
    ("char_lstm", {"steps": 2000, "units": 32, "symbols": 64, "batch": 3}, 8, 1),
    ("char_lstm", {"steps": 5, "units": 32, "symbols": 64, "batch": 3}, 4, 4),
    ("mobilenet", {"batch": 2}, 2, 1),  # with the statistics of BatchNorm, which are each device's own
    ("caffenet", {"batch": 2}, 8, 4),
]


@pytest.mark.parametrize(("net", "arguments", "devices", "model"), CASES)
def test_predicted_bytes_are_those_of_the_program(net, arguments, devices, model):
    command = [sys.executable, "-W", "error", "-m", "benchmarks.scaling_worker", net, str(devices),
               f"--model-parallel={model}", f"--arguments={json.dumps(arguments)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == model
    assert bool(found["layers"]) == (model > 1)
    # But for numbers such as the loss, which the devices share too.
    assert found["compiled"] == pytest.approx(found["predicted"], rel=1e-4, abs=200)
