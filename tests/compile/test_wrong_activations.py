"""Wrong activations, and the exact message that each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer, one

X = input_layer("x", 2, 3, 5)
L = "layer 'l' (net.prototxt:2): "

# name: (net, message)
WRONG = {
    "prelu_one_axis": (
        one("PReLU", inputs=input_layer("x", 5)),
        L + "expected a blob of at least 2 axes; found (5,)",
    ),
    "prelu_filler": (
        one("PReLU", 'prelu_param { filler { type: "constatn" } }', inputs=X),
        L + "slope_filler: unknown filler 'constatn'; did you mean 'constant'?",
    ),
    "relu_slope": (
        one("ReLU", "relu_param { negative_slope: nan }", inputs=X),
        L + "negative_slope is a finite number; found nan",
    ),
    "threshold": (
        one("Threshold", "threshold_param { threshold: -inf }", inputs=X),
        L + "threshold is a finite number; found -inf",
    ),
    "clip_nan": (
        one("Clip", "clip_param { min: nan max: 1 }", inputs=X),
        L + "expected min <= max; found nan and 1",
    ),
    "elu_alpha": (
        one("ELU", "elu_param { alpha: inf }", inputs=X),
        L + "alpha is a finite number; found inf",
    ),
    "swish_beta": (
        one("Swish", "swish_param { beta: nan }", inputs=X),
        L + "beta is a finite number; found nan",
    ),
    "crelu_axis": (
        one("CReLU", "crelu_param { axis: 3 }", inputs=X),
        L + "axis 3 is out of range for a blob of 3 axes; expected -3 to 2",
    ),
    "maxout_pieces": (
        one("Maxout", "maxout_param { pieces: 2 }", inputs=X),
        L + "expected pieces that divide axis 1 of (2, 3, 5); found 2",
    ),
    "maxout_no_pieces": (
        one("Maxout", "maxout_param { pieces: 0 }", inputs=X),
        L + "expected pieces that divide axis 1 of (2, 3, 5); found 0",
    ),
    "clip_without": (
        one("Clip", inputs=X),
        L + "expected min and max; found no min and no max",
    ),
    "clip_without_max": (
        one("Clip", "clip_param { min: 1 }", inputs=X),
        L + "expected min and max; found no max",
    ),
    "clip_order": (
        one("Clip", "clip_param { min: 1 max: -1 }", inputs=X),
        L + "expected min <= max; found 1 and -1",
    ),
    "exp_base": (
        one("Exp", "exp_param { base: 0 }", inputs=X),
        L + "expected base > 0, or -1 for e; found 0",
    ),
    "exp_scale": (
        one("Exp", "exp_param { scale: inf }", inputs=X),
        L + "scale is a finite number; found inf",
    ),
    "log_base": (
        one("Log", "log_param { base: -2 }", inputs=X),
        L + "expected base > 0 and not 1, or -1 for e; found -2",
    ),
    "log_base_1": (
        one("Log", "log_param { base: 1 }", inputs=X),
        L + "expected base > 0 and not 1, or -1 for e; found 1",
    ),
    "relu6_settings": (
        one("ReLU6", "relu_param { negative_slope: 1 }", inputs=X),
        L + "ReLU6 does not read relu_param",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    text, message = WRONG[name]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == message
