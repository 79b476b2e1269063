"""What a snapshot says of the nets and data of its run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaffe import Solver
from jaffe.netdef import JaffeError
from jaffe.netdef.weights import array_to_blob
from jaffe.train.declaration import declare, declared_nets

NET = """name: "two" state { stage: "own" }
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 1 height: 8 width: 8 } include { phase: TRAIN } }
layer { name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 6 channels: 1 height: 8 width: 8 } include { phase: TEST } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "extra" type: "Accuracy" bottom: "ip" bottom: "label" top: "extra" include { stage: "more" } }
"""


def solver_of(tmp_path, data) -> Solver:
    (tmp_path / "net.prototxt").write_text(NET)
    return Solver(net=tmp_path / "net.prototxt", data=data, base_lr=0.1, lr_policy="fixed", max_iter=1, test_iter=[1],
                  test_interval=1, test_state=[dict(stage=["more"], level=2)])


def test_nets_come_back_as_they_were(tmp_path):
    arrays = {"data": np.zeros((6, 1, 8, 8)), "label": np.zeros(6)}
    solver = solver_of(tmp_path, {"train": "tfds:digits", "test": arrays})
    feeds = [solver.feed, solver.tests[0].feed]
    said = json.loads(json.dumps({"declared": declare(solver.config, feeds)}))
    train, test = declared_nets(said)
    assert (train.data, train.order, train.inputs["data"]) == ("tfds:digits", "RGB", (4, 1, 8, 8))
    assert (test.data, test.order, test.inputs["data"]) == (None, "BGR", (6, 1, 8, 8))
    assert (test.phase, test.level, test.stages) == ("TEST", 2, ("own", "more"))
    assert train.source.directory == tmp_path
    for one, original in ((train, solver.net), (test, solver.tests[0].net)):
        net = one.compile()
        assert net.summary() == original.summary()
        assert [node.name for node in net.graph.nodes] == [node.name for node in original.graph.nodes]
    assert said["declared"]["ran"]["jax"] == jax.__version__


def test_weights_in_a_net_are_no_part_of_it(tmp_path):
    solver = solver_of(tmp_path, "tfds:digits")
    layer = solver.config.train.source.net.layer[2]
    layer.blobs.append(array_to_blob(np.full((10, 64), 0.5)))
    said = declare(solver.config, [solver.feed, solver.tests[0].feed])
    assert "blobs" not in said["nets"][0]["net"]
    assert len(layer.blobs) == 1  # the solver's own stays


WHOLE = {"net": "", "phase": "TEST", "level": 0, "stages": [], "directory": ".", "data": None, "order": "BGR",
         "inputs": {}}


def test_what_says_nothing_and_what_is_damaged():
    assert declared_nets({"iteration": 3}) == []
    assert len(declared_nets({"declared": {"nets": [WHOLE]}})) == 1
    for damaged in ({}, {"nets": [{}]}, {"nets": 3}, {"nets": [{"net": "layer {", "directory": "."}]},
                    {"nets": [{**WHOLE, "inputs": [1]}]}, {"nets": [{**WHOLE, "net": 3}]}):
        with pytest.raises(JaffeError, match="what the snapshot says of its nets is damaged"):
            declared_nets({"declared": damaged})
