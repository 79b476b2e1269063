"""Lowerings against their plain reference, and geometries against brute force, over random shapes."""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaffe.compile.lowering import ConvGeometry, PoolGeometry, average_pool, convolution, deconvolution, max_pool
from jaffe.compile.lowering.convolution import as_matmul, out_size, plain, split_groups
from jaffe.compile.lowering.deconvolution import as_matmul as transposed_matmul
from jaffe.compile.lowering.deconvolution import by_phase, loop_groups
from jaffe.compile.lowering.deconvolution import out_size as transposed_size
from jaffe.compile.lowering.deconvolution import plain as transposed
from jaffe.compile.lowering.deconvolution import split_groups as transposed_split
from jaffe.compile.lowering.pooling import max_places

RANDOM = np.random.default_rng(0)
SIDES = st.tuples(st.integers(0, 2), st.integers(0, 2))


def assert_same(candidate, reference, x, weight):
    """Equal values, and equal gradients for a random output gradient."""
    expected, pull = jax.vjp(reference, x, weight)
    found, pull_found = jax.vjp(candidate, x, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = RANDOM.normal(size=expected.shape).astype(np.float32)
    for one, other in zip(pull_found(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    group=st.integers(1, 4), channels=st.integers(1, 3), outputs=st.integers(1, 3), size=st.integers(5, 8),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), rows=SIDES, columns=SIDES, dilation=st.integers(1, 2),
)
def test_split_groups_is_plain(group, channels, outputs, size, kernel, stride, rows, columns, dilation):
    x = RANDOM.normal(size=(2, group * channels, size, size + 1)).astype(np.float32)
    weight = RANDOM.normal(size=(group * outputs, channels, kernel, kernel)).astype(np.float32)
    geometry = ConvGeometry((stride, stride), (rows, columns), (dilation, dilation), group)
    assert_same(lambda x, w: split_groups(x, w, geometry), lambda x, w: plain(x, w, geometry), x, weight)
    expected = tuple(out_size(s, kernel, stride, p, dilation) for s, p in ((size, rows), (size + 1, columns)))
    assert plain(x, weight, geometry).shape[2:] == expected


@settings(max_examples=25, deadline=None)
@given(
    group=st.integers(1, 4), channels=st.integers(1, 3), outputs=st.integers(1, 3), size=st.integers(2, 5),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rows=SIDES, columns=SIDES, dilation=st.integers(1, 2),
)
def test_deconvolution_is_the_transpose(
    group, channels, outputs, size, kernel, stride, rows, columns, dilation
):
    """Every candidate is the gradient of convolution with respect to its input."""
    geometry = ConvGeometry(stride, (rows, columns), (dilation, dilation), group)
    x = RANDOM.normal(size=(2, group * channels, size, size + 1)).astype(np.float32)
    weight = RANDOM.normal(size=(group * channels, outputs, *kernel)).astype(np.float32)
    axes = zip((size, size + 1), kernel, stride, (rows, columns), strict=True)
    out = tuple(transposed_size(n, k, s, p, dilation) for n, k, s, p in axes)
    assume(min(out) > 0)
    forward = lambda y: plain(y, weight, geometry)  # noqa: E731
    _, pull = jax.vjp(forward, np.zeros((2, group * outputs, *out), np.float32))
    np.testing.assert_allclose(transposed(x, weight, geometry), pull(x)[0], rtol=1e-5, atol=1e-5)
    for candidate in (transposed_split, loop_groups, deconvolution):
        assert_same(lambda x, w, f=candidate: f(x, w, geometry), lambda x, w: transposed(x, w, geometry), x, weight)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 3), size=st.integers(1, 5), kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)), rows=SIDES, columns=SIDES,
)
def test_by_phase_is_the_transpose(channels, size, kernel, stride, rows, columns):
    geometry = ConvGeometry(stride, (rows, columns), (1, 1), channels)
    x = RANDOM.normal(size=(2, channels, size, size + 1)).astype(np.float32)
    weight = RANDOM.normal(size=(channels, 1, *kernel)).astype(np.float32)
    axes = zip((size, size + 1), kernel, stride, (rows, columns), strict=True)
    assume(all(transposed_size(n, k, s, p, 1) > 0 for n, k, s, p in axes))
    assert_same(lambda x, w: by_phase(x, w, geometry), lambda x, w: transposed(x, w, geometry), x, weight)


def test_no_spatial_axes_is_a_matmul():
    x = RANDOM.normal(size=(5, 6)).astype(np.float32)
    weight = RANDOM.normal(size=(4, 3)).astype(np.float32)
    expected = np.concatenate([x[:, :3] @ weight[:2].T, x[:, 3:] @ weight[2:].T], 1)
    geometry = ConvGeometry((), (), (), 2)
    np.testing.assert_allclose(as_matmul(x, weight, geometry), expected, rtol=1e-5)
    np.testing.assert_allclose(convolution(x, weight, geometry), expected, rtol=1e-5)
    back = np.concatenate([x[:, :3] @ weight[:3, :2], x[:, 3:] @ weight[:3, 1:]], 1)
    kernels = np.concatenate([weight[:3, :2], weight[:3, 1:]])
    np.testing.assert_allclose(transposed_matmul(x, kernels, geometry), back, rtol=1e-5)
    np.testing.assert_allclose(deconvolution(x, kernels, geometry), back, rtol=1e-5)


def brute_force(x: np.ndarray, geometry: PoolGeometry):
    """Pooling as Caffe's own loops do it, over any number of axes: maxima, places, means, and where gradients of one
    go in max pooling."""
    sizes = x.shape[2:]
    rounded = np.ceil if geometry.ceil else np.floor
    axes = list(zip(sizes, geometry.kernel, geometry.stride, geometry.pad, strict=True))
    out = [int(rounded((n + before + after - k) / s)) + 1 for n, k, s, (before, after) in axes]
    if any(before or after for before, after in geometry.pad):
        out = [o - ((o - 1) * s >= n + before) for o, (n, _, s, (before, _)) in zip(out, axes, strict=True)]
    best = np.full((*x.shape[:2], *out), -np.inf)
    places = np.full(best.shape, -1.0)
    mean = np.zeros_like(best)
    gradient = np.zeros_like(x)
    for at in np.ndindex(*out):
        starts = [i * s - before for i, (_, _, s, (before, _)) in zip(at, axes, strict=True)]
        ends = [min(a + k, n + after) for a, (n, k, _, (_, after)) in zip(starts, axes, strict=True)]
        area = math.prod(b - a for a, b in zip(starts, ends, strict=True))
        ranges = [range(max(a, 0), min(b, n)) for a, b, n in zip(starts, ends, sizes, strict=True)]
        for n, c in np.ndindex(*x.shape[:2]):
            where = None
            for cell in itertools.product(*ranges):
                value = x[(n, c, *cell)]
                mean[(n, c, *at)] += value / area
                if value > best[(n, c, *at)]:
                    best[(n, c, *at)], where = value, cell
            if where:
                gradient[(n, c, *where)] += 1
                places[(n, c, *at)] = np.ravel_multi_index(where, sizes)
    return best, places, mean, gradient


def assert_pools(x: np.ndarray, geometry: PoolGeometry):
    best, places, mean, gradient = brute_force(x, geometry)
    assert geometry.outs(x.shape[2:]) == best.shape[2:]
    np.testing.assert_array_equal(max_pool(x, geometry), best)
    np.testing.assert_array_equal(max_places(x, geometry), places)
    np.testing.assert_allclose(average_pool(x, geometry), mean, rtol=1e-6)
    assume(np.isfinite(best).all())
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x, geometry).sum())(x), gradient)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), kh=st.integers(1, 4), kw=st.integers(1, 4),
    sh=st.integers(1, 4), sw=st.integers(1, 4), ph=st.integers(0, 3), pw=st.integers(0, 3), ceil=st.booleans(),
)
def test_pooling_is_caffes(height, width, kh, kw, sh, sw, ph, pw, ceil):
    assume(ph < kh and pw < kw)
    geometry = PoolGeometry((kh, kw), (sh, sw), ((ph, ph), (pw, pw)), ceil)
    assume(height + 2 * ph >= kh and width + 2 * pw >= kw)
    assert_pools(RANDOM.integers(0, 3, (1, 2, height, width)).astype(np.float32), geometry)  # many ties


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3), ceil=st.booleans(), data=st.data(),
)
def test_pooling_with_sides_of_their_own_over_any_number_of_axes(sizes, ceil, data):
    axes = len(sizes)
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    stride = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    pad = data.draw(st.tuples(*(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)) for k in kernel)))
    assume(all(n + sum(p) >= k for n, p, k in zip(sizes, pad, kernel, strict=True)))
    x = RANDOM.integers(0, 3, (1, 2, *sizes)).astype(np.float32)
    assert_pools(x, PoolGeometry(kernel, stride, pad, ceil))


def test_a_nan_is_the_maximum_of_its_windows():
    """Its value and its place; of several the first."""
    x = np.arange(30, dtype=np.float32).reshape(1, 1, 6, 5)
    x[0, 0, 2, 2] = x[0, 0, 3, 3] = np.nan
    geometry = PoolGeometry((3, 2), (1, 1), ((1, 0), (0, 0)))
    nan, places = math.nan, max_places(x, geometry)[0, 0]
    np.testing.assert_array_equal(max_pool(x, geometry)[0, 0, 1:4], [
        [11, nan, nan, 14], [16, nan, nan, nan], [21, nan, nan, nan]])
    np.testing.assert_array_equal(places, [
        [6, 7, 8, 9], [11, 12, 12, 14], [16, 12, 12, 18], [21, 12, 12, 18], [26, 27, 18, 18]])


@settings(max_examples=15, deadline=None)
@given(axes=st.integers(1, 3), stride=st.integers(1, 2), pad=SIDES, dilation=st.integers(1, 2))
def test_convolution_of_any_number_of_axes(axes, stride, pad, dilation):
    """Against a sum written out over kernel offsets."""
    sizes, kernel = (7, 6, 5)[:axes], (3, 2, 1)[:axes]
    x = RANDOM.normal(size=(2, 3, *sizes))
    weight = RANDOM.normal(size=(4, 3, *kernel))
    padded = np.pad(x, [(0, 0), (0, 0), *[pad] * axes])
    out = tuple(out_size(s, k, stride, pad, dilation) for s, k in zip(sizes, kernel, strict=True))
    expected = np.zeros((2, 4, *out))
    for offset in np.ndindex(*kernel):
        window = padded[(..., *(
            slice(o * dilation, o * dilation + (n - 1) * stride + 1, stride) for o, n in zip(offset, out, strict=True)
        ))]
        expected += np.einsum("nc...,oc->no...", window, weight[(..., *offset)])
    geometry = ConvGeometry((stride,) * axes, (pad,) * axes, (dilation,) * axes)
    found = convolution(x.astype(np.float32), weight.astype(np.float32), geometry)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
