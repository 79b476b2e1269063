"""Bytes and seconds of collectives, by hand."""

from __future__ import annotations

import pytest

from jaffe.netdef import JaffeError
from jaffe.plan import MACHINES, Machine, bytes_sent, machine_of

# Without parts that are attained: numbers that one can follow.
PLAIN = Machine("plain", {"float32": 100.0, "bfloat16": 200.0}, memory=10.0, devices_per_node=4, link=8.0, between=2.0,
                attained=1.0, carried=1.0, latency=0.5, kernel=0.0, step=0.0)


@pytest.mark.parametrize(("kind", "sent"), [
    ("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("all-to-all", 75), ("collective-permute", 100),
])
def test_bytes_that_four_devices_send(kind, sent):
    assert bytes_sent(kind, 100, 4) == sent


def test_one_device_sends_nothing():
    assert bytes_sent("all-reduce", 100, 1) == 0
    assert PLAIN.link_seconds("all-reduce", 100, 1) == 0


@pytest.mark.parametrize(("kind", "members", "stride", "seconds"), [
    ("all-reduce", 4, 1, 150 / 8 + 4 * 0.5),  # in a node: there and back over two steps of a tree
    ("all-gather", 4, 1, 75 / 8 + 2 * 0.5),
    ("all-gather", 3, 1, 100 * 2 / 3 / 8 + 2 * 0.5),
    ("all-reduce", 8, 1, 175 / 8 + 6 * 0.5),  # two nodes: four links of 2 between them
    ("all-reduce", 2, 4, 100 / 2 + 2 * 0.5),  # one device of each node: one link
    ("all-reduce", 4, 2, 150 / 4 + 4 * 0.5),  # two of each
    ("all-to-all", 8, 1, 87.5 / 2 + 3 * 0.5),  # each device's own link
    ("all-to-all", 4, 1, 75 / 8 + 2 * 0.5),
])
def test_seconds_of_collectives(kind, members, stride, seconds):
    assert PLAIN.link_seconds(kind, 100, members, stride) == pytest.approx(seconds)


def test_links_between_nodes_are_no_faster_than_those_within():
    fast = Machine("fast", PLAIN.flops, memory=10, devices_per_node=4, link=8, between=7, carried=1, latency=0)
    assert fast.link_seconds("all-gather", 100, 8) == pytest.approx(87.5 / 8)


def test_computing_takes_what_takes_longer():
    assert PLAIN.compute_seconds(1000, 10, "float32") == 10
    assert PLAIN.compute_seconds(1000, 10, "bfloat16") == 5
    assert PLAIN.compute_seconds(100, 50, "float32") == 5
    half = Machine("half", PLAIN.flops, memory=10, devices_per_node=4, link=8, between=2, attained=0.5, carried=0.5)
    assert half.compute_seconds(1000, 10, "float32") == 20
    assert half.compute_seconds(100, 50, "float32") == 10
    assert half.link_seconds("all-gather", 100, 4) == pytest.approx(75 / 4, rel=1e-5)


def test_machines_by_name():
    assert machine_of("h100") is MACHINES["h100"]
    with pytest.raises(JaffeError, match="no machine 'h10'; did you mean 'h100'\\?; there are h100, a100"):
        machine_of("h10")
