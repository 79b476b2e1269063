"""Passes, as pairs of graphs in text form."""

from __future__ import annotations

import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import PIPELINE, bypass_identity, eliminate_dead, run

NET = """
name: "n"
layer { name: "x" type: "Input" top: "x" top: "label" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "split" type: "Split" bottom: "x" top: "x0" top: "x1" }
layer { name: "ip" type: "InnerProduct" bottom: "x0" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "bn" type: "BatchNorm" bottom: "x1" top: "bn" }
layer { name: "one" type: "Concat" bottom: "ip" top: "one" }
layer { name: "hush" type: "Silence" bottom: "bn" bottom: "label" }
layer { name: "out" type: "ReLU" bottom: "one" top: "out" }
"""


def context(net, keep=("out",)):
    return net.context(frozenset(keep))


def test_bypass_identity():
    net = compile_net(NET, phase="TEST")
    assert str(bypass_identity(net.graph, context(net))) == """net n TEST
  x, label = Input<x>()
  x0, x1 = Split<split>(x)
  ip = InnerProduct<ip>(x)
  ip#1 = Dropout<drop>(ip)
  bn = BatchNorm<bn>(x)
  one = Concat<one>(ip)
  Silence<hush>(bn, label)
  out = ReLU<out>(ip)
  -> out"""


def test_dropout_stays_in_train():
    net = compile_net(NET, phase="TRAIN")
    assert "one = Concat<one>(ip#1)" in str(bypass_identity(net.graph, context(net)))


def test_eliminate_dead_keeps_state_and_what_is_asked_for():
    net = compile_net(NET, phase="TEST")
    assert str(run(net.graph, PIPELINE, context(net))) == """net n TEST
  x, label = Input<x>()
  ip = InnerProduct<ip>(x)
  bn = BatchNorm<bn>(x)
  out = ReLU<out>(ip)
  -> out"""
    assert "one = Concat<one>(ip)" in str(run(net.graph, PIPELINE, context(net, ("out", "one"))))


@pytest.mark.parametrize("one", PIPELINE, ids=lambda one: one.__name__)
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_passes_are_idempotent(one, phase):
    net = compile_net(NET, phase=phase)
    once = one(net.graph, context(net))
    assert str(one(once, context(net))) == str(once)


def test_a_wrong_pass_is_caught():
    net = compile_net(NET)
    with pytest.raises(AssertionError, match="before they are written"):
        run(net.graph, [lambda graph, _: graph.with_nodes(graph.nodes[1:])], context(net))


def test_stopped_gradient_is_not_bypassed():
    net = compile_net(NET.replace('top: "x1" }', 'top: "x1" propagate_down: false }'))
    assert "ip = InnerProduct<ip>(x0)" in str(eliminate_dead(bypass_identity(net.graph, context(net)), context(net)))
