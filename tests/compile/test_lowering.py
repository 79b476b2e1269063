"""Lowerings against their plain reference, and geometries against brute force, over random shapes."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaffe.compile.lowering import ConvGeometry, PoolGeometry, average_pool, convolution, max_pool
from jaffe.compile.lowering.convolution import as_matmul, out_size, plain, split_groups

RANDOM = np.random.default_rng(0)


@settings(max_examples=20, deadline=None)
@given(
    group=st.integers(1, 4), channels=st.integers(1, 3), outputs=st.integers(1, 3), size=st.integers(5, 8),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 2), dilation=st.integers(1, 2),
)
def test_split_groups_is_plain(group, channels, outputs, size, kernel, stride, pad, dilation):
    x = RANDOM.normal(size=(2, group * channels, size, size + 1)).astype(np.float32)
    weight = RANDOM.normal(size=(group * outputs, channels, kernel, kernel)).astype(np.float32)
    geometry = ConvGeometry((stride, stride), (pad, pad), (dilation, dilation), group)
    expected, pull = jax.vjp(lambda x, w: plain(x, w, geometry), x, weight)
    found, pull_found = jax.vjp(lambda x, w: split_groups(x, w, geometry), x, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape[2:] == tuple(out_size(s, kernel, stride, pad, dilation) for s in (size, size + 1))
    ones = np.ones(expected.shape, np.float32)
    for one, other in zip(pull_found(ones), pull(ones), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_no_spatial_axes_is_a_matmul():
    x = RANDOM.normal(size=(5, 6)).astype(np.float32)
    weight = RANDOM.normal(size=(4, 3)).astype(np.float32)
    expected = np.concatenate([x[:, :3] @ weight[:2].T, x[:, 3:] @ weight[2:].T], 1)
    geometry = ConvGeometry((), (), (), 2)
    np.testing.assert_allclose(as_matmul(x, weight, geometry), expected, rtol=1e-5)
    np.testing.assert_allclose(convolution(x, weight, geometry), expected, rtol=1e-5)


def brute_force(x: np.ndarray, geometry: PoolGeometry):
    """Pooling as Caffe's own loops do it: maxima, means, and where gradients of one go in max pooling."""
    (kh, kw), (sh, sw), (ph, pw) = geometry.kernel, geometry.stride, geometry.pad
    height, width = x.shape[2:]
    rounded = np.ceil if geometry.ceil else np.floor
    oh = int(rounded((height + 2 * ph - kh) / sh)) + 1
    ow = int(rounded((width + 2 * pw - kw) / sw)) + 1
    if ph or pw:
        oh -= (oh - 1) * sh >= height + ph
        ow -= (ow - 1) * sw >= width + pw
    best = np.full((*x.shape[:2], oh, ow), -np.inf)
    mean = np.zeros_like(best)
    gradient = np.zeros_like(x)
    for i in range(oh):
        for j in range(ow):
            top, left = i * sh - ph, j * sw - pw
            area = (min(top + kh, height + ph) - top) * (min(left + kw, width + pw) - left)
            rows = range(max(top, 0), min(top + kh, height))
            columns = range(max(left, 0), min(left + kw, width))
            for n in range(x.shape[0]):
                for c in range(x.shape[1]):
                    at = None
                    for r in rows:
                        for k in columns:
                            mean[n, c, i, j] += x[n, c, r, k] / area
                            if x[n, c, r, k] > best[n, c, i, j]:
                                best[n, c, i, j], at = x[n, c, r, k], (r, k)
                    if at:
                        gradient[n, c, at[0], at[1]] += 1
    return best, mean, gradient


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), kh=st.integers(1, 4), kw=st.integers(1, 4),
    sh=st.integers(1, 4), sw=st.integers(1, 4), ph=st.integers(0, 3), pw=st.integers(0, 3), ceil=st.booleans(),
)
def test_pooling_is_caffes(height, width, kh, kw, sh, sw, ph, pw, ceil):
    assume(ph < kh and pw < kw)
    geometry = PoolGeometry((kh, kw), (sh, sw), (ph, pw), ceil)
    assume(height + 2 * ph >= kh and width + 2 * pw >= kw)
    x = RANDOM.integers(0, 3, (1, 2, height, width)).astype(np.float32)  # many ties
    best, mean, gradient = brute_force(x, geometry)
    assert (geometry.out(height, 0), geometry.out(width, 1)) == best.shape[2:]
    np.testing.assert_array_equal(max_pool(x, geometry), best)
    np.testing.assert_allclose(average_pool(x, geometry), mean, rtol=1e-6)
    assume(np.isfinite(best).all())
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x, geometry).sum())(x), gradient)


@settings(max_examples=15, deadline=None)
@given(axes=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 1), dilation=st.integers(1, 2))
def test_convolution_of_any_number_of_axes(axes, stride, pad, dilation):
    """Against a sum written out over kernel offsets."""
    sizes, kernel = (7, 6, 5)[:axes], (3, 2, 1)[:axes]
    x = RANDOM.normal(size=(2, 3, *sizes))
    weight = RANDOM.normal(size=(4, 3, *kernel))
    padded = np.pad(x, [(0, 0), (0, 0), *[(pad, pad)] * axes])
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
