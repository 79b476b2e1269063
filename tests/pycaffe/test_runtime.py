"""The mode, the seed, the log; and what of Caffe's machinery is not there."""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError, NetParameter
from jaffe.pycaffe import runtime


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(runtime, "_RUNTIME", runtime._Runtime())


def test_the_mode_says_where_nets_run():
    net = caffe.Net('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
                    'layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }', caffe.TEST)
    net.forward(x=[1, 2])
    caffe.set_mode_cpu()
    assert runtime.chosen_device().platform == "cpu"
    np.testing.assert_array_equal(net.forward()["y"], [2, 4])
    assert net.blobs["y"].values.device().devices() == {jax.devices("cpu")[0]}


def test_no_gpu(monkeypatch):
    def none(platform=None):
        if platform == "gpu":
            raise RuntimeError("Unknown backend gpu")
        return cpu

    cpu = jax.devices("cpu")
    monkeypatch.setattr(jax, "devices", none)
    for call in (caffe.set_mode_gpu, lambda: caffe.set_device(0)):
        with pytest.raises(JaffeError, match=r"there is no GPU that JAX can use; it sees cpu: pip install 'jaffe\["):
            call()


def test_several_gpus(monkeypatch):
    """Two CPU devices' worth of names stand for them."""
    class Device:
        platform = "gpu"

    gpus = [Device(), Device()]
    monkeypatch.setattr(jax, "devices", lambda platform=None: gpus)
    caffe.set_device(1)
    assert runtime.chosen_device() is None
    caffe.set_mode_gpu()
    assert runtime.chosen_device() is gpus[1]
    caffe.set_device(0)
    assert runtime.chosen_device() is gpus[0]
    with pytest.raises(JaffeError, match="there is no GPU 2; expected 0 to 1"):
        caffe.set_device(2)


def test_seeds_are_whole_numbers():
    with pytest.raises(JaffeError, match=r"a seed is a whole number; received 1.5"):
        caffe.set_random_seed(1.5)
    caffe.set_random_seed(-1)


def test_log(capsys):
    caffe.log("before")
    caffe.init_log(0)
    caffe.init_log()  # not twice
    caffe.log("a line")
    caffe.init_log(1)
    caffe.log("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("I")
    assert lines[0].endswith(" a line")
    with pytest.raises(JaffeError, match="a level of the log is 0, 1, 2 or 3; received 4"):
        caffe.init_log(4)
    caffe.init_log(0, stderr=False)


def test_timer():
    timer = caffe.Timer()
    timer.start()
    time.sleep(0.01)
    timer.stop()
    assert 10 <= timer.ms == timer.ms < 1000


def test_one_solver_on_one_device():
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    for call in (lambda: caffe.set_solver_count(2), lambda: caffe.set_multiprocess(True)):
        with pytest.raises(JaffeError, match=r"is \S+ here; received .*jaffe.Solver\(parallel="):
            call()
    with pytest.raises(JaffeError, match="there is no NCCL here"):
        caffe.NCCL(None, "")


def test_names():
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert {"Convolution", "SoftmaxWithLoss", "LSTM", "Split"} < set(caffe.layer_type_list())
    assert caffe.proto.caffe_pb2.NetParameter is NetParameter
    assert caffe.proto.caffe_pb2.TEST == caffe.io.caffe_pb2.TEST == 1
    with pytest.raises(AttributeError, match=r"module 'jaffe.pycaffe' has no attribute 'SGDSolvr'"):
        _ = caffe.SGDSolvr
    with pytest.raises(AttributeError):
        _ = caffe.draw


FRESH = """
import sys
import jaffe.pycaffe
late = {"optax", "orbax", "grain", "PIL", "scipy.ndimage", "h5py"}
assert not late & set(sys.modules), late & set(sys.modules)
jaffe.pycaffe.SGDSolver

sys.modules["caffe"] = jaffe.pycaffe
import caffe
import caffe.io
from caffe import layers as L, params as P
from caffe.coord_map import crop
from caffe.proto import caffe_pb2
assert caffe.io.Transformer is jaffe.pycaffe.transformer.Transformer
assert caffe_pb2.NetParameter is jaffe.netdef.NetParameter
"""


def test_in_a_fresh_process():
    """Solvers, and what reads files, are loaded late; and all of it is there under the old name."""
    subprocess.run([sys.executable, "-c", FRESH], check=True, timeout=120)
