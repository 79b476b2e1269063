"""Time steps as loops: graphs as text, and the numbers of the unrolled nets."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import PIPELINE, reroll, run
from tests.compile.programs import assert_near, differentiated, kept, quickly
from tests.nets.unrolled import UNROLLED

KEY = jax.random.key(0)


def feed(net):
    random = np.random.default_rng(0)
    return {
        name: random.integers(0, 2, value.shape) if name == "cont" else random.integers(0, 5, value.shape)
        if name == "label" else random.normal(size=value.shape)
        for name, value in net.inputs.items()
    }


def both(text: str, **settings):
    """The net, its rolled and its unrolled nodes."""
    net = compile_net(text, phase="TRAIN", **settings)
    context = net.context(kept(net))
    plain = run(net.graph, [one for one in PIPELINE if one is not reroll], context)
    return net, run(net.graph, PIPELINE, context), plain


@pytest.mark.parametrize("name", UNROLLED)
def test_numbers_are_those_of_the_unrolled_net(name):
    text, loops = UNROLLED[name]
    net, rolled, plain = both(text)
    assert sum(bool(node.plan and getattr(node.plan, "carried", None)) for node in rolled.nodes) == loops, str(rolled)
    variables, inputs = net.init(KEY), feed(net)
    found, expected = (quickly(lambda nodes=graph.nodes: differentiated(net, nodes, variables, inputs, KEY))
                       for graph in (rolled, plain))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[2]))
    assert_near(found, expected, 3e-6)
