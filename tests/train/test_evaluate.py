"""Test nets over some batches, and over a whole data set, each record once."""

from __future__ import annotations

import jax
import lmdb
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import Feed, stream
from jaffe.train.evaluate import Evaluation

KEY = jax.random.key(1)
DATA = """
layer {{ name: "d" type: "MemoryData" top: "data" top: "label"
        memory_data_param {{ batch_size: {batch} channels: 3 height: 1 width: 2 }} }}
"""
NET = DATA + """
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param {{ num_output: {batch} weight_filler {{ type: "gaussian" std: 1 }} }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" top: "recall" }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 3 }}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
layer {{ name: "top" type: "ArgMax" bottom: "ip" top: "top" }}
"""


def arrays(items: int, classes: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(items)
    return {"data": random.normal(size=(items, 3, 1, 2)).astype(np.float32),
            "label": random.integers(0, classes, items).astype(np.int32)}


def evaluation(net: str, data, iterations: int | None = None, **settings) -> Evaluation:
    one = Feed(resolve(net, NetState("TEST")), data)
    return Evaluation(compile_net(net, phase="TEST", inputs=one.shapes), one, iterations, KEY, **settings)


@pytest.mark.parametrize("items", [3, 13, 15])  # fewer than a batch, a smaller one at the end, and none
@pytest.mark.parametrize("where", ["resident", "streamed"])
def test_whole_data_set(items, where, monkeypatch):
    """Batches of 5, of a net with 5 outputs: what has one number for each class is told from what has one an item."""
    if where == "streamed":
        monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)
    data = arrays(items)
    one = evaluation(NET.format(batch=5), data, with_loss=True)
    variables = one.net.init(KEY)
    found = one.run(variables)
    # All items in one batch.
    expected, _ = one.net.apply(variables, data)
    for name in ("accuracy", "loss"):
        assert found[name] == pytest.approx(float(expected[name]), rel=1e-6)
    assert found["total loss"] == pytest.approx(3 * found["loss"], rel=1e-6)
    np.testing.assert_allclose(found["prob"], expected["prob"].mean(0), rtol=1e-5)
    assert found["top"] == pytest.approx(float(expected["top"].mean()), rel=1e-6)
    # The recalls of the batches, weighted by their items.
    batches = [{name: array[i : i + 5] for name, array in data.items()} for i in range(0, items, 5)]
    recalls = [one.net.apply(variables, batch)[0]["recall"] * len(batch["label"]) for batch in batches]
    np.testing.assert_allclose(found["recall"], sum(recalls) / items, rtol=1e-6)


def test_some_batches_are_what_they_were():
    """So many batches, from the first record on again when there are no more; blobs place by place."""
    data = arrays(7)
    one = evaluation(NET.format(batch=5), data, 3)
    variables = one.net.init(KEY)
    found = one.run(variables)
    order = np.arange(15) % 7
    outputs = [one.net.apply(variables, {k: v[order[i : i + 5]] for k, v in data.items()})[0] for i in (0, 5, 10)]
    assert found["accuracy"] == pytest.approx(float(sum(one["accuracy"] for one in outputs)) / 3, rel=1e-6)
    np.testing.assert_allclose(found["prob"], (sum(one["prob"] for one in outputs) / 3).ravel(), rtol=1e-6)
    assert one.repeats
    assert not evaluation(NET.format(batch=5), data, 1).repeats
    assert not evaluation(NET.format(batch=5), data).repeats


FIXED = NET + """
layer {{ name: "ones" type: "DummyData" top: "ones" dummy_data_param {{ shape {{ dim: {batch} dim: {batch} }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "ip" bottom: "ones" top: "sum" }}
"""
# Batch on the second axis of the output.
TURNED = DATA + """
layer {{ name: "turn" type: "Permute" bottom: "data" top: "turned"
        permute_param {{ order: 1 order: 0 order: 2 order: 3 }} }}
layer {{ name: "s" type: "Silence" bottom: "label" }}
"""


def test_a_net_that_takes_no_smaller_batch():
    with pytest.raises(JaffeError) as caught:
        evaluation(FIXED.format(batch=5), arrays(13))
    message = str(caught.value)
    assert message.startswith("the data set has 13 records, 2 batches of 5 and one of 3, which net '' does not take: "
                              "layer 'sum' (<text>:")
    assert message.endswith("choose a batch size that divides 13, or give a number of batches (--iterations)")
    assert evaluation(FIXED.format(batch=5), arrays(15)).iterations == 3
    with pytest.raises(JaffeError, match="output 'turned' has the batch on another axis than the first"):
        evaluation(TURNED.format(batch=5), arrays(13))
    assert evaluation(TURNED.format(batch=5), arrays(15)).iterations == 3


RECURRENT = """
input: "x" input_shape { dim: 2 dim: 3 dim: 4 }
input: "cont" input_shape { dim: 2 dim: 3 }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 2 } }
"""


def test_carried_state_has_a_place_for_each_item():
    def data(items):
        return {"x": np.ones((items, 3, 4), np.float32), "cont": np.ones((items, 3), np.float32)}

    one = evaluation(RECURRENT, data(4))
    assert one.iterations == 2
    assert len(one.run(one.net.init(KEY))["h"]) == 3 * 2  # the mean over all steps
    with pytest.raises(JaffeError, match=r"one of 1, which net '' does not take: it carries state from batch to batch"):
        evaluation(RECURRENT, data(5))


TWO = """
layer { name: "a" type: "Data" top: "x" data_param { source: "a" backend: LMDB batch_size: 2 } }
layer { name: "b" type: "Data" top: "y" data_param { source: "b" backend: LMDB batch_size: 2 } }
"""


def test_data_sets_of_different_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, items in (("a", 3), ("b", 4)):
        with lmdb.open(name, map_size=2**20) as env, env.begin(write=True) as transaction:
            for i in range(items):
                value = Datum(channels=1, height=1, width=1, data=bytes([i])).SerializeToString()
                transaction.put(f"{i}".encode(), value)
    with pytest.raises(JaffeError, match="has 3 records in batches of 2 and 4 records in batches of 2: there is"):
        evaluation(TWO, None)
    assert evaluation(TWO.replace('"b"', '"a"').replace('name: "a"', 'name: "c"', 1), None).iterations == 2


def test_no_one_data_set():
    made = 'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } }'
    with pytest.raises(JaffeError, match="net '' has no data: there is no whole data set to run over; give a number"):
        evaluation(made, None)
    assert evaluation(made, None, 2).run({"params": {}, "state": {}}) == {"x": [0, 0]}


def test_totals_can_be_waited_for_later():
    one = evaluation(NET.format(batch=5), arrays(13))
    variables = one.net.init(KEY)
    totals = one.start(variables)
    assert all(isinstance(total, jax.Array) for total in totals.values())
    assert one.summarise(totals) == one.run(variables)
