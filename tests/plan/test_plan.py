"""What is planned for nets that one can follow, and for those of the zoo."""

from __future__ import annotations

import pytest

from jaffe import L, NetSpec, compile_net, zoo
from jaffe.compile.partition import Partition
from jaffe.netdef import JaffeError
from jaffe.plan import MACHINES, plan
from jaffe.plan.machine import Machine
from jaffe.plan.prices import AXIS, Prices
from tests.plan.nets import compiled, perceptron
from tests.plan.test_machine import PLAIN

FREE = Machine("free", {"float32": 1.0}, memory=float("inf"), devices_per_node=4, link=1.0, between=1.0, attained=1,
               carried=1, latency=0, kernel=0, step=0)


def test_bytes_by_hand():
    """Of an inner product 12 to 20 and one 20 to 8, for 16 items on each of four devices."""
    made = plan(compiled(perceptron(12, 20, 8)), 4, machine=PLAIN, model_parallel=1)
    layers = {layer.name: layer for layer in made.layers}
    assert (layers["ip1"].params, layers["ip2"].params) == (13 * 20, 21 * 8)
    assert layers["ip1"].data_parallel == layers["ip1"].sent == 1.5 * 4 * 13 * 20
    assert layers["ip1"].flops == 16 * (2 * 12 * 20 + 20 + 2 * 12 * 20 + 20)  # no gradient of the data
    assert layers["relu1"].sent == 0
    assert layers["relu1"].divided is None
    # By outputs: the data is gathered, and what comes out exchanged, there and back. By inputs: 20 values an item are
    # scattered and gathered, which is more.
    assert (made.considered, layers["ip1"].divided) == (4, 4 * 0.75 * (4 * 16 * 12 + 2 * 16 * 20))
    assert (made.data, made.model, made.partition) == (4, 1, None)
    assert made.sent == {"all-reduce": 1.5 * 4 * (13 * 20 + 21 * 8)}


def test_bytes_of_a_pair_by_hand():
    """ip1 by outputs and ip2 by inputs over two, on two nodes of two: of four devices."""
    prices = Prices(compiled(perceptron(12, 20, 8)), 4, PLAIN)
    sends = prices.sends(Partition(AXIS, 2, {"ip1": "output", "ip2": "input"}))
    assert [(one.layer, one.kind, one.size, one.members, one.stride) for one in sends] == [
        ("ip1", "all-gather", 4 * 2 * 16 * 12, 2, 1),
        ("ip2", "reduce-scatter", 4 * 2 * 16 * 8, 2, 1),
        ("ip2", "all-gather", 4 * 2 * 16 * 8, 2, 1),
        ("ip1", "all-reduce", 4 * 13 * 20 / 2, 2, 2),
        ("ip2", "all-reduce", 4 * 20 * 8 / 2, 2, 2),
        ("ip2", "all-reduce", 4 * 8, 4, 1),  # its bias, which each device has
    ]
    # Gradients of both parts go together.
    seconds = prices.seconds_of(sends)
    assert sum(seconds[3:5]) == pytest.approx(PLAIN.link_seconds("all-reduce", 4 * (13 * 10 + 80), 2, 2))
    assert seconds[3] / seconds[4] == pytest.approx(130 / 80)


def test_seconds_by_hand():
    net = compiled(perceptron(12, 20, 8))
    layers = {layer.name: layer.compute_seconds for layer in plan(net, 1, machine=FREE).layers}
    assert layers["ip2"] == 16 * (2 * 20 * 8 + 8 + 2 * 2 * 20 * 8 + 8)
    assert layers["data"] == 0
    # Now memory alone: forward, backward, and the update, of 4 bytes a value.
    slow = Machine("slow", {"float32": float("inf")}, memory=4.0, devices_per_node=4, link=1.0, between=1.0, attained=1,
                   carried=1, latency=0, kernel=0, step=0)
    layers = {layer.name: layer.compute_seconds for layer in plan(net, 1, machine=slow).layers}
    bottom, top, weights = 16 * 20, 16 * 8, 21 * 8
    assert layers["ip2"] == (bottom + top + weights) + (top + bottom + weights + bottom + weights) + 5 * weights
    assert layers["relu1"] == 2 * 16 * 20 + 3 * 16 * 20
    divided = Prices(net, 2, slow).compute("ip2", "input", 2)
    assert divided == bottom + 2 * top + weights / 2 + 2 * top + 2 * bottom + weights + 5 * weights / 2
    # A layer takes at least as long as a kernel's start, in each pass.
    started = Machine("started", FREE.flops | {"float32": float("inf")}, memory=float("inf"), devices_per_node=4,
                      link=1.0, between=1.0, kernel=3.0)
    layers = {layer.name: layer.compute_seconds for layer in plan(net, 1, machine=started).layers}
    assert (layers["data"], layers["ip1"], layers["relu1"]) == (0, 6, 6)


def test_steps_of_recurrent_layers_come_one_after_another():
    net = compile_net(zoo.char_lstm(steps=7, units=16), phase="TRAIN")
    slow, fast = (Machine("some", {"float32": 1e14}, memory=1e12, devices_per_node=8, link=1e10, between=1e9, step=step)
                  for step in (1.0, 0.0))
    seconds = [next(layer for layer in plan(net, 1, machine=one).layers if layer.name == "lstm").compute_seconds
               for one in (slow, fast)]
    assert seconds[0] - seconds[1] == pytest.approx(2 * 7)
    assert plan(net, 2).items == 32  # N, not T


def test_caffenet_on_eight_devices():
    """One weird trick: inner products are divided, convolutions are not."""
    made = plan(compile_net(zoo.caffenet(), phase="TRAIN"), 8)
    assert made.partition is not None
    assert {"fc6", "fc7"} <= set(made.partition.layers) <= {"fc6", "fc7", "fc8"}
    alone = plan(compile_net(zoo.caffenet(), phase="TRAIN"), 8, model_parallel=1)
    assert alone.partition is None
    assert made.seconds < alone.seconds
    assert sum(made.sent.values()) < sum(alone.sent.values()) / 2
    assert made.data * made.model == made.devices == 8
    assert made.items_per_second == pytest.approx(8 * 256 / made.seconds)
    assert 0.9 < made.efficiency < 1.1


def test_frozen_layers_send_nothing():
    n = perceptron(12, 20, 8)
    proto = n.to_proto()
    next(layer for layer in proto.layer if layer.name == "ip1").param.add(lr_mult=0)
    net = compile_net(proto, phase="TRAIN")
    layers = {layer.name: layer for layer in plan(net, 2, model_parallel=1).layers}
    assert layers["ip1"].data_parallel == 4 * 20  # its bias
    assert layers["ip1"].params == 13 * 20


def test_strong_scaling_shares_the_batch():
    net = compiled(perceptron(12, 20, 8))
    weak, strong = (plan(net, 4, machine=FREE, scaling=scaling, model_parallel=1) for scaling in ("weak", "strong"))
    assert (weak.items, strong.items) == (16, 4)
    assert strong.compute_seconds == weak.compute_seconds / 4
    assert strong.link_seconds == weak.link_seconds
    assert weak.efficiency == pytest.approx(weak.single_seconds / weak.seconds)
    assert strong.efficiency == pytest.approx(strong.single_seconds / 4 / strong.seconds)
    shared, whole = (Prices(net, 4, FREE, share).sends(Partition(AXIS, 2, {"ip1": "output"})) for share in (0.25, 1))
    assert shared[0].size == whole[0].size / 4
    assert shared[-1].size == whole[-1].size  # of gradients


def test_strong_scaling_is_weak_scaling_of_a_part():
    whole, part = (compile_net(zoo.caffenet(batch=batch), phase="TRAIN") for batch in (256, 32))
    strong, weak = plan(whole, 8, scaling="strong"), plan(part, 8)
    assert strong.partition == weak.partition
    assert strong.sent == pytest.approx(weak.sent)
    assert strong.seconds == pytest.approx(weak.seconds, rel=1e-3)  # where a count is rounded


def test_bfloat16_is_faster():
    net = [compile_net(zoo.caffenet(), phase="TRAIN", precision=precision) for precision in ("float32", "bfloat16")]
    single, half = (plan(one, 1).seconds for one in net)
    assert half < 0.6 * single


def test_links_within_a_node_are_preferred():
    """Where those between nodes are slow, gradients of large layers are better not sent between them at all."""
    net = compile_net(zoo.caffenet(), phase="TRAIN")
    made = plan(net, 16, machine=MACHINES["h100"])
    assert made.model <= 8


@pytest.mark.parametrize(("arguments", "message"), [
    ({"devices": 0}, "expected at least one device; found 0"),
    ({"devices": 4, "scaling": "strange"}, "scaling is weak or strong; found 'strange'"),
    ({"devices": 4, "model_parallel": 3}, "a number of devices that divides all 4; found 3"),
    ({"devices": 3, "scaling": "strong"}, "expected one of a multiple of 3; found 16"),
    ({"devices": 3, "model_parallel": 3}, "no layer of this net can be divided over 3 devices"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(JaffeError, match=message):
        plan(compiled(perceptron(16, 32, 8)), **arguments)


def test_nets_that_do_not_train():
    n = NetSpec("Reader")
    n.data = L.Input(shape={"dim": [2, 3]})
    n.ip = L.InnerProduct(n.data, num_output=4)
    with pytest.raises(JaffeError, match="net 'Reader' has no loss in phase TEST"):
        plan(compile_net(n), 2)
    divided = compile_net(perceptron(12, 20, 8), phase="TRAIN", partition=Partition("model", 2, {"ip1": "output"}))
    with pytest.raises(JaffeError, match="expected a net that is not divided yet"):
        plan(divided, 2)


def test_table():
    text = str(plan(compile_net(zoo.caffenet(), phase="TRAIN"), 8))
    title, _, upper, heads, *rows = text.splitlines()
    assert title.startswith("CaffeNet, 8 x h100, a mesh of 2 x 4, 256 items on each (weak scaling)")
    assert "divided by 4," in upper
    assert heads.split() == ["layer", "type", "params", "GFLOPs", "MB", "MB", "plan", "MB", "ms", "ms"]
    fc6 = next(row for row in rows if row.strip().startswith("fc6")).split()
    assert fc6[1:3] == ["InnerProduct", "37,752,832"]
    assert fc6[4] == "264.27"  # 2 * 7 / 8 * 4 * 37,752,832
    assert "by" in fc6
    assert "recommended: fc6 by " in rows[-1]
    assert "; the others data parallel" in rows[-1]
    alone = str(plan(compile_net(zoo.lenet(), phase="TRAIN"), 1))
    assert "sending" not in alone
    assert "recommended" not in alone
    assert str(plan(compile_net(zoo.lenet(), phase="TRAIN"), 8)).endswith("recommended: all layers data parallel")
    assert max(map(len, text.splitlines())) <= 160
