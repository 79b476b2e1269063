"""Caffe's MNIST example, from the published files to a trained net: its net and solver as they are, from LMDB."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import jaffe
from jaffe.train.data import open_dataset
from jaffe.train.data.convert import convert

# examples/mnist/lenet_train_test.prototxt and lenet_solver.prototxt of Caffe 1.0.
NET = """
name: "LeNet"
layer {
  name: "mnist"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TRAIN }
  transform_param { scale: 0.00390625 }
  data_param { source: "examples/mnist/mnist_train_lmdb" batch_size: 64 backend: LMDB }
}
layer {
  name: "mnist"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TEST }
  transform_param { scale: 0.00390625 }
  data_param { source: "examples/mnist/mnist_test_lmdb" batch_size: 100 backend: LMDB }
}
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 20
    kernel_size: 5
    stride: 1
    weight_filler { type: "xavier" }
    bias_filler { type: "constant" }
  }
}
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer {
  name: "conv2"
  type: "Convolution"
  bottom: "pool1"
  top: "conv2"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 50
    kernel_size: 5
    stride: 1
    weight_filler { type: "xavier" }
    bias_filler { type: "constant" }
  }
}
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer {
  name: "ip1"
  type: "InnerProduct"
  bottom: "pool2"
  top: "ip1"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  inner_product_param { num_output: 500 weight_filler { type: "xavier" } bias_filler { type: "constant" } }
}
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer {
  name: "ip2"
  type: "InnerProduct"
  bottom: "ip1"
  top: "ip2"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } bias_filler { type: "constant" } }
}
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "examples/mnist/lenet_train_test.prototxt"
test_iter: 100
test_interval: 500
base_lr: 0.01
momentum: 0.9
weight_decay: 0.0005
lr_policy: "inv"
gamma: 0.0001
power: 0.75
display: 100
max_iter: 10000
snapshot: 5000
snapshot_prefix: "examples/mnist/lenet"
solver_mode: GPU
"""


@pytest.fixture
def example(shared, tmp_path, monkeypatch) -> Path:
    """The folder of the example, as Caffe's users have it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "examples" / "mnist"
    folder.mkdir(parents=True)
    (folder / "lenet_train_test.prototxt").write_text(NET)
    (folder / "lenet_solver.prototxt").write_text(SOLVER)
    return folder


def test_a_thousand_iterations_on_the_originals_databases(shared, example):
    """Of 6,000 images of the 60,000, and 1,000 of the 10,000 to test."""
    for split, name in (("train", "mnist_train_6000_lmdb"), ("test", "mnist_test_1000_lmdb")):
        shutil.copytree(shared / "data" / name, example / f"mnist_{split}_lmdb")
    solver = jaffe.Solver(example / "lenet_solver.prototxt", max_iter=1000, test_iter=[10], random_seed=1)
    solver.run()
    assert solver.metrics.tests()[-1]["accuracy"] > 0.95  # 0.966 to 0.976 with three seeds


@pytest.mark.slow  # a minute or two
def test_the_whole_run(shared, example):
    """Published with the example: about 99.1 %."""
    for split in ("train", "test"):
        convert(open_dataset(f"mnist:{shared / 'data' / 'mnist'}", split), f"lmdb:{example / f'mnist_{split}_lmdb'}")
    solver = jaffe.Solver(example / "lenet_solver.prototxt", random_seed=1)
    solver.run()
    assert solver.metrics.tests()[-1]["accuracy"] >= 0.99
