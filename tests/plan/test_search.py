"""The layers that are chosen against all choices there are."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from jaffe.compile.partition import Partition, ways
from jaffe.netdef import JaffeError
from jaffe.plan.machine import Machine
from jaffe.plan.prices import AXIS, Prices
from jaffe.plan.search import best
from tests.plan.nets import WIDTHS, branching, compiled, perceptron


def machine(random: Random) -> Machine:
    """Any of fast and slow links and memory, within a factor of ten either way."""
    def about(value: float) -> float:
        return value * 10 ** random.uniform(-1, 1)

    return Machine("some", {"float32": 1e14}, memory=about(1e12), devices_per_node=random.choice((2, 4, 8)),
                   link=about(1e11), between=about(1e10), latency=10 ** random.uniform(-9, -5))


def best_of_all(prices: Prices, size: int) -> tuple[float, Partition | None]:
    able = {name: (None, *ways(node, prices.net.inferred, size)) for name, node in prices.nodes.items()}
    every = [{name: way for name, way in zip(able, chosen, strict=True) if way}
             for chosen in itertools.product(*able.values())]
    partitions = [Partition(AXIS, size, layers) if layers else None for layers in every]
    return min(((prices.total(one), one) for one in partitions), key=lambda one: one[0])


@pytest.mark.parametrize("kind", ["chain", "branches"])
def test_no_choice_is_better(kind):
    random = Random(3)
    divided = set()
    for _ in range(100):
        batch, devices = random.choice((1, 16, 256, 4096)), random.choice((2, 4, 8, 16))
        widths = [random.choice(WIDTHS) for _ in range(random.randint(3, 6))]
        net = compiled(perceptron(*widths, batch=batch, relu=random.random() < 0.5) if kind == "chain"
                       else branching(random, batch))
        prices = Prices(net, devices, machine(random))
        size = random.choice([size for size in (2, 4, 8, 16) if devices % size == 0])
        seconds, found = best(prices, size)
        expected, partition = best_of_all(prices, size)
        assert seconds == pytest.approx(expected, rel=1e-9), (found, partition)
        assert prices.total(found) == pytest.approx(seconds)
        divided.add(partition is not None)
    assert divided == {True, False}


def test_pairs_that_alone_would_not_pay():
    """An inner product by outputs spares the next one's exchange, by inputs, and that one its own."""
    net = compiled(perceptron(64, 4096, 64, 8, batch=256))
    fast = Machine("some", {"float32": 1e14}, memory=1e12, devices_per_node=8, link=1e10, between=1e9, latency=0)
    prices = Prices(net, 2, fast)
    _, found = best(prices, 2)
    assert found == Partition(AXIS, 2, {"ip1": "output", "ip2": "input"})
    nothing = prices.total(None)
    assert all(prices.total(Partition(AXIS, 2, {name: way})) > nothing for name, way in found.layers.items())


def test_a_division_that_is_asked_for():
    net = compiled(perceptron(8, 64, 8, batch=4096))
    some = Machine("some", {"float32": 1e14}, memory=1e12, devices_per_node=8, link=1e10, between=1e9)
    prices = Prices(net, 4, some)
    assert best(prices, 4)[1] is None
    _, found = best(prices, 4, divide=True)
    assert found is not None
    assert found.layers
    with pytest.raises(JaffeError, match="no layer of this net can be divided over 3 devices; expected an Inner"):
        best(Prices(net, 3, some), 3, divide=True)
