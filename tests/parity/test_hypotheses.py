"""Every hypothesis: a layer computed wrongly in NumPy is found, and its cause, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.parity import compare
from jaffe.parity.hypotheses import HYPOTHESES
from tests.parity.arithmetic import convolve, pool, transposed

RANDOM = np.random.default_rng(7)
SHAPE = (2, 3, 7, 11)


@dataclass(frozen=True)
class Wrong:
    """A layer of a net, and what the reference computes in its place.

    Attributes:
        cause: the hypothesis that must be confirmed, and part of its words.
        layer: type and settings of the layer.
        function: of the bottom (or bottoms) and the layer's weights, in NumPy.
        reads_input: the layer reads the net's input itself; else a layer before it scales that.
    """

    cause: str
    words: str
    layer: str
    function: Callable[..., np.ndarray]
    shape: tuple[int, ...] = SHAPE
    reads_input: bool = False
    bottoms: int = 1


def normalise(x, w, factor, eps, root=np.sqrt):
    mean, variance = (w[key].reshape(-1, 1, 1) / factor(w) for key in ("mean", "variance"))
    return (x - mean) / root(variance, eps)


def inside(variance, eps):
    return np.sqrt(variance + eps)


def lrn(x, alpha, k=1.0, size=3, beta=0.75):
    reach = size // 2
    padded = np.pad(x**2, ((0, 0), (reach, reach), (0, 0), (0, 0)))
    sums = sum(padded[:, i : i + x.shape[1]] for i in range(size))
    return x * (k + alpha * sums) ** -beta


def local_lrn(x, alpha):
    padded = np.pad(x**2, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = sum(padded[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(3) for j in range(3))
    return x * (1 + alpha * sums) ** -0.75


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def flat(x, w):
    """InnerProduct on a blob flattened already."""
    return x.reshape(len(x), -1) @ w["weight"].T + w["bias"]


FILL = "weight_filler { type: 'gaussian' } bias_filler { type: 'gaussian' }"
CONV = f"type: 'Convolution' convolution_param {{ num_output: 5 kernel_size: 3 {FILL} }}"
STRIDED = f"type: 'Convolution' convolution_param {{ num_output: 5 kernel_size: 3 stride: 2 pad: 1 {FILL} }}"
DILATED = f"type: 'Convolution' convolution_param {{ num_output: 5 kernel_size: 3 dilation: 2 pad: 1 {FILL} }}"
DECONV = f"type: 'Deconvolution' convolution_param {{ num_output: 5 kernel_size: 3 stride: 2 {FILL} }}"
PRODUCT = f"type: 'InnerProduct' inner_product_param {{ num_output: 5 {FILL} }}"
POOL = "type: 'Pooling' pooling_param {{ pool: {} kernel_size: 3 stride: {} pad: {} }}"
LRN = "type: 'LRN' lrn_param { local_size: 3 alpha: 0.6 }"
LOCAL = "type: 'LRN' lrn_param { local_size: 3 alpha: 0.6 norm_region: WITHIN_CHANNEL }"
NORM = "type: 'BatchNorm'"
UNEVEN = ((1, 1), (1, 1))


def averages(divide: Callable[[np.ndarray, int], Any]) -> Callable[..., np.ndarray]:
    return lambda x, w: pool(x, 3, 2, 1, (4, 6), lambda window, beyond: np.nansum(window, -1) / divide(window, beyond))


WRONG = [
    Wrong("pool_rounding", "rounded down", POOL.format("MAX", 2, 0), shape=(2, 3, 8, 11),
          function=lambda x, w: pool(x, 3, 2, 0, (3, 5), lambda window, _: np.nanmax(window, -1))),
    Wrong("pool_rounding", "rounded up", POOL.format("MAX", 2, "0 round_mode: FLOOR"), shape=(2, 3, 8, 11),
          function=lambda x, w: pool(x, 3, 2, 0, (4, 5), lambda window, _: np.nanmax(window, -1))),
    Wrong("pool_divisor", "does not count", POOL.format("AVE", 2, 1),
          function=averages(lambda window, _: (~np.isnan(window)).sum(-1))),
    Wrong("pool_divisor", "whole window", POOL.format("AVE", 2, 0), shape=(2, 3, 8, 11),
          function=lambda x, w: pool(x, 3, 2, 0, (4, 5), lambda window, _: np.nansum(window, -1) / 9)),
    Wrong("pool_padding", "as zeros", POOL.format("MAX", 2, 1), shape=(2, 3, 7, 11),
          function=lambda x, w: pool(x, 3, 2, 1, (4, 6), lambda window, _: np.nan_to_num(window).max(-1))),
    Wrong("pool_method", "a maximum", POOL.format("AVE", 2, 1),
          function=lambda x, w: pool(x, 3, 2, 1, (4, 6), lambda window, _: np.nanmax(window, -1))),
    Wrong("batch_norm_factor", "scale factor", NORM,
          function=lambda x, w: normalise(x, w, lambda w: 1, 1e-5, inside)),
    Wrong("batch_norm_eps", "eps is 0.001", NORM,
          function=lambda x, w: normalise(x, w, lambda w: w["factor"], 1e-3, inside)),
    Wrong("batch_norm_eps", "to the root", NORM + " batch_norm_param { eps: 0.01 }",
          function=lambda x, w: normalise(x, w, lambda w: w["factor"], 1e-2, lambda v, eps: np.sqrt(v) + eps)),
    Wrong("batch_norm_statistics", "of the batch", NORM,
          function=lambda x, w: (x - x.mean((0, 2, 3), keepdims=True))
          / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)),
    Wrong("broadcast_axis", "along axis 2", "type: 'Scale' scale_param { axis: 1 filler { type: 'gaussian' } }",
          shape=(2, 5, 5, 7), function=lambda x, w: x * w["scale"].reshape(-1, 1)),
    Wrong("lrn_alpha", "not divided", LRN, function=lambda x, w: lrn(x, 0.6)),
    Wrong("lrn_alpha", "not divided", LOCAL, function=lambda x, w: local_lrn(x, 0.6)),
    Wrong("lrn_alpha", "twice", LRN, function=lambda x, w: lrn(x, 0.6 / 9)),
    Wrong("lrn_alpha", "k is 2", LRN, function=lambda x, w: lrn(x, 0.2, k=2)),
    Wrong("lrn_region", "within a channel", LRN, function=lambda x, w: local_lrn(x, 0.6 / 9)),
    Wrong("softmax_axis", "axis 3", "type: 'Softmax'", function=lambda x, w: softmax(x, 3)),
    Wrong("softmax_logarithm", "logarithm", "type: 'Softmax'", function=lambda x, w: np.log(softmax(x, 1))),
    Wrong("relu6", "cut off at 6 (relu6)", "type: 'ReLU'", function=lambda x, w: np.clip(x, 0, 6)),
    Wrong("relu6", "not cut off", "type: 'ReLU' relu_param { relu6: true }", function=lambda x, w: np.maximum(x, 0)),
    Wrong("negative_slope", "0.1", "type: 'ReLU'", function=lambda x, w: np.where(x > 0, x, 0.1 * x)),
    Wrong("prelu_slope", "are 0", "type: 'PReLU'", function=lambda x, w: np.maximum(x, 0)),
    Wrong("prelu_slope", "first slope", "type: 'PReLU'",
          function=lambda x, w: np.where(x > 0, x, next(iter(w.values())).ravel()[0] * x)),
    Wrong("dropout_scaling", "divided by 1 - dropout_ratio (0.7)",
          "type: 'Dropout' dropout_param { dropout_ratio: 0.3 }", function=lambda x, w: x / 0.7),
    Wrong("dropout_scaling", "multiplied by 1 - dropout_ratio (0.7)",
          "type: 'Dropout' dropout_param { dropout_ratio: 0.3 }", function=lambda x, w: x * 0.7),
    Wrong("power_order", "before scaling", "type: 'Power' power_param { scale: 0.5 shift: 3 }",
          function=lambda x, w: 0.5 * (x + 3)),
    Wrong("layer_left_out", "left out", "type: 'Sigmoid'", function=lambda x, w: x),
    Wrong("activation_added", "a ReLU follows", CONV,
          function=lambda x, w: np.maximum(convolve(x, w["weight"], w["bias"]), 0)),
    Wrong("activation_added", "cut off at 6 follows", CONV,
          function=lambda x, w: np.clip(convolve(x, w["weight"], w["bias"]), 0, 6)),
    Wrong("flatten_order", "H, W, C order", PRODUCT, function=lambda x, w: flat(x.transpose(0, 2, 3, 1), w)),
    Wrong("flatten_order", "from memory", PRODUCT,
          function=lambda x, w: flat(x.reshape(2, 7, 11, 3).transpose(0, 3, 1, 2), w)),
    Wrong("flatten_order", "H, W, C order", "type: 'Flatten'",
          function=lambda x, w: x.transpose(0, 2, 3, 1).reshape(2, -1)),
    Wrong("weight_transposed", "transposed", PRODUCT,
          function=lambda x, w: x.reshape(2, -1) @ w["weight"].reshape(-1, 5) + w["bias"]),
    Wrong("weight_layout", "flipped in height and width", CONV,
          function=lambda x, w: convolve(x, w["weight"][..., ::-1, ::-1], w["bias"])),
    Wrong("weight_layout", "height and width of the kernels", CONV,
          function=lambda x, w: convolve(x, w["weight"].swapaxes(2, 3), w["bias"])),
    Wrong("weight_layout", "(h, w, in, out)", CONV,
          function=lambda x, w: convolve(x, w["weight"].reshape(3, 3, 3, 5).transpose(3, 2, 0, 1), w["bias"])),
    Wrong("weight_layout", "(out, h, w, in)", CONV, shape=(2, 2, 7, 11),
          function=lambda x, w: convolve(x, w["weight"].reshape(5, 3, 3, 2).transpose(0, 3, 1, 2), w["bias"])),
    Wrong("weight_layout", "inputs and outputs of the weight are exchanged", DECONV,
          function=lambda x, w: transposed(x, w["weight"].reshape(5, 3, 3, 3).swapaxes(0, 1), w["bias"], 2)),
    Wrong("weight_layout", "flipped in height and width", DECONV,
          function=lambda x, w: transposed(x, w["weight"][..., ::-1, ::-1], w["bias"], 2)),
    Wrong("bias_left_out", "no bias", CONV, function=lambda x, w: convolve(x, w["weight"], np.zeros(5))),
    Wrong("uneven_padding", "SAME", STRIDED, shape=(2, 3, 8, 12),
          function=lambda x, w: convolve(x, w["weight"], w["bias"], 2, ((0, 1), (0, 1)))),
    Wrong("dilation_left_out", "dilation is 1", DILATED,
          function=lambda x, w: convolve(x, w["weight"], w["bias"], 1, UNEVEN)),
    Wrong("half_precision", "float16", CONV,
          function=lambda x, w: convolve(x, w["weight"].astype(np.float16), w["bias"].astype(np.float16))),
    Wrong("half_precision", "bfloat16", PRODUCT, function=lambda x, w: flat(x, {
        key: value.astype(ml_dtypes.bfloat16).astype(np.float64) for key, value in w.items()})),
    Wrong("eltwise_coeff", "coeff", "type: 'Eltwise' eltwise_param { coeff: 2 coeff: -1 }", bottoms=2,
          function=lambda x, y, w: x + y),
    Wrong("eltwise_operation", "maximum", "type: 'Eltwise'", bottoms=2, function=lambda x, y, w: np.maximum(x, y)),
    Wrong("concat_order", "opposite order", "type: 'Concat'", bottoms=2,
          function=lambda x, y, w: np.concatenate([y, x], 1)),
    Wrong("concat_order", "axis 2", "type: 'Concat'", bottoms=2, function=lambda x, y, w: np.concatenate([x, y], 2)),
    Wrong("channels_swapped", "opposite order", CONV, reads_input=True,
          function=lambda x, w: convolve(x[:, ::-1], w["weight"], w["bias"])),
    Wrong("mean_and_scale", "multiplied by 0.007843 after a mean of (104, 117, 123) is subtracted", CONV,
          reads_input=True,
          function=lambda x, w: convolve((x - np.reshape([104, 117, 123], (3, 1, 1))) / 127.5, w["weight"], w["bias"])),
    Wrong("mean_and_scale", "multiplied by 0.003922 (1/255)", CONV, reads_input=True,
          function=lambda x, w: convolve(x / 255, w["weight"], w["bias"])),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.cause}-{wrong.words[:24].replace(' ', '_')}")
def test_the_cause_is_found(wrong: Wrong):
    names = [f"b{i}" for i in range(wrong.bottoms)]
    sizes = " ".join(f"dim: {size}" for size in wrong.shape)
    text = f"layer {{ name: 'data' type: 'Input' top: 'x' input_param {{ shape {{ {sizes} }} }} }}\n"
    scales = [2.0, -0.5][: wrong.bottoms]
    for name, scale in zip(names, scales, strict=True):
        text += f"layer {{ name: '{name}' type: 'Power' bottom: 'x' top: '{name}' power_param {{ scale: {scale} }} }}\n"
    bottoms = " ".join(f"bottom: '{name}'" for name in (["x"] if wrong.reads_input else names))
    text += f"layer {{ name: 'suspect' {bottoms} top: 's' {wrong.layer} }}\n"
    text += "layer { name: 'after' type: 'TanH' bottom: 's' top: 't' }"
    net = compile_net(text)
    variables = weighted(net)
    x = 3 * np.random.default_rng(1).standard_normal(wrong.shape).astype(np.float32)
    if wrong.cause == "pool_padding":
        x = -np.abs(x)
    fed = [x] if wrong.reads_input else [scale * x for scale in scales]
    weights = {**variables["params"].get("suspect", {}), **variables["state"].get("suspect", {})}
    blob = wrong.function(*fed, {key: np.asarray(value) for key, value in weights.items()})
    recorded = {"in:x": x, **{f"top:{name}": scale * x for name, scale in zip(names, scales, strict=True)},
                "top:s": blob, "top:t": np.tanh(blob)}
    comparison = compare(net, variables, recorded, tolerance=1e-5)
    assert [row.verdict for row in comparison.rows] == ["equal"] * wrong.bottoms + ["wrong", "carried"]
    first = comparison.first
    assert first is not None
    assert first.layer == "suspect"
    assert {cause.hypothesis for cause in first.explanation.confirmed} == {wrong.cause}
    assert any(wrong.words in cause.what for cause in first.explanation.confirmed), str(comparison)
    assert wrong.words in str(comparison)


def weighted(net) -> dict:
    """Variables with random state: running sums of three batches and a half."""
    variables = net.init(jax.random.key(5))
    for state in variables["state"].values():
        state["mean"] = RANDOM.standard_normal(state["mean"].shape).astype(np.float32)
        state["variance"] = RANDOM.uniform(1, 5, state["variance"].shape).astype(np.float32)
        state["factor"] = np.full(1, 3.5, np.float32)
    for layer in variables["params"].values():
        for name, array in layer.items():
            if np.all(np.asarray(array) == np.ravel(array)[0]):
                layer[name] = RANDOM.standard_normal(array.shape).astype(np.float32)
    return variables


@pytest.mark.parametrize(("start", "words"), [(0, "corner"), (2, "middle")])
def test_crop_offset(start: int, words: str):
    net = compile_net(INPUTS.format("dim: 2 dim: 3 dim: 7 dim: 11", "dim: 2 dim: 3 dim: 3 dim: 7")
                      + "layer { name: 'suspect' type: 'Crop' bottom: 'x' bottom: 'y' top: 's' "
                        "crop_param { axis: 2 offset: 1 offset: 3 } }")
    x, y = RANDOM.standard_normal(SHAPE), RANDOM.standard_normal((2, 3, 3, 7))
    assert_found(net, {"in:x": x, "in:y": y, "s": x[:, :, start : start + 3, start : start + 7]}, "crop_offset", words)


def test_loss_normalization():
    net = compile_net(INPUTS.format("dim: 2 dim: 3 dim: 5", "dim: 2 dim: 5")
                      + "layer { name: 'suspect' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'y' top: 's' }")
    x, y = RANDOM.standard_normal((2, 3, 5)), RANDOM.integers(0, 3, (2, 5))
    total = -np.log(np.take_along_axis(softmax(x, 1), y[:, None], 1)).sum()
    assert_found(net, {"in:x": x, "in:y": y, "s": total / 2}, "loss_normalization", "normalization is BATCH_SIZE")


INPUTS = """layer { name: 'x' type: 'Input' top: 'x' input_param { shape { %s } } }
layer { name: 'y' type: 'Input' top: 'y' input_param { shape { %s } } }
""".replace("{", "{{").replace("}", "}}").replace("%s", "{}")


def assert_found(net, recorded: dict, cause: str, words: str):
    first = compare(net, weighted(net), recorded, tolerance=1e-5).first
    assert first.layer == "suspect"
    assert [one.hypothesis for one in first.explanation.confirmed] == [cause]
    assert words in first.explanation.confirmed[0].what


def test_every_hypothesis_is_tested():
    elsewhere = {"crop_offset", "loss_normalization"}
    assert {one.name for one in HYPOTHESES} == {wrong.cause for wrong in WRONG} | elsewhere
    for one in HYPOTHESES:
        assert one.propose.__doc__
