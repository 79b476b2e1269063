"""Convolution's family, pooling and resampling against loops written out, for what no golden shows."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from jaffe.compile import compile_net
from jaffe.compile.lowering.resampling import interpolation
from tests.nets.case import FILL, X, input_layer, one

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


def run(text: str, phase: str = "TEST", variables=None, **inputs):
    net = compile_net(text, phase=phase)
    variables = net.init(KEY) if variables is None else variables
    return variables, net.apply(variables, inputs, KEY, blobs=list(net.graph.blobs))[0]


def blob(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def cells(x: np.ndarray, start, size) -> np.ndarray:
    """A window of a plane, 0 outside it."""
    out = np.zeros((*x.shape[:2], *size), x.dtype)
    for at in np.ndindex(*size):
        place = [a + b for a, b in zip(start, at, strict=True)]
        if all(0 <= a < n for a, n in zip(place, x.shape[2:], strict=True)):
            out[(..., *at)] = x[(..., *place)]
    return out


@pytest.mark.parametrize("kind", ["Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "LocallyConnected"])
def test_convolutions_with_sides_of_their_own(kind):
    """Rows from -1, columns from -2; kernel 3 by 2 and stride 2 by 1."""
    outputs = 6
    text = one(kind, f"convolution_param {{ num_output: {outputs} kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 "
                     f"pad_t: 1 pad_l: 2 pad_r: 1 {FILL} }}")
    x = blob(2, 3, 7, 5)
    variables, found = run(text, x=x)
    weight, bias = (np.asarray(variables["params"]["l"][name]) for name in ("weight", "bias"))
    rows, columns = (7 + 1 - 3) // 2 + 1, 5 + 3 - 2 + 1
    assert found["t"].shape == (2, outputs, rows, columns)
    assert weight.shape == {
        "Convolution": (6, 3, 3, 2), "LocallyConnected": (6, 1, 18, rows * columns)
    }.get(kind, (6, 1, 3, 2))
    assert bias.shape == ((1, 1, 6, rows * columns) if kind == "LocallyConnected" else (6,))
    for p, q, o in itertools.product(range(rows), range(columns), range(outputs)):
        window = cells(x, (2 * p - 1, q - 2), (3, 2))
        if kind == "LocallyConnected":
            kernel, shift = weight[o, 0, :, p * columns + q].reshape(3, 3, 2), bias[0, 0, o, p * columns + q]
        else:
            kernel, shift = weight[o], bias[o]
            if kind != "Convolution":
                window = window[:, o // 2 : o // 2 + 1]
        expected = (window * kernel).sum((1, 2, 3)) + shift
        np.testing.assert_allclose(found["t"][:, o, p, q], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "group"), [(1, 1), (1, 3), (2, 7)])
def test_deconvolution_scatters(axis, group):
    """Each input cell adds its kernel to the output; against a loop over input cells."""
    text = one("Deconvolution", f"convolution_param {{ axis: {axis} num_output: {2 * group} kernel_size: 3 stride: 2 "
                                f"dilation: 2 pad: 1 group: {group} {FILL} }}")
    x = blob(2, 3, 7, 5)
    variables, found = run(text, x=x)
    weight, bias = (np.asarray(variables["params"]["l"][name]) for name in ("weight", "bias"))
    flat = x.reshape(-1, *x.shape[axis:])
    channels, sizes = flat.shape[1], flat.shape[2:]
    whole = [2 * (n - 1) + 5 for n in sizes]
    y = np.zeros((len(flat), 2 * group, *whole))
    for c, at, k in itertools.product(range(channels), np.ndindex(*sizes), np.ndindex(*weight.shape[2:])):
        place = tuple(2 * a + 2 * b for a, b in zip(at, k, strict=True))
        first = c // (channels // group) * 2
        for o in range(2):
            y[(slice(None), first + o, *place)] += flat[(slice(None), c, *at)] * weight[(c, o, *k)]
    y = y[(..., *(slice(1, n - 1) for n in whole))] + bias.reshape(-1, *[1] * len(sizes))
    np.testing.assert_allclose(found["t"], y.reshape(found["t"].shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_deconvolution_upsamples(factor):
    """The usual upsampling layer against SciPy's linear interpolation at the cells' centres, away from the border."""
    size, pad = 2 * factor - factor % 2, math.ceil((factor - 1) / 2)
    text = one("Deconvolution", f"convolution_param {{ num_output: 3 group: 3 kernel_size: {size} stride: {factor} "
               f'pad: {pad} bias_term: false weight_filler {{ type: "bilinear" }} }}')
    x = blob(2, 3, 7, 5)
    _, found = run(text, x=x)
    assert found["t"].shape == (2, 3, 7 * factor, 5 * factor)
    places = np.meshgrid(*((np.arange(n * factor) + 0.5) / factor - 0.5 for n in (7, 5)), indexing="ij")
    inside = (slice(factor, -factor),) * 2
    for n, c in np.ndindex(2, 3):
        expected = scipy.ndimage.map_coordinates(x[n, c], places, order=1, mode="nearest")
        np.testing.assert_allclose(found["t"][n, c][inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_im2col_is_what_windows_see():
    text = one("Im2col", "convolution_param { kernel_size: 3 kernel_size: 2 stride: 2 pad: 1 dilation: 1 dilation: 2 }")
    x = blob(2, 3, 7, 5)
    _, found = run(text, x=x)
    assert found["t"].shape == (2, 18, 4, 3)
    for c, i, j, p, q in itertools.product(range(3), range(3), range(2), range(4), range(3)):
        row, column = 2 * p + i - 1, 2 * q + 2 * j - 1
        expected = x[:, c, row, column] if 0 <= row < 7 and 0 <= column < 5 else np.zeros(2)
        np.testing.assert_array_equal(found["t"][:, (c * 3 + i) * 2 + j, p, q], expected)


def test_im2col_times_weights_is_convolution():
    """On the axis and in the order of Caffe's own convolution."""
    settings = f"axis: 2 kernel_size: 3 stride: 2 pad: 1 num_output: 4 bias_term: false {FILL}"
    inputs = input_layer("x", 2, 3, 5, 7, 11)
    x = blob(2, 3, 5, 7, 11)
    variables, convolved = run(one("Convolution", f"convolution_param {{ {settings} }}", inputs=inputs), x=x)
    _, found = run(one("Im2col", f"convolution_param {{ {settings} }}", inputs=inputs), x=x)
    weight = variables["params"]["l"]["weight"].reshape(4, -1)
    np.testing.assert_allclose(jnp.einsum("ok,nckpq->ncopq", weight, found["t"]), convolved["t"], rtol=1e-4, atol=1e-5)


def test_volumes_are_pooled_like_planes():
    """A volume of one slice, with a kernel of depth 1, is a plane; and axes of a volume can be exchanged."""
    x = blob(2, 3, 7, 5)
    plane = one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops="t mask")
    volume = one("Pooling", "pooling_param { kernel_size: 3 kernel_d: 1 stride: 2 pad: 1 pad_d: 0 }", tops="t mask",
                 inputs=input_layer("x", 2, 3, 1, 7, 5))
    _, flat = run(plane, x=x)
    _, deep = run(volume, x=x[:, :, None])
    for name in ("t", "mask"):
        np.testing.assert_array_equal(deep[name][:, :, 0], flat[name])
    v = blob(2, 3, 5, 7, 11)
    one_way = "kernel_d: 3 kernel_h: 2 kernel_w: 4 stride_d: 2 stride_h: 1 stride_w: 3 pad_w: 1"
    _, found = run(one("Pooling", f"pooling_param {{ pool: AVE {one_way} }}", inputs=input_layer("x", *v.shape)), x=v)
    v = v.transpose(0, 1, 3, 4, 2)
    turned = "kernel_d: 2 kernel_h: 4 kernel_w: 3 stride_d: 1 stride_h: 3 stride_w: 2 pad_h: 1"
    _, other = run(one("Pooling", f"pooling_param {{ pool: AVE {turned} }}", inputs=input_layer("x", *v.shape)), x=v)
    np.testing.assert_allclose(found["t"].transpose(0, 1, 3, 4, 2), other["t"], rtol=1e-5, atol=1e-6)


def test_global_pooling_of_volumes():
    x = blob(2, 3, 5, 7, 11)
    _, found = run(one("Pooling", "pooling_param { global_pooling: true }", inputs=input_layer("x", *x.shape)), x=x)
    np.testing.assert_array_equal(found["t"], x.max((2, 3, 4), keepdims=True))


def test_stochastic_pooling_of_volumes():
    """In TEST the mean weighted by itself; in TRAIN a value of the window."""
    x = np.abs(blob(2, 3, 5, 7, 11))
    text = one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 kernel_d: 3 stride: 2 }",
               inputs=input_layer("x", *x.shape))
    _, mean = run(text, x=x)
    _, drawn = run(text, "TRAIN", x=x)
    assert mean["t"].shape == (2, 3, 2, 4, 6)
    for d, h, w in np.ndindex(2, 4, 6):
        window = x[:, :, 2 * d : 2 * d + 3, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].reshape(2, 3, -1)
        expected = (window**2).sum(2) / window.sum(2)
        np.testing.assert_allclose(mean["t"][:, :, d, h, w], expected, rtol=1e-5)
        assert (window == np.asarray(drawn["t"])[:, :, d, h, w, None]).any(2).all()


@pytest.mark.parametrize(("settings", "rows"), [
    ("kernel_size: 2 stride: 2", 4), ("kernel_size: 2 stride: 2 ceil_mode: true", 4),
    ("kernel_size: 2 stride: 2 ceil_mode: false", 3),
    ("kernel_size: 2 stride: 2 ceil_mode: false round_mode: FLOOR", 3),
    ("kernel_size: 3 stride: 2 pad_b: 1", 4), ("kernel_size: 3 stride: 3 pad_t: 2 pad_b: 2", 3),
])
def test_rounding_of_pools(settings, rows):
    assert compile_net(one("Pooling", f"pooling_param {{ {settings} }}")).shape("t")[2] == rows


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 9), out=st.integers(1, 25))
def test_interpolation_matrix(size, out):
    """Against NumPy's linear interpolation."""
    values = RANDOM.normal(size=size)
    places = np.linspace(0, size - 1, out)
    expected = np.interp(places, np.arange(size), values)
    np.testing.assert_allclose(interpolation(size, out) @ values, expected, atol=1e-12)


@pytest.mark.parametrize(("param", "out"), [
    ("zoom_factor: 3", (19, 13)), ("shrink_factor: 2", (4, 3)), ("shrink_factor: 2 zoom_factor: 4", (13, 9)),
    ("height: 2 width: 17", (2, 17)), ("height: 1 width: 1", (1, 1)),
    ("zoom_factor: 2 pad_beg: -1 pad_end: -2", (7, 3)),
])
def test_interp(param, out):
    """Against SciPy's linear interpolation, corners on corners."""
    x = blob(2, 3, 7, 5)
    _, found = run(one("Interp", f"interp_param {{ {param} }}"), x=x)
    kept = x[:, :, 1:-2, 1:-2] if "pad" in param else x
    assert found["t"].shape == (2, 3, *out)
    lines = (np.linspace(0, n - 1, o) for n, o in zip(kept.shape[2:], out, strict=True))
    places = np.meshgrid(*lines, indexing="ij")
    for n, c in np.ndindex(2, 3):
        expected = scipy.ndimage.map_coordinates(kept[n, c], places, order=1)
        np.testing.assert_allclose(found["t"][n, c], expected, rtol=1e-5, atol=1e-6)


def test_interp_keeps_labels():
    """Shrinking by a whole factor reads cells: labels stay whole."""
    labels = RANDOM.integers(0, 256, (2, 1, 17, 33)).astype(np.float32)
    _, found = run(one("Interp", "interp_param { shrink_factor: 8 }", inputs=input_layer("x", 2, 1, 17, 33)), x=labels)
    np.testing.assert_array_equal(found["t"], labels[:, :, ::8, ::8])


def test_interp_to_another_blob():
    inputs = X + input_layer("y", 2, 11, 13, 3)
    x = blob(2, 3, 7, 5)
    _, found = run(one("Interp", bottoms="x y", inputs=inputs), x=x, y=blob(2, 11, 13, 3))
    _, expected = run(one("Interp", "interp_param { height: 13 width: 3 }"), x=x)
    np.testing.assert_array_equal(found["t"], expected["t"])


UNPOOL = X + (
    'layer { name: "pool" type: "Pooling" bottom: "x" top: "small" top: "mask" '
    'pooling_param { kernel_size: 2 stride: 2 } }\n'
)


@pytest.mark.parametrize("size", ["scale: 2 upsample_h: 7 upsample_w: 5", "pad_out_h: true pad_out_w: true"])
def test_upsample_inverts_max_pooling(size):
    """Each maximum stands where it was, zeros elsewhere; pooling again finds them."""
    x = blob(2, 3, 7, 5) + 10
    net = compile_net(one("Upsample", f"upsample_param {{ {size} }}", "small mask", inputs=UNPOOL))
    found, _ = net.apply({}, {"x": x}, blobs=["small"])
    expected = np.zeros_like(x)
    for n, c, i, j in np.ndindex(2, 3, 4, 3):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[n, c, 2 * i + row, 2 * j + column] = window.max()
    np.testing.assert_array_equal(found["t"], expected)
    again, _ = net.apply({}, {"x": found["t"]}, blobs=["small"])
    np.testing.assert_array_equal(again["small"], found["small"])
    gradient = jax.grad(lambda x: net.apply({}, {"x": x})[0]["t"].sum())(x)
    np.testing.assert_array_equal(gradient, expected > 0)


def test_upsample_where_places_meet_or_miss():
    """The last of several stays and has the gradient; a place outside makes its plane NaN, no other."""
    inputs = input_layer("x", 1, 2, 2, 2) + input_layer("m", 1, 2, 2, 2)
    net = compile_net(one("Upsample", "upsample_param { upsample_h: 3 upsample_w: 2 }", "x m", inputs=inputs))
    x = np.array([[[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]]], np.float32)
    mask = np.array([[[[5, 0], [5, 2]], [[0, 1], [2, 3]]]], np.float32)
    top = lambda x, mask: net.apply({}, {"x": x, "m": mask})[0]["t"]  # noqa: E731
    np.testing.assert_array_equal(top(x, mask)[0], [[[2, 0], [4, 0], [0, 3]], [[5, 6], [7, 8], [0, 0]]])
    gradient = jax.grad(lambda x: top(x, mask).sum())(x)
    np.testing.assert_array_equal(gradient[0], [[[0, 1], [1, 1]], [[1, 1], [1, 1]]])
    for outside in (6, -1, np.nan):
        mask[0, 1, 0, 0] = outside
        assert np.isnan(top(x, mask)).all((2, 3)).tolist() == [[False, True]]


def test_upsample_repeats():
    x = blob(2, 3, 7, 5)
    _, found = run(one("Upsample", "upsample_param { scale_h: 2 scale_w: 3 }"), x=x)
    np.testing.assert_array_equal(found["t"], x.repeat(2, 2).repeat(3, 3))
    assert compile_net(one("Upsample")).shape("t") == (2, 3, 14, 10)


@pytest.mark.parametrize("pool", ["AVE", "MAX"])
def test_spp_bins(pool):
    """Level by level, channel by channel: 7 rows in bins of 7, 4 and 2, 11 columns in bins of 11, 6 and 3."""
    x = blob(2, 3, 7, 11)
    text = one("SPP", f"spp_param {{ pyramid_height: 3 pool: {pool} }}", inputs=input_layer("x", *x.shape))
    _, found = run(text, x=x)
    levels = []
    for bins, (rows, columns), pad in ((1, (7, 11), 0), (2, (4, 6), 1), (4, (2, 3), 1)):
        level = np.zeros((2, 3, bins, bins))
        for i, j in np.ndindex(bins, bins):
            top, left = i * rows - pad, j * columns - pad
            area = (min(top + rows, 7 + pad) - top) * (min(left + columns, 11 + pad) - left)
            window = x[:, :, max(top, 0) : top + rows, max(left, 0) : left + columns]
            level[:, :, i, j] = window.max((2, 3)) if pool == "MAX" else window.sum((2, 3)) / area
        levels.append(level.reshape(2, -1))
    np.testing.assert_allclose(found["t"], np.concatenate(levels, 1), rtol=1e-5, atol=1e-6)


def test_stochastic_spp_draws_each_level_anew():
    x = np.abs(blob(2, 3, 8, 4))
    text = one("SPP", "spp_param { pyramid_height: 2 pool: STOCHASTIC }", inputs=input_layer("x", 2, 3, 8, 4))
    _, found = run(text, "TRAIN", x=x)
    assert np.isin(found["t"], x).all()
    _, mean = run(text, "TEST", x=x)
    np.testing.assert_allclose(mean["t"][:, :3], (x**2).sum((2, 3)) / x.sum((2, 3)), rtol=1e-5)


def test_opencv_agrees(tmp_path):
    """OpenCV's Caffe importer, on layers without weights."""
    cv2 = pytest.importorskip("cv2")
    layers = {
        "ave": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
        "floor": ("Pooling", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }"),
        "zoom": ("Interp", "interp_param { zoom_factor: 3 }"),
        "sized": ("Interp", "interp_param { height: 11 width: 4 }"),
    }
    text = X + "".join(
        f'layer {{ name: "{name}" type: "{kind}" bottom: "x" top: "{name}" {settings} }}\n'
        for name, (kind, settings) in layers.items()
    )
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    x = blob(2, 3, 7, 5)
    net = cv2.dnn.readNetFromCaffe(str(path))
    net.setInput(x)
    _, found = run(text, x=x)
    for name in layers:
        np.testing.assert_allclose(found[name], net.forward(name), rtol=1e-5, atol=1e-6, err_msg=name)
