"""Every way of a convolution against NumPy, values and gradients, over random shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaffe.compile.lowering import ConvGeometry, Lowering, conv_patches, conv_plain, convolution, deconvolution
from jaffe.compile.lowering.candidates import CANDIDATES, Problem, fitting
from jaffe.compile.lowering.geometry import out_size

RANDOM = np.random.default_rng(0)
PLAIN = Lowering(plain=True)
SIDES = st.tuples(st.integers(0, 2), st.integers(0, 2))
EACH = [(which, name) for which, names in CANDIDATES.items() for name in names]
# Winograd's larger tiles subtract larger numbers from each other; every other way only sums in another order.
TOLERANCE = {"winograd4": 1e-5}


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def passes(x, weight, geometry, gradient=None):
    """In NumPy: output, a gradient by it (drawn if not given), and the gradients by x and weight."""
    kernel, group = weight.shape[2:], geometry.group
    outs = geometry.outs(x.shape[2:], kernel)
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *geometry.pad])
    apart = lambda a, axis: np.stack(np.split(a, group, axis))  # noqa: E731
    weights = apart(weight, 0)
    if gradient is None:
        gradient = normal(x.shape[0], weight.shape[0], *outs)
    out, by_x, by_weight = 0, np.zeros_like(padded), np.zeros(weights.shape)
    for at in np.ndindex(*kernel):
        axes = zip(at, outs, geometry.stride, geometry.dilation, strict=True)
        seen = (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in axes))
        tap = weights[(..., *at)]
        out += np.einsum("gnc...,goc->ngo...", apart(padded[seen], 1), tap)
        back = np.einsum("gno...,goc->ngc...", apart(gradient, 1), tap)
        by_x[seen] += back.reshape(padded[seen].shape)
        cells = [apart(a, 1).reshape(group, a.shape[0], a.shape[1] // group, -1) for a in (gradient, padded[seen])]
        by_weight[(..., *at)] = np.einsum("gnom,gncm->goc", *cells)
    inner = (..., *(slice(b, b + size) for size, (b, _) in zip(x.shape[2:], geometry.pad, strict=True)))
    return out.reshape(gradient.shape), gradient, by_x[inner], by_weight.reshape(weight.shape)


def assert_close(found, expected, tolerance=2e-6):
    assert found.shape == expected.shape
    scale = max(np.abs(expected).max(), 1)  # sums of products of normal numbers, which may come out near 0
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


@st.composite
def convolutions(draw, which, name):
    """Shapes that the candidate takes: (x, weight, geometry)."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pad = draw(st.tuples(SIDES, SIDES))
    channels, outputs, group = draw(st.integers(1, 4)), draw(st.integers(1, 4)), 1
    size = draw(st.tuples(st.integers(5, 13), st.integers(5, 13)))
    if "winograd" in name:
        kernel, channels, outputs = (3, 3), channels + 7, outputs + 7
    if "winograd" in name or "fourier" in name:
        stride = dilation = (1, 1)
    if "fourier" in name:
        kernel, size = (7, 7), (size[0] + 6, size[1] + 6)
    if "blocks" in name:
        stride = draw(st.tuples(st.integers(2, 3), st.integers(2, 3)))
        dilation, kernel = (1, 1), tuple(max(k, s) for k, s in zip(kernel, stride, strict=True))
    if "depthwise" in name or (name == "onednn" and draw(st.booleans())):
        channels = group = channels + 1
        outputs = channels * draw(st.integers(1, 2))
    if which == "input" and not any(part in name for part in ("spread", "depthwise", "blocks")):
        stride = (1, 1)
    if "im2col" in name or "rows" in name:
        kernel = (max(kernel[0], 2), kernel[1])
    geometry = ConvGeometry(stride, pad, dilation, group)
    least = 2 if "/" in name else 1
    return (draw(st.integers(least, 4)), channels, *size), (outputs, channels // group, *kernel), geometry


@pytest.mark.parametrize(("which", "name"), EACH)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_way_is_numpys(which, name, data, monkeypatch_module):
    x_shape, weight_shape, geometry = data.draw(convolutions(which, name))
    monkeypatch_module.setattr(conv_patches, "AT_ONCE", 125)  # so that small batches are cut up too
    problem = Problem(which, x_shape, weight_shape, geometry)
    assume(min(problem.out) > 0)
    assume(CANDIDATES[which][name].fits(problem))
    x, weight = normal(*x_shape), normal(*weight_shape)
    out, gradient, by_x, by_weight = passes(x, weight, geometry)
    arguments, expected = {
        "forward": ((x, weight, geometry), out),
        "input": ((gradient, weight, geometry, x.shape[2:]), by_x),
        "weight": ((x, gradient, geometry, weight.shape[2:]), by_weight),
    }[which]
    first, second, *rest = arguments
    found = jax.jit(lambda a, b: CANDIDATES[which][name].function(a, b, *rest))(first, second)
    assert_close(found, expected, TOLERANCE.get(name, 2e-6))
    assert min(CANDIDATES[which][name].work(problem)) >= 0


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@settings(max_examples=12, deadline=None)
@given(
    group=st.integers(1, 10), channels=st.integers(1, 2), outputs=st.integers(1, 2), size=st.integers(5, 8),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), rows=SIDES, columns=SIDES, dilation=st.integers(1, 2),
)
def test_what_is_chosen_is_plain(group, channels, outputs, size, kernel, stride, rows, columns, dilation):
    """Whole convolutions, of any number of groups, with their gradients."""
    x = normal(2, group * channels, size, size + 1)
    weight = normal(group * outputs, channels, kernel, kernel)
    geometry = ConvGeometry((stride, stride), (rows, columns), (dilation, dilation), group)
    out, gradient, *gradients = passes(x, weight, geometry)
    found, pull = jax.vjp(lambda x, w: convolution(x, w, geometry, Lowering()), x, weight)
    for one, other in zip((found, *pull(gradient)), (out, *gradients), strict=True):
        assert_close(one, other)
    expected = tuple(out_size(s, kernel, stride, p, dilation) for s, p in ((size, rows), (size + 1, columns)))
    assert out.shape[2:] == expected == geometry.outs(x.shape[2:], weight.shape[2:])


@settings(max_examples=15, deadline=None)
@given(
    group=st.sampled_from([1, 2, 3, 9]), channels=st.integers(1, 3), outputs=st.integers(1, 3), size=st.integers(2, 5),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rows=SIDES, columns=SIDES, dilation=st.integers(1, 2),
)
def test_deconvolution_is_the_transpose(group, channels, outputs, size, kernel, stride, rows, columns, dilation):
    """Plain or chosen, it is the gradient of convolution with respect to its input, and has its own gradients."""
    geometry = ConvGeometry(stride, (rows, columns), (dilation, dilation), group)
    x = normal(2, group * channels, size, size + 1)
    weight = normal(group * channels, outputs, *kernel)
    out = geometry.transposed_outs((size, size + 1), kernel)
    assume(min(out) > 0)
    # Plain is XLA's own, which ends the process for some of those that are no candidate.
    assume("xla" in fitting(Problem("input", (2, group * outputs, *out), weight.shape, geometry)))
    gradient = normal(2, group * outputs, *out)
    by_x, _, expected, by_weight = passes(gradient, weight, geometry, x)
    for lowering in (PLAIN, Lowering()):
        found, pull = jax.vjp(lambda x, w, lowering=lowering: deconvolution(x, w, geometry, lowering), x, weight)
        for one, other in zip((found, *pull(gradient)), (expected, by_x, by_weight), strict=True):
            assert_close(one, other)


def test_no_spatial_axes_is_a_matmul():
    x, weight = normal(5, 6), normal(4, 3)
    expected = np.concatenate([x[:, :3] @ weight[:2].T, x[:, 3:] @ weight[2:].T], 1)
    geometry = ConvGeometry((), (), (), 2)
    np.testing.assert_allclose(convolution(x, weight, geometry, PLAIN), expected, rtol=1e-5)
    back = np.concatenate([x[:, :3] @ weight[:3, :2], x[:, 3:] @ weight[:3, 1:]], 1)
    kernels = np.concatenate([weight[:3, :2], weight[:3, 1:]])
    np.testing.assert_allclose(deconvolution(x, kernels, geometry, PLAIN), back, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(axes=st.integers(1, 4), stride=st.integers(1, 2), pad=SIDES, dilation=st.integers(1, 2))
def test_convolution_of_any_number_of_axes(axes, stride, pad, dilation):
    """Against a sum written out over kernel offsets."""
    sizes, kernel = (7, 6, 5, 3)[:axes], (3, 2, 1, 1)[:axes]
    x, weight = normal(2, 3, *sizes), normal(4, 3, *kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *[pad] * axes])
    out = tuple(out_size(s, k, stride, pad, dilation) for s, k in zip(sizes, kernel, strict=True))
    expected = np.zeros((2, 4, *out))
    for offset in np.ndindex(*kernel):
        window = padded[(..., *(
            slice(o * dilation, o * dilation + (n - 1) * stride + 1, stride) for o, n in zip(offset, out, strict=True)
        ))]
        expected += np.einsum("nc...,oc->no...", window, weight[(..., *offset)])
    geometry = ConvGeometry((stride,) * axes, (pad,) * axes, (dilation,) * axes)
    for lowering in (PLAIN, Lowering()):
        assert_close(convolution(x, weight, geometry, lowering), expected)
    for which in ("forward", "weight"):
        assert "xla" in fitting(Problem(which, x.shape, weight.shape, geometry))


def test_float64_keeps_its_digits():
    """Also through Winograd's matrices: their entries are exact in float32 or the error would show here."""
    with jax.enable_x64(True):
        x, weight = RANDOM.normal(size=(2, 16, 9, 8)), RANDOM.normal(size=(8, 16, 3, 3))
        geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
        expected = conv_plain.plain(x, weight, geometry)
        for name in ("winograd2", "winograd4", "im2col", "rows", "shifted"):
            found = CANDIDATES["forward"][name].function(jnp.asarray(x), jnp.asarray(weight), geometry)
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
