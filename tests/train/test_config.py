"""Solver declarations: how nets are found, and what is refused."""

from __future__ import annotations

import pytest

from jaffe.netdef import SolverParameter, SpecError
from jaffe.train.config import read_config

NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
BASE = "base_lr: 0.1 lr_policy: 'fixed' net_param { " + NET + " }\n"


def read(text: str, net=None, **settings):
    return read_config(text, net, settings)


def test_nets_of_one_file(tmp_path):
    (tmp_path / "net.prototxt").write_text('state { stage: "a" }\n' + NET)
    path = tmp_path / "my_solver.prototxt"
    path.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 3 test_iter: 4 test_interval: 5 '
                    'train_state { level: 2 } test_state { } test_state { stage: "b" }')
    config = read_config(path, None, {})
    assert (config.train.phase, config.train.level, config.train.stages) == ("TRAIN", 2, ("a",))
    assert [(role.phase, role.stages) for role in config.tests] == [("TEST", ("a",)), ("TEST", ("a", "b"))]
    assert config.prefix == tmp_path / "my_solver"


def test_explicit_test_nets_come_first(tmp_path):
    (tmp_path / "t.prototxt").write_text('name: "t" ' + NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(BASE + "test_iter: 1 test_iter: 1 test_iter: 1 test_interval: 1 test_net: 't.prototxt' "
                           "test_net_param { name: 'p' " + NET + " }")
    assert [role.source.net.name for role in read_config(path, None, {}).tests] == ["p", "t", ""]


def test_settings_override_and_prefix(tmp_path):
    config = read(BASE + "test_iter: 7 test_interval: 1", test_iter=[2, 3], base_lr=1, snapshot_prefix=f"{tmp_path}/")
    assert list(config.proto.test_iter) == [2, 3]
    assert config.proto.base_lr == 1
    assert config.prefix == tmp_path / "solver"
    assert read(BASE).prefix is None


def test_old_solver_type():
    assert read(BASE + "solver_type: SGD").proto.type == "SGD"
    with pytest.raises(SpecError, match="solver_type is the old form of type; expected one of them, found both"):
        read(BASE + "solver_type: SGD type: 'SGD'")


WRONG = {
    "lr_policy": (BASE + "lr_policy: 'stpe'", "<text>: unknown lr_policy 'stpe'; did you mean 'step'?"),
    "no_policy": ("base_lr: 1\n", "<text>: expected lr_policy; found none; known: fixed, step, exp, inv, multistep, "
                                  "poly, sigmoid, cosine"),
    "type": (BASE + "type: 'sgd'", "<text>: solver type 'sgd' is not known; did you mean 'SGD'?"),
    "far_type": (BASE + "type: 'L-BFGS'", "<text>: solver type 'L-BFGS' is not known; expected one of SGD, Nesterov, "
                                          "AdaGrad, RMSProp, AdaDelta, Adam, AdamW, Lion, LARS, LAMB"),
    "adagrad": (BASE + "type: 'AdaGrad' momentum: 0.9", "<text>: AdaGrad has no momentum; expected 0; found 0.9"),
    "rms_decay": (BASE + "type: 'RMSProp' rms_decay: 1", "<text>: rms_decay is in [0, 1); found 1"),
    "adam": (BASE + "type: 'Adam' momentum: 0.9 momentum2: 1",
             "<text>: Adam's momentum and momentum2 are in [0, 1); found 0.9 and 1"),
    "adadelta": (BASE + "type: 'AdaDelta' momentum: 1.5", "<text>: AdaDelta's momentum is in [0, 1); found 1.5"),
    "nan": (BASE + "clip_gradients: nan", "<text>: clip_gradients is a finite number; found nan"),
    "delta": (BASE + "type: 'Adam' delta: -1", "<text>: delta is not negative; found -1"),
    "stepsize": (BASE + "lr_policy: 'step'", "<text>: lr_policy 'step' needs stepsize > 0; found 0"),
    "no_net": ("lr_policy: 'fixed'\n",
               "<text>: expected one of net, net_param, train_net, train_net_param; found none"),
    "two_nets": (BASE + "net: 'x'",
                 "<text>: expected one of net, net_param, train_net, train_net_param; found net and net_param"),
    "missing_net": ("lr_policy: 'fixed' net: 'gone.prototxt'\n", "<text>: 'gone.prototxt' is not found; looked in "),
    "interval": (BASE + "test_iter: 1", "<text>: 1 test nets need test_interval > 0; found 0"),
    "test_state": (BASE + "test_iter: 1 test_interval: 1 test_state {} test_state {}",
                   "<text>: expected no test_state, or one for each of 1 test nets; found 2"),
    "iter_size": (BASE + "iter_size: 0", "<text>: iter_size is at least 1; found 0"),
    "regularization": (BASE + "regularization_type: 'l2'", "<text>: regularization_type is 'L1' or 'L2'; found 'l2'"),
    "misspelt": (BASE + "momentun: 0.9",
                 "<text>:2:1: SolverParameter has no field 'momentun'; did you mean 'momentum'?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_solvers(name):
    text, message = WRONG[name]
    text = text if name not in ("lr_policy", "stepsize") else text.replace("lr_policy: 'fixed' ", "")
    with pytest.raises(SpecError) as caught:
        read(text)
    if name == "missing_net":
        assert str(caught.value).startswith(message)
    else:
        assert str(caught.value) == message


def test_wrong_settings():
    with pytest.raises(SpecError, match="a solver has no setting 'momentun'; did you mean 'momentum'"):
        read(BASE, momentun=1)
    with pytest.raises(SpecError, match="solver setting base_lr='x'"):
        read(BASE, base_lr="x")


def test_messages_are_not_changed():
    proto = SolverParameter(lr_policy="fixed")
    proto.net_param.SetInParent()
    read_config(proto, None, {"base_lr": 3})
    assert not proto.HasField("base_lr")
