"""From a declaration to a graph."""

from __future__ import annotations

import pytest

from jaffe.netdef import NetState, SpecError, resolve

NET = """
name: "n"
layer { name: "train" type: "Input" top: "data" top: "label" include { phase: TRAIN } }
layer { name: "test" type: "Input" top: "data" top: "label" include { phase: TEST } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } param { name: "b" } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "drop" type: "Dropout" bottom: "a" top: "a" exclude { phase: TEST stage: "plain" } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { } param { name: "b" } }
layer { name: "extra" type: "ReLU" bottom: "a" top: "extra" include { min_level: 2 } }
layer { name: "aux" type: "EuclideanLoss" bottom: "a" bottom: "b" loss_weight: 0.3 top: "aux" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" }
"""


def test_train():
    assert str(resolve(NET, NetState("TRAIN"))) == """net n TRAIN
  data, label = Input<train>()
  a = InnerProduct<a>(data)
  a#1 = ReLU<relu>(a)
  a#2 = Dropout<drop>(a#1)
  b = InnerProduct<b>(a#2) [1]=a[1]
  aux *0.3 = EuclideanLoss<aux>(a#2, b)
  loss *1 = SoftmaxWithLoss<loss>(b, label)
  -> aux, loss"""


def test_level_and_stages():
    graph = resolve(NET, NetState("TEST", level=2, stages=("plain",)))
    names = [node.name for node in graph.nodes]
    assert "drop" not in names
    assert "extra" in names
    assert graph.outputs == ("aux", "extra", "loss")  # alphabetical


@pytest.mark.parametrize(
    ("rule", "state", "kept"),
    [
        ("include { phase: TRAIN }", NetState("TRAIN"), True),
        ("include { phase: TRAIN }", NetState("TEST"), False),
        ("include { phase: TRAIN } include { stage: 's' }", NetState("TEST", stages=("s",)), True),
        ("include { stage: 's' stage: 't' }", NetState("TEST", stages=("s",)), False),
        ("include { not_stage: 's' }", NetState("TEST", stages=("s",)), False),
        ("include { min_level: 1 max_level: 2 }", NetState("TEST", level=2), True),
        ("include { min_level: 1 max_level: 2 }", NetState("TEST", level=3), False),
        ("include { }", NetState("TEST"), True),
        ("exclude { }", NetState("TEST"), False),
        ("exclude { stage: 's' } exclude { level: 0 }".replace("level", "min_level"), NetState("TEST"), False),
        ("exclude { stage: 's' }", NetState("TEST"), True),
    ],
)
def test_rules(rule: str, state: NetState, kept: bool):
    graph = resolve('layer { name: "x" type: "Input" top: "x" }\n'
                    f'layer {{ name: "l" type: "ReLU" bottom: "x" top: "l" {rule} }}', state)
    assert ("l" in [node.name for node in graph.nodes]) == kept


def test_own_state_is_the_default():
    text = 'state { phase: TRAIN stage: "s" }\nlayer { name: "l" type: "Input" top: "l" include { stage: "s" } }'
    assert resolve(text).phase == "TRAIN"


def test_legacy_inputs():
    graph = resolve('input: "a" input: "b" input_shape { dim: 1 } input_shape { dim: 2 dim: 3 }\n'
                    'layer { name: "r" type: "ReLU" bottom: "b" top: "r" }')
    assert graph.nodes[0].tops == ("a", "b")
    assert [list(shape.dim) for shape in graph.nodes[0].proto.input_param.shape] == [[1], [2, 3]]
    graph = resolve('input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n')
    assert list(graph.nodes[0].proto.input_param.shape[0].dim) == [1, 2, 3, 4]


def test_two_layers_of_one_name_and_layers_without_name():
    graph = resolve('layer { type: "Input" top: "x" }\nlayer { name: "l" type: "ReLU" bottom: "x" top: "y" }\n'
                    'layer { name: "l" type: "ReLU" bottom: "y" top: "z" }')
    assert [node.name for node in graph.nodes] == ["Input1", "l", "l#2"]


def test_in_place_at_another_index_is_refused():
    with pytest.raises(SpecError, match="top 'a' is already produced by layer 'x'"):
        resolve('layer { name: "x" type: "Input" top: "a" top: "b" }\n'
                'layer { name: "l" type: "Eltwise" bottom: "b" bottom: "a" top: "a" }')


def test_unknown_phase():
    with pytest.raises(SpecError, match="phase is 'TRAIN' or 'TEST'; received 'train'; did you mean 'TRAIN'"):
        NetState("train")
