"""Cells written out step by step."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import L, NetParameter, NetSpec, SpecError, cells, format_text, load, resolve, to_dot, unroll
from jaffe.netdef.stored import stored_names
from tests.nets import NETS

X = {"x": (3, 4, 2)}
FRAGMENT = """
layer { name: "x2h" type: "InnerProduct" bottom: "x" top: "x2h" inner_product_param { num_output: 7 axis: 2 } }
layer { name: "h2h" type: "InnerProduct" bottom: "h_before" top: "h2h" param { lr_mult: 2 }
  inner_product_param { num_output: 7 axis: 2 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "x2h" bottom: "h2h" top: "h" }
layer { name: "tanh" type: "TanH" bottom: "h" top: "h" }
"""


def cell(x, h_before):
    sums = L.Eltwise(
        L.InnerProduct(x, num_output=7, axis=2, name="x2h"),
        L.InnerProduct(h_before, num_output=7, axis=2, bias_term=False, param=[{"lr_mult": 2}], name="h2h"), name="sum")
    return {"h": L.TanH(sums, name="tanh")}


def graph(net) -> list[str]:
    return [line.strip() for line in str(resolve(net)).splitlines()[1:-1]]


def test_what_a_person_would_write():
    assert format_text(unroll(FRAGMENT, 2, inputs={"x": (2, 4, 2)}, state={"h": (1, 4, 7)})) == """\
layer {
  name: "x"
  type: "Input"
  top: "x"
  input_param {
    shape {
      dim: 2
      dim: 4
      dim: 2
    }
  }
}
layer {
  name: "x_slice"
  type: "Slice"
  bottom: "x"
  top: "x_1"
  top: "x_2"
  slice_param {
    axis: 0
  }
}
layer {
  name: "h_0"
  type: "DummyData"
  top: "h_0"
  dummy_data_param {
    shape {
      dim: 1
      dim: 4
      dim: 7
    }
  }
}
""" + "".join(STEP.format(t=t, before=t - 1) for t in (1, 2)) + """\
layer {
  name: "h"
  type: "Concat"
  bottom: "h_1"
  bottom: "h_2"
  top: "h"
  concat_param {
    axis: 0
  }
}
"""


STEP = """\
layer {{
  name: "x2h_{t}"
  type: "InnerProduct"
  bottom: "x_{t}"
  top: "x2h_{t}"
  param {{
    name: "x2h_weight"
  }}
  param {{
    name: "x2h_bias"
  }}
  inner_product_param {{
    num_output: 7
    axis: 2
  }}
}}
layer {{
  name: "h2h_{t}"
  type: "InnerProduct"
  bottom: "h_{before}"
  top: "h2h_{t}"
  param {{
    name: "h2h_weight"
    lr_mult: 2.0
  }}
  inner_product_param {{
    num_output: 7
    bias_term: false
    axis: 2
  }}
}}
layer {{
  name: "sum_{t}"
  type: "Eltwise"
  bottom: "x2h_{t}"
  bottom: "h2h_{t}"
  top: "h_{t}"
}}
layer {{
  name: "tanh_{t}"
  type: "TanH"
  bottom: "h_{t}"
  top: "h_{t}"
}}
"""


def test_functions_fragments_and_files_give_the_same(tmp_path: Path):
    state = {"h": (1, 4, 7)}
    of_function, of_text = (graph(unroll(one, 3, inputs=X, state=state)) for one in (cell, FRAGMENT))
    assert len(of_function) == len(of_text) == 3 + 3 * 4 + 1
    (tmp_path / "cell.prototxt").write_text(FRAGMENT)
    assert graph(unroll(tmp_path / "cell.prototxt", 3, inputs=X, state=state)) == of_text
    assert graph(load(format_text(unroll(cell, 3, inputs=X, state=state))).net) == of_function
    assert "h2h_3" in to_dot(resolve(unroll(cell, 3, inputs=X, state=state)))


def test_backwards_from_inputs_under_another_name():
    lines = graph(unroll(cell, 3, inputs=X, state={"h": (1, 4, 7)}, start="input", reverse=True, name="b_"))
    assert lines[:4] == [
        "x = Input<x>()", "b_x_1, b_x_2, b_x_3 = Slice<b_x_slice>(x)", "b_h_4 = Input<b_h_4>()",
        "b_x2h_3 = InnerProduct<b_x2h_3>(b_x_3)"]
    assert lines[4].startswith("b_h2h_3 = InnerProduct<b_h2h_3>(b_h_4)")
    assert lines[-1] == "b_h = Concat<b_h>(b_h_1, b_h_2, b_h_3)"


def test_static_inputs_outputs_and_names_of_weights():
    def scored(x, seen, h_before):
        sums = L.Eltwise(L.InnerProduct(x, num_output=7, axis=2, param=[{"name": "own"}], name="x2h"), seen,
                         L.InnerProduct(h_before, num_output=7, axis=2, name="h2h"))
        h = L.TanH(sums)
        return {"h": h, "y": L.InnerProduct(h, num_output=5, axis=2, name="y")}

    net = unroll(scored, 3, inputs=X, static={"seen": (1, 4, 7)}, state={"h": (1, 4, 7)})
    lines = graph(net)
    assert lines[-1] == "y = Concat<y>(y_1, y_2, y_3)"
    assert sum("(x2h_" in line and "seen, h2h_" in line for line in lines) == 3
    names = {layer.name: [param.name for param in layer.param] for layer in net.layer if layer.param}
    assert names["x2h_2"] == ["own", "x2h_bias"]
    assert names["y_3"] == ["y_weight", "y_bias"]
    assert graph(unroll(scored, 3, inputs=X, static={"seen": (1, 4, 7)}, state={"h": (1, 4, 7)}, outputs=["h", "y"]))[
        -2:] == ["h = Concat<h>(h_1, h_2, h_3)", "y = Concat<y>(y_1, y_2, y_3)"]


def test_the_state_may_be_written_in_place():
    def in_place(x, h_before):
        sums = L.Eltwise(L.InnerProduct(x, num_output=7, axis=2, name="x2h"),
                         L.InnerProduct(h_before, num_output=7, axis=2, bias_term=False, name="h2h"), name="sum")
        return {"h": L.TanH(sums, in_place=True, name="tanh")}

    assert graph(unroll(in_place, 3, inputs=X, state={"h": (1, 4, 7)})) == graph(
        unroll(FRAGMENT, 3, inputs=X, state={"h": (1, 4, 7)}))


def test_layers_without_names_have_weights_of_their_own():
    """Of equal shapes, so that weights of one name would pass."""
    nameless = re.sub(r'name: "(?=x2h|h2h)\w+" ', "", FRAGMENT)
    net = compile_net(unroll(nameless, 3, inputs={"x": (3, 4, 7)}, state={"h": (1, 4, 7)}))
    assert {name: list(weights) for name, weights in net.init(jax.random.key(0))["params"].items()} == {
        "InnerProduct1_1": ["weight", "bias"], "InnerProduct2_1": ["weight"]}


def test_a_loss_of_each_step():
    def scored(x, label, h_before):
        h = cell(x, h_before)["h"]
        scores = L.InnerProduct(h, num_output=5, axis=2, name="scores")
        return {"h": h, "loss": L.SoftmaxWithLoss(scores, label, axis=2, name="softmax")}

    net = unroll(scored, 3, inputs={**X, "label": (3, 4)}, state={"h": (1, 4, 7)})
    assert graph(net)[-1] == "h = Concat<h>(h_1, h_2, h_3)"
    compiled = compile_net(net, phase="TRAIN")
    inputs = {"x": np.ones((3, 4, 2), np.float32), "label": np.ones((3, 4))}
    loss, _ = compiled.loss(compiled.init(jax.random.key(0)), inputs)
    np.testing.assert_allclose(loss, 3 * np.log(5), rtol=1e-6)  # weights start at zero: all classes alike


def test_statistics_are_shared_too():
    def normal(x, h_before):
        return {"h": L.TanH(L.Eltwise(L.BatchNorm(x, name="bn"), h_before))}

    net = compile_net(unroll(normal, 3, inputs={"x": (3, 4, 7)}, state={"h": (1, 4, 7)}), phase="TRAIN")
    _, state = net.apply(net.init(jax.random.key(0)), {"x": np.ones((3, 4, 7), np.float32)})
    np.testing.assert_allclose(state["bn_1"]["factor"], [1 + 0.999 + 0.999**2], rtol=1e-6)  # three batches


@pytest.mark.parametrize(("change", "problem"), [
    ({"steps": 0}, "expected at least one step; found 0"),
    ({"inputs": {"x": (4, 4, 2)}}, r"input 'x' of shape \(4, 4, 2\) does not divide into 3 steps"),
    ({"inputs": {"z": (3, 4, 2)}}, "the cell wants x, which nobody gives; it is given z, h_before"),
    ({"inputs": {**X, "z": (3, 4, 2)}}, "the cell takes no z; it is given x, z, h_before"),
    ({"state": {}}, "the cell wants h_before, which nobody gives; it is given x"),
    ({"state": {"h": (1, 4, 7), "c": (1, 4, 7)}}, "the cell takes no c_before"),
    ({"outputs": ["hh"]}, "the cell writes no output 'hh'"),
    ({"start": "one"}, 'start is "zeros" or "input"; found \'one\''),
    ({"cell": lambda x, h_before: {"h": h_before}}, "the cell returns as 'h' what it was given"),
    ({"inputs": {"x": ()}}, r"input 'x' of shape \(\) does not divide into 3 steps"),
    ({"cell": lambda x, h_before: {"h": None}}, "the cell returns as 'h' a NoneType; expected the output of a layer"),
    ({"cell": lambda x, h_before: {"h": L.TanH(h_before, in_place=True)}}, "the cell returns as 'h' what it was given"),
    ({"cell": lambda x, h_before: dict.fromkeys(["g", "h"], L.Eltwise(x, h_before))},
     "the cell returns one blob as 'g' and as 'h'; expected a layer for each"),
    ({"cell": FRAGMENT.replace('name: "h2h"', 'name: "x2h"')},
     "layer 'x2h': an earlier layer of the cell would share its weight, 'x2h_weight': give one of them another name"),
    ({"cell": lambda x, h_before: L.TanH(x)}, "the cell returns tops by name, a dict; it returned Top"),
    ({"cell": lambda x, h_before: {"g": L.TanH(x), "f": L.TanH(h_before)}},
     "the cell reads 'h_before' but writes no 'h'"),
    ({"cell": lambda x, h_before: {"h": L.TanH(h_before)}}, "the cell does not read 'x'; it reads h_before"),
    ({"cell": lambda x, h_before: {"x": L.TanH(x), "h": L.TanH(h_before)}},
     "the cell returns 'x', which is the name of a blob that it reads"),
    ({"cell": FRAGMENT.replace('bottom: "x2h"', 'bottom: "x2hh"')},
     "layer 'sum': bottom 'x2hh' is no input of the cell, and no earlier layer writes it; did you mean 'x2h'"),
    ({"cell": FRAGMENT + 'layer { name: "r" type: "ReLU" bottom: "h_before" top: "h_before" }'},
     "layer 'r': top 'h_before' is what the cell is given, and others read: give it another name"),
    ({"cell": lambda x, h_before: {"h": L.Eltwise(x, h_before), "h_1": L.TanH(x)}, "outputs": ["h_1", "h"]},
     "blob 'h_1' would be written by 'h_1' too: give a blob of the cell another name"),
])
def test_cells_that_do_not_fit(change, problem):
    arguments = {"cell": cell, "steps": 3, "inputs": X, "state": {"h": (1, 4, 7)}, **change}
    with pytest.raises(SpecError, match=problem):
        unroll(arguments.pop("cell"), arguments.pop("steps"), **arguments)


def test_part_of_a_larger_net():
    n = NetSpec("larger")
    n.words = L.Input(shape={"dim": [3, 4]})
    n.x = L.Embed(n.words, input_dim=11, num_output=2)
    n.add(unroll(cell, 3, inputs=X, state={"h": (1, 4, 7)}), x=n.x)
    n.scores = L.InnerProduct(n.h, num_output=5, axis=2)
    n.last = L.InnerProduct(n.h_3, num_output=5, axis=2)
    lines = graph(n)
    assert lines[1:3] == ["x = Embed<x>(words)", "x_1, x_2, x_3 = Slice<x_slice>(x)"]
    assert lines[-2:] == ["scores = InnerProduct<scores>(h)", "last = InnerProduct<last>(h_3)"]
    assert sum("Input" in line for line in lines) == 1
    assert "test_unroll.py" in n.source().location(5)
    assert compile_net(n).shape("scores") == (3, 4, 5)


def test_in_place_layers_stay_in_place_in_a_larger_net():
    n = NetSpec()
    n.x = L.Input(shape={"dim": [3, 4, 2]})
    n.add(unroll(FRAGMENT, 3, inputs=X, state={"h": (1, 4, 7)}), x=n.x)
    assert graph(n) == graph(unroll(FRAGMENT, 3, inputs=X, state={"h": (1, 4, 7)}))


def test_adding_what_does_not_fit():
    n = NetSpec()
    n.x = L.Input(shape={"dim": [3, 4, 2]})
    net = unroll(cell, 3, inputs=X, state={"h": (1, 4, 7)})
    with pytest.raises(SpecError, match="has no input 'y'"):
        NetSpec().add(net, y=n.x)
    with pytest.raises(SpecError, match="the net has a blob 'x' already; give one of them another name"):
        n.add(net)
    named = NetSpec()
    named.other = L.TanH(L.Input(shape={"dim": [3, 4, 2]}), name="x_slice")
    before = str(named)
    with pytest.raises(SpecError, match=r"layer 'x_slice' .*: the net has a layer of this name already"):
        named.add(net)
    assert str(named) == before
    wrong = load("""layer { name: "i" type: "Input" top: "data" }
                    layer { name: "r" type: "ReLU" bottom: "dat" top: "r" }""")
    with pytest.raises(SpecError, match=r"layer 'r' .*: bottom 'dat' is not produced by any earlier layer; did you me"):
        n.add(wrong.net)


def test_some_of_the_tops_of_an_input_layer_are_given():
    n = NetSpec()
    n.x = L.Input(shape={"dim": [3, 4, 2]})
    n.add(load("""layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 3 } shape { dim: 5 } } }
                  layer { name: "r" type: "ReLU" bottom: "a" top: "r" }
                  layer { name: "s" type: "ReLU" bottom: "b" top: "s" }""").net, a=n.x)
    assert graph(n) == ["x = Input<x>()", "b = Input<i>()", "r = ReLU<r>(x)", "s = ReLU<s>(b)"]
    assert compile_net(n).shape("b") == (5,)


def test_nets_of_old_formats_are_added_too():
    n = NetSpec()
    n.x = L.Input(shape={"dim": [3, 4, 2]})
    old = NetParameter(input=["data"], layer=[{"name": "r", "type": "ReLU", "bottom": ["data"], "top": ["r"]}])
    n.add(old, data=n.x)
    assert graph(n) == ["x = Input<x>()", "r = ReLU<r>(x)"]


@pytest.mark.parametrize("name", NETS)
def test_names_of_weights_are_those_that_the_compiler_finds(name):
    net = compile_net(NETS[name].net)
    for node in net.graph.nodes:
        assert stored_names(node.proto) == tuple(stored.weight.name for stored in net.stored[node.name])


def test_cells_know_their_state():
    net = unroll(cells.stacked(cells.lstm(7), cells.rnn(5)), 3, inputs={"x": (3, 4, 2)})
    constants = [layer for layer in net.layer if layer.type == "DummyData"]
    shapes = {layer.name: tuple(layer.dummy_data_param.shape[0].dim) for layer in constants}
    assert shapes == {"ones": (1, 4), "h_1_0": (1, 4, 7), "c_1_0": (1, 4, 7), "h_2_0": (1, 4, 5)}
    with pytest.raises(SpecError, match="which backwards is elsewhere"):
        cells.bidirectional(cells.rnn(7), 3, {**X, "cont": (3, 4)})
