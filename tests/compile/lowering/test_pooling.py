"""Pooling against brute force, over random shapes: XLA's own operations, and what is chosen on the CPU."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaffe.compile.lowering import Lowering, PoolGeometry, average_pool, max_places, max_pool
from jaffe.compile.lowering.pooling import pooling_way, sum_pool

RANDOM = np.random.default_rng(0)
LOWERINGS = (Lowering(), Lowering(plain=True))


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
    np.testing.assert_array_equal(max_places(x, geometry), places)
    weights = RANDOM.integers(1, 9, best.shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def everything(x, lowering):
        largest, pull = jax.vjp(lambda x: max_pool(x, geometry, lowering), x)
        average, pull_average = jax.vjp(lambda x: average_pool(x, geometry, lowering), x)
        # What has no backward pass goes another way.
        alone = max_pool(x, geometry, lowering), average_pool(x, geometry, lowering)
        return largest, pull(jnp.ones_like(largest))[0], average, pull_average(weights)[0], *alone

    by_average = []
    for lowering in LOWERINGS:
        found = everything(x, lowering)
        np.testing.assert_array_equal(found[0], best)
        np.testing.assert_allclose(found[2], mean, rtol=1e-6)
        np.testing.assert_array_equal(found[4], best)
        np.testing.assert_allclose(found[5], mean, rtol=1e-6)
        by_average.append(found[3])
        if np.isfinite(best).all():
            np.testing.assert_array_equal(found[1], gradient)
    np.testing.assert_allclose(*by_average, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), kh=st.integers(1, 4), kw=st.integers(1, 4),
    sh=st.integers(1, 4), sw=st.integers(1, 4), ph=st.integers(0, 3), pw=st.integers(0, 3), ceil=st.booleans(),
)
def test_pooling_is_caffes(height, width, kh, kw, sh, sw, ph, pw, ceil):
    assume(ph < kh and pw < kw)
    geometry = PoolGeometry((kh, kw), (sh, sw), ((ph, ph), (pw, pw)), ceil)
    assume(height + 2 * ph >= kh and width + 2 * pw >= kw)
    assert_pools(RANDOM.integers(0, 3, (1, 2, height, width)).astype(np.float32), geometry)  # many ties


def test_averages_over_many_cells():
    """GoogLeNet's auxiliary heads: the largest values are XLA's windows, the averages are slices axis by axis."""
    geometry = PoolGeometry((5, 5), (3, 3), ((0, 0), (2, 1)))
    assert [pooling_way(geometry, LOWERINGS[0], sums=sums) for sums in (False, True)] == ["xla", "slices"]
    assert_pools(RANDOM.integers(0, 3, (1, 2, 14, 13)).astype(np.float32), geometry)


@settings(max_examples=20, deadline=None)
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
    for lowering in LOWERINGS:
        np.testing.assert_array_equal(max_pool(x, geometry, lowering)[0, 0, 1:4], [
            [11, nan, nan, 14], [16, nan, nan, nan], [21, nan, nan, nan]])
    np.testing.assert_array_equal(places, [
        [6, 7, 8, 9], [11, 12, 12, 14], [16, 12, 12, 18], [21, 12, 12, 18], [26, 27, 18, 18]])


def test_gradients_of_max_pooling_are_weighted_as_their_windows():
    """Not only counted: each window's own gradient goes to its maximum."""
    x = RANDOM.normal(size=(2, 3, 11, 9)).astype(np.float32)
    geometry = PoolGeometry((3, 2), (2, 1), ((1, 0), (0, 1)))
    weights = RANDOM.normal(size=max_pool(x, geometry, LOWERINGS[1]).shape).astype(np.float32)
    chosen, plain = (jax.grad(lambda x, how=how: (weights * max_pool(x, geometry, how)).sum())(x) for how in LOWERINGS)
    np.testing.assert_allclose(chosen, plain, rtol=1e-6, atol=1e-6)


def test_sums_over_the_whole_image():
    x = RANDOM.normal(size=(2, 3, 5, 7)).astype(np.float32)
    geometry = PoolGeometry((5, 7), (1, 1), ((0, 0), (0, 0)))
    for lowering in LOWERINGS:
        np.testing.assert_allclose(sum_pool(x, geometry, lowering)[..., 0, 0], x.sum((2, 3)), rtol=1e-5, atol=1e-5)
