"""What is said of a loss that became NaN or infinite, word for word; and the lines of debug_info."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.net import CompiledNet
from jaffe.train.diagnose import debug_info, diagnose

KEY = jax.random.key(0)
X = np.array([[0.5, -1, 2], [1, 3, -0.25]], np.float32)
LABEL = np.array([0, 4], np.float32)
TRY = "try a smaller base_lr, a warm-up (warmup_iter), clip_gradients, or smaller initial weights"
HEAD = """
layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""


def ip(name: str, bottom: str, top: str, outputs: int = 5) -> str:
    """Weights of 0.1, biases of 0; one line."""
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" inner_product_param '
            f'{{ num_output: {outputs} weight_filler {{ type: "constant" value: 0.1 }} }} }}\n')


def layer(name: str, kind: str, bottom: str = "data", more: str = "") -> str:
    """One line; the top is called as the layer."""
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {more} }}\n'


PLAIN = HEAD + ip("ip", "data", "scores") + LOSS


@cache
def compiled(text: str) -> CompiledNet:
    """One object for one text: what JAX compiled of it is kept with it."""
    return compile_net(text, phase="TRAIN")


def said(text: str, inputs: Mapping[str, Any] | None = None, change: Callable[[Any], None] | None = None) -> str:
    net = compiled(text)
    variables = net.init(KEY)
    if change:
        change(variables)
    return diagnose(net, variables, {"data": X, "label": LABEL, **(inputs or {})}, KEY)


def spoiled(*places: tuple[int, int], value: float = np.nan) -> np.ndarray:
    x = X.copy()
    for place in places:
        x[place] = value
    return x


def put(group: str, name: str, weight: str, value: float) -> Callable[[Any], None]:
    """Puts a value in the first place of a variable."""

    def change(variables: Any) -> None:
        array = variables[group][name][weight]
        variables[group][name][weight] = array.at[(0,) * array.ndim].set(value)

    return change


def test_data():
    both = spoiled((0, 0), (1, 2))
    both[0, 1] = -np.inf
    assert said(PLAIN, {"data": spoiled((0, 1))}) == "input 'data' holds 1 NaN of 6 values: look at the data"
    assert said(PLAIN, {"data": both}) == "input 'data' holds 2 NaN and 1 infinite of 6 values: look at the data"
    assert said(PLAIN, {"label": np.array([0, np.nan])}) == "input 'label' holds 1 NaN of 2 values: look at the data"


@pytest.mark.parametrize(
    ("loss", "labels", "expected"),
    [
        (LOSS, [7, -2], "SoftmaxWithLoss reads the label 7 in 'label'; expected 0 to 4; outside are 2 of 2"),
        (LOSS, [0, -1], "SoftmaxWithLoss reads the label -1 in 'label'; expected 0 to 4; outside are 1 of 2"),
        (LOSS.replace("top:", "loss_param { ignore_label: -1 } top:"), [-1, 5],
         "SoftmaxWithLoss reads the label 5 in 'label'; expected 0 to 4, or ignore_label -1; outside are 1 of 2"),
        (LOSS.replace("SoftmaxWith", "Hinge"), [5, 1],
         "HingeLoss reads the label 5 in 'label'; expected 0 to 4; outside are 1 of 2"),
        (LOSS.replace("SoftmaxWith", "MultinomialLogistic"), [1, 250],
         "MultinomialLogisticLoss reads the label 250 in 'label'; expected 0 to 4; outside are 1 of 2"),
    ],
)
def test_labels(loss, labels, expected):
    found = said(HEAD + ip("ip", "data", "scores") + loss, {"label": np.array(labels)})
    assert found == f"layer 'loss' (<text>:4): {expected}: look at the labels, and at how many classes there are"


def test_labels_of_infogain():
    table = 'layer { name: "h" type: "Input" top: "h" input_param { shape { dim: 5 dim: 5 } } }\n'
    loss = LOSS.replace("SoftmaxWith", "Infogain").replace("top:", 'bottom: "h" top:')
    found = said(HEAD + table + ip("ip", "data", "scores") + loss, {"label": [1, 9], "h": np.eye(5)})
    assert found == ("layer 'loss' (<text>:5): InfogainLoss reads the label 9 in 'label'; expected 0 to 4; outside are "
                     "1 of 2: look at the labels, and at how many classes there are")


def test_indices():
    embed = layer("embed", "Embed", "label", "embed_param { input_dim: 9 num_output: 3 }")
    assert said(HEAD + embed + ip("ip", "embed", "scores") + LOSS, {"label": [1, 9]}) == (
        "layer 'embed' (<text>:3): Embed reads the index 9 in 'label'; expected 0 to 8; outside are 1 of 2: look at "
        "the data")


def test_an_ignored_label_is_none_outside():
    """The label is as it should be; the scores are not."""
    loss = LOSS.replace("top:", "loss_param { ignore_label: 255 } top:")
    found = said(HEAD + layer("log", "Log") + ip("ip", "log", "scores") + loss, {"label": [255, 1]})
    assert found.startswith("layer 'log' (<text>:3): Log's top 'log' holds 2 NaN of 6 values")


def test_a_layer_in_the_middle():
    log = layer("log", "Log", "abs", "log_param { shift: -1 }")
    chain = layer("abs", "AbsVal") + log + layer("tanh", "TanH", "log")
    assert said(HEAD + chain + ip("ip", "tanh", "scores") + LOSS) == (
        "layer 'log' (<text>:4): Log's top 'log' holds 2 NaN and 2 infinite of 6 values, computed from bottoms of 0.25 "
        "to 3; shift + scale x must be above 0")
    power = layer("power", "Power", "data", "power_param { power: 0.5 }")
    assert said(HEAD + power + ip("ip", "power", "scores") + LOSS) == (
        "layer 'power' (<text>:3): Power's top 'power' holds 2 NaN of 6 values, computed from bottoms of -1 to 3; "
        "shift + scale x must not be below 0 for such a power")
    power = layer("power", "Power", "data", "power_param { power: -1 shift: -2 }")
    assert said(HEAD + power + ip("ip", "power", "scores") + LOSS) == (
        "layer 'power' (<text>:3): Power's top 'power' holds 1 infinite of 6 values, computed from bottoms of -1 to 3; "
        "shift + scale x must not be 0 for such a power")


def test_overflow():
    exp = layer("exp", "Exp", "data", "exp_param { scale: 50 }")
    assert said(HEAD + exp + ip("ip", "exp", "scores") + LOSS) == (
        "layer 'exp' (<text>:3): Exp's top 'exp' holds 2 infinite of 6 values, computed from bottoms of -1 to 3; a "
        f"smaller scale or shift keeps the exponent small, or {TRY}")
    assert said(PLAIN, {"data": spoiled((0, 0), value=10)}, put("params", "ip", "weight", 3e38)) == (
        "layer 'ip' (<text>:3): InnerProduct's top 'scores' holds 1 infinite of 10 values, computed from bottoms of -1 "
        f"to 10 and weights of 0 to 3e+38; {TRY}")


def test_in_place():
    """The blob is called by its name, whatever wrote it."""
    chain = ip("first", "data", "h", 3) + layer("log", "Log", "h").replace('top: "log"', 'top: "h"')
    assert said(HEAD + chain + ip("ip", "h", "scores") + LOSS, {"data": -X}) == (
        "layer 'log' (<text>:4): Log's top 'h' holds 6 NaN of 6 values, computed from bottoms of -0.375 to -0.15; "
        "shift + scale x must be above 0")


def test_a_loss_without_a_declared_top():
    euclid = 'layer { name: "loss" type: "EuclideanLoss" bottom: "scores" bottom: "scale" }\n'
    scale = layer("scale", "Power", "scores", "power_param { scale: -1e25 }")
    assert said(HEAD + ip("ip", "data", "scores") + scale + euclid) == (
        "layer 'loss' (<text>:5): EuclideanLoss's top 'loss' holds 1 infinite of 1 values, computed from bottoms of "
        f"-3.75e+24 to 0.375; {TRY}")


def test_variables():
    assert said(PLAIN, change=put("params", "ip", "weight", np.nan)) == (
        "layer 'ip' (<text>:3): InnerProduct's weight holds 1 NaN of 15 values when the iteration begins: the update "
        f"before it made it so, or it was loaded so; {TRY}")
    norm = layer("bn", "BatchNorm", "data", "batch_norm_param { use_global_stats: true }")
    assert said(HEAD + norm + ip("ip", "bn", "scores") + LOSS, change=put("state", "bn", "variance", np.inf)) == (
        "layer 'bn' (<text>:3): BatchNorm's variance holds 1 infinite of 3 values when the iteration begins: a pass "
        f"before it made it so, or it was loaded so; {TRY}")


LSTM = """
layer { name: "data" type: "Input" top: "data" top: "cont" top: "label"
        input_param { shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 } shape { dim: 2 dim: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "lstm"
        recurrent_param { num_output: 2 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "lstm" top: "scores"
        inner_product_param { num_output: 5 axis: 2 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" softmax_param { axis: 2 } }
"""


def test_carried_state():
    inputs = {"data": X[:, None], "cont": np.ones((2, 1)), "label": LABEL[:, None]}
    assert said(LSTM, inputs, put("state", "lstm", "c", np.nan)) == (
        "layer 'lstm' (<text>:4): LSTM's c holds 1 NaN of 2 values when the iteration begins: a pass before it made it "
        f"so, or it was loaded so; {TRY}")
    assert said(LSTM, {**inputs, "label": [[0], [6]]}).startswith("layer 'loss' (<text>:8): SoftmaxWithLoss reads the "
                                                                 "label 6 in 'label'; expected 0 to 4")


ROOT = layer("root", "Power", "h", "power_param { power: 0.5 }")


def test_gradients():
    """Everything before them is finite, the loss too."""
    zeros = {"data": np.zeros((2, 3))}
    total = layer("total", "Reduction", "root", "loss_weight: 2")
    assert said(HEAD + ip("first", "data", "h", 3) + ROOT + total, zeros) == (
        "layer 'root' (<text>:4): the gradient that Power passes to 'h' holds 6 infinite of 6 values, computed from "
        "gradients of 2 to 2; its slope is infinite at 0: a shift keeps values away from there")


def test_gradients_of_weights():
    total = layer("total", "Reduction", "scores", "loss_weight: 1e9")
    large = {"data": [[1, 1e30, 2], [1, 3, -1e30]]}
    assert said(HEAD + ip("ip", "data", "scores") + total, large) == (
        "layer 'ip' (<text>:3): the gradient of InnerProduct's weight holds 10 infinite of 15 values, computed from "
        f"gradients of 1e+09 to 1e+09; {TRY}")


def test_gradients_of_a_blob_with_several_readers():
    two = layer("root", "Power", "h", "power_param { power: 0.5 }") + layer("tanh", "TanH", "h")
    total = 'layer { name: "sum" type: "Eltwise" bottom: "root" bottom: "tanh" top: "sum" }\n'
    zeros = {"data": np.zeros((2, 3))}
    assert said(HEAD + ip("first", "data", "h", 3) + two + total + ip("ip", "sum", "scores") + LOSS, zeros) == (
        f"the gradient that layer 'root' or 'tanh' passes to 'h' holds 6 infinite of 6 values; {TRY}")


def test_the_sum_of_losses():
    heavy = LOSS.replace("top:", "loss_weight: 3e38 top:")
    assert said(HEAD + ip("ip", "data", "scores") + heavy) == (
        f"all blobs are finite, but the sum of the losses is not; {TRY}, or a smaller loss_weight")


def test_what_leads_to_no_loss_is_not_at_fault():
    """Neither a branch that is only looked at, nor one whose own loss is finite."""
    seen = layer("log", "Log") + layer("aside", "Silence", "log").replace('top: "aside" ', "")
    good = ip("other", "data", "other", 1) + layer("mean", "Reduction", "other", "loss_weight: 1")
    bad = layer("exp", "Exp", "data", "exp_param { scale: 50 }") + ip("ip", "exp", "scores")
    assert said(HEAD + seen + good + bad + LOSS).startswith("layer 'exp' (<text>:7): Exp's top 'exp' holds 2 infinite")
    masked = layer("exp", "Exp", "data", "exp_param { scale: 50 }") + layer("inverse", "Power", "exp",
                                                                            "power_param { power: -1 }")
    loss = layer("mean", "Reduction", "inverse", "loss_weight: 1")
    assert said(HEAD + masked + loss + ip("ip", "data", "scores") + LOSS, {"label": [0, 5]}).startswith(
        "layer 'loss' (<text>:7): SoftmaxWithLoss reads the label 5")


def test_random_layers_draw_as_in_the_iteration():
    """What Dropout drops is 0, and its logarithm infinite: as many as with that key."""
    drop = layer("drop", "Dropout") + layer("log", "Log", "drop") + layer("total", "Reduction", "log", "loss_weight: 1")
    net, variables = compiled(HEAD + drop), {"params": {}, "state": {}}
    inputs = {"data": np.abs(X), "label": LABEL}
    counts = set()
    for seed in range(4):
        key = jax.random.key(seed)
        dropped = int((net.apply(variables, inputs, key, blobs=["drop"])[0]["drop"] == 0).sum())
        counts.add(dropped)
        assert f"Log's top 'log' holds {dropped} infinite of 6 values" in diagnose(net, variables, inputs, key)
    assert len(counts) > 1


def test_nothing_to_be_found():
    assert said(PLAIN) == f"layer by layer all of this pass is finite: it is at the limit of float32; {TRY}"


DEBUG = """
layer { name: "data" type: "Input" top: "data" top: "target"
        input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 2 } } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "h" inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "two" type: "InnerProduct" bottom: "h" top: "out" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "target" top: "loss" loss_weight: 3 }
"""


def test_debug_info_by_numpy():
    net = compiled(DEBUG)
    rng = np.random.default_rng(3)
    w1, b1, w2, b2, x, target = (rng.normal(size=shape) for shape in ((5, 3), 5, (2, 5), 2, (2, 3), (2, 2)))
    weights = {"one": {"weight": w1, "bias": b1}, "two": {"weight": w2, "bias": b2}}
    lines = debug_info(net, {"params": weights, "state": {}}, {"data": x, "target": target}, KEY)
    before = x @ w1.T + b1
    h = np.maximum(before, 0)
    out = h @ w2.T + b2
    d_out = 3 * (out - target) / 2
    d_h = d_out @ w2
    d_before = d_h * (before > 0)
    gradients = [d_before.T @ x, d_before.sum(0), d_out.T @ h, d_out.sum(0)]
    parameters = [w1, b1, w2, b2]
    sums = [sum(np.abs(one).sum() for one in arrays) for arrays in (parameters, gradients)]
    roots = [np.sqrt(sum(np.square(one).sum() for one in arrays)) for arrays in (parameters, gradients)]
    expected = [
        ("    [Forward] Layer data, top blob data data: ", x),
        ("    [Forward] Layer data, top blob target data: ", target),
        ("    [Forward] Layer one, top blob h data: ", before),
        ("    [Forward] Layer one, param blob 0 data: ", w1),
        ("    [Forward] Layer one, param blob 1 data: ", b1),
        ("    [Forward] Layer relu, top blob h data: ", h),
        ("    [Forward] Layer two, top blob out data: ", out),
        ("    [Forward] Layer two, param blob 0 data: ", w2),
        ("    [Forward] Layer two, param blob 1 data: ", b2),
        ("    [Forward] Layer loss, top blob loss data: ", np.square(out - target).sum() / 4),
        ("    [Backward] Layer loss, bottom blob out diff: ", d_out),
        ("    [Backward] Layer two, bottom blob h diff: ", d_h),
        ("    [Backward] Layer two, param blob 0 diff: ", gradients[2]),
        ("    [Backward] Layer two, param blob 1 diff: ", gradients[3]),
        ("    [Backward] Layer relu, bottom blob h diff: ", d_before),
        ("    [Backward] Layer one, param blob 0 diff: ", gradients[0]),
        ("    [Backward] Layer one, param blob 1 diff: ", gradients[1]),
    ]
    for line, (text, array) in zip(lines[:-1], expected, strict=True):
        assert line.startswith(text)
        assert float(line.removeprefix(text)) == pytest.approx(np.abs(array).mean(), rel=6e-6)  # six digits of float32
    found = re.fullmatch(r"    \[Backward\] All net params \(data, diff\): L1 norm = \((\S+), (\S+)\); "
                         r"L2 norm = \((\S+), (\S+)\)", lines[-1])
    assert list(map(float, found.groups())) == pytest.approx([*sums, *roots], rel=6e-6)


# A frozen layer, state, a layer that feeds no loss, named and shared parameters, a bottom that gets no gradient.
MANY = """
layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "frozen" type: "InnerProduct" bottom: "data" top: "h" param { lr_mult: 0 } param { lr_mult: 0 }
        inner_product_param { num_output: 3 weight_filler { type: "constant" value: 0.5 } } }
layer { name: "norm" type: "BatchNorm" bottom: "h" top: "h" batch_norm_param { eps: 0 } }
layer { name: "a" type: "InnerProduct" bottom: "h" top: "a" param { name: "w" }
        inner_product_param { num_output: 3 bias_term: false weight_filler { type: "constant" value: 2 } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
        inner_product_param { num_output: 3 weight_filler { type: "constant" value: 2 } } }
layer { name: "c" type: "InnerProduct" bottom: "a" top: "c" propagate_down: false
        inner_product_param { num_output: 1 weight_filler { type: "constant" value: 1e-5 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "b" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "data" loss_weight: 1e6 }
layer { name: "mean" type: "Reduction" bottom: "c" top: "mean" loss_weight: 1 }
"""
# Of h, 3 and 6 in the two items, the norm makes -1 and 1, so a is -6 and 6, and b -36 and 36, in every column.
EXPECTED = """
    [Forward] Layer data, top blob data data: 3
    [Forward] Layer data, top blob label data: 0.5
    [Forward] Layer frozen, top blob h data: 4.5
    [Forward] Layer frozen, param blob 0 data: 0.5
    [Forward] Layer frozen, param blob 1 data: 0
    [Forward] Layer norm, top blob h data: 1
    [Forward] Layer norm, param blob 0 data: 4.5
    [Forward] Layer norm, param blob 1 data: 4.5
    [Forward] Layer norm, param blob 2 data: 1
    [Forward] Layer a, top blob a data: 6
    [Forward] Layer a, param blob w data: 2
    [Forward] Layer b, top blob b data: 36
    [Forward] Layer b, param blob w data: 2
    [Forward] Layer b, param blob 1 data: 0
    [Forward] Layer c, top blob c data: 0.00018
    [Forward] Layer c, param blob 0 data: 1e-05
    [Forward] Layer c, param blob 1 data: 0
    [Forward] Layer accuracy, top blob accuracy data: 0
    [Forward] Layer loss, top blob loss data: 1852
    [Forward] Layer mean, top blob mean data: 0
    [Backward] Layer mean, bottom blob c diff: 1
    [Backward] Layer loss, bottom blob b diff: 1.75e+07
    [Backward] Layer c, param blob 0 diff: 0
    [Backward] Layer c, param blob 1 diff: 2
    [Backward] Layer b, bottom blob a diff: 1.05e+08
    [Backward] Layer b, param blob 0 diff: 4.2e+08
    [Backward] Layer b, param blob 1 diff: 3e+06
    [Backward] Layer a, param blob 0 diff: 4.2e+08
    [Backward] All net params (data, diff): L1 norm = (50.5, 3.789e+09); L2 norm = (12.6787, 1.26001e+09)
"""


def test_debug_info_word_for_word():
    net = compiled(MANY)
    inputs = {"data": [[1, 2, 3], [3, 4, 5]], "label": [0, 1]}
    assert "\n".join(debug_info(net, net.init(KEY), inputs, KEY)) == EXPECTED.strip("\n")
