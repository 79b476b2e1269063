"""Layers that look values up or put them in order, against loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

KEY = jax.random.key(0)


def largest_first(values: np.ndarray, k: int) -> list[int]:
    """Indices of the k largest; of equal values the larger index first."""
    return sorted(range(len(values)), key=lambda i: (values[i], i), reverse=True)[:k]


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize(("axis", "k"), [(0, 1), (1, 3), (-1, 5), (-2, 2)])
def test_argmax_along_an_axis(axis: int, k: int, values: bool):
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 7)).astype(np.float32)  # many ties
    settings = f"argmax_param {{ axis: {axis} top_k: {k} out_max_val: {str(values).lower()} }}"
    net = compile_net(one("ArgMax", settings, inputs=input_layer("x", 2, 3, 7)))
    index = np.apply_along_axis(largest_first, axis, x, k)
    expected = np.take_along_axis(x, index, axis) if values else index
    y = net.apply({}, {"x": x})[0]["t"]
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("shape", "top"), [
    ((5, 7), (5, 1, 3)), ((5, 2, 7), (5, 1, 3)), ((5, 2, 3, 7), (5, 1, 3, 1)), ((5, 2, 1, 3, 7), (5, 1, 3, 1, 1)),
])
def test_argmax_of_items(shape, top):
    x = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
    index = np.array([largest_first(item.ravel(), 3) for item in x])
    net = compile_net(one("ArgMax", "argmax_param { top_k: 3 }", inputs=input_layer("x", *shape)))
    y = net.apply({}, {"x": x})[0]["t"]
    assert y.shape == top
    np.testing.assert_array_equal(y.reshape(5, 3), index)
    pairs = compile_net(one("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", inputs=input_layer("x", *shape)))
    y = pairs.apply({}, {"x": x})[0]["t"]
    assert y.shape == (top[0], 2, *top[2:])
    np.testing.assert_array_equal(y.reshape(5, 2, 3)[:, 0], index)
    np.testing.assert_array_equal(y.reshape(5, 2, 3)[:, 1], np.take_along_axis(x.reshape(5, -1), index, 1))


def test_argmax_of_zeros_of_either_sign():
    x = np.array([[-0.0, 0, -0.0, -1], [0, -0.0, -2, -0.0]], np.float32)
    net = compile_net(one("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", inputs=input_layer("x", 2, 4)))
    y, pull = jax.vjp(jax.jit(lambda x: net.apply({}, {"x": x})[0]["t"]), x)
    assert y[:, 0].tolist() == [[2, 1, 0], [3, 1, 0]]
    assert not y[:, 1].any()
    assert pull(jnp.ones_like(y))[0].tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_argmax_of_single_numbers():
    net = compile_net(one("ArgMax", inputs=input_layer("x", 5)))
    np.testing.assert_array_equal(net.apply({}, {"x": jnp.arange(5.0)})[0]["t"], np.zeros((5, 1, 1)))


# Indices are stored as floats: fractions are cut off as by a C cast, and what lies outside has no row.
INDEX = np.array([3, 0, 3, 4, 2.9, -0.5, 5, -1, np.nan, 1e20], np.float32)
ROWS = [3, 0, 3, 4, 2, 0, None, None, None, None]


def looked_up(table: np.ndarray) -> np.ndarray:
    missing = np.full(table.shape[1:], np.nan, np.float32)
    return np.stack([missing if row is None else table[row] for row in ROWS])


def summed_back(top: np.ndarray, table: np.ndarray) -> np.ndarray:
    total = np.zeros_like(table)
    for row, gradient in zip(ROWS, top, strict=True):
        if row is not None:
            total[row] += gradient
    return total


def test_batch_reindex():
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    top = np.random.default_rng(1).normal(size=(10, 3, 2)).astype(np.float32)
    net = compile_net(one("BatchReindex", bottoms="x i", inputs=input_layer("x", 5, 3, 2) + input_layer("i", 10)))
    y, pull = jax.vjp(lambda x, i: net.apply({}, {"x": x, "i": i})[0]["t"], jnp.asarray(x), jnp.asarray(INDEX))
    np.testing.assert_array_equal(y, looked_up(x))
    d_x, d_index = pull(jnp.asarray(top))
    np.testing.assert_allclose(d_x, summed_back(top, x), rtol=1e-6)
    assert not d_index.any()


@pytest.mark.parametrize("bias", [True, False])
def test_embed(bias: bool):
    settings = f"embed_param {{ num_output: 7 input_dim: 5 bias_term: {str(bias).lower()} }}"
    net = compile_net(one("Embed", settings, inputs=input_layer("x", 2, 5)))
    random = np.random.default_rng(0)
    weights = {"weight": random.normal(size=(5, 7)).astype(np.float32)}
    if bias:
        weights["bias"] = random.normal(size=7).astype(np.float32)
    top = random.normal(size=(2, 5, 7)).astype(np.float32)
    index = jnp.asarray(INDEX.reshape(2, 5))
    y, pull = jax.vjp(lambda p: net.apply({"params": {"l": p}}, {"x": index})[0]["t"], weights)
    np.testing.assert_allclose(y.reshape(10, 7), looked_up(weights["weight"]) + weights.get("bias", 0), rtol=1e-6)
    gradient = pull(jnp.asarray(top))[0]
    np.testing.assert_allclose(gradient["weight"], summed_back(top.reshape(10, 7), weights["weight"]), rtol=1e-6)
    if bias:
        np.testing.assert_allclose(gradient["bias"], top.sum((0, 1)), rtol=1e-5)
    assert net.cost()["l"].flops == (2 * 5 * 7 if bias else 0)


def test_whole_numbers_as_inputs():
    """Indices may come as integers."""
    net = compile_net(one("BatchReindex", bottoms="x i", inputs=input_layer("x", 5, 3) + input_layer("i", 2)))
    x = np.arange(15, dtype=np.int32).reshape(5, 3)
    np.testing.assert_array_equal(net.apply({}, {"x": x, "i": np.array([4, 1], np.uint8)})[0]["t"], x[[4, 1]])


FILTER = one("Filter", bottoms="x y s", tops="t u",
             inputs=input_layer("x", 7, 3, 2) + input_layer("y", 7) + input_layer("s", 7, 1, 1))


@pytest.mark.parametrize("selector", [
    [1, 0, 0, -2, 0.5, 0, 0], [0] * 7, [1] * 7, [0, 0, 0, 0, 0, 0, 3],
])
@pytest.mark.parametrize("jit", [False, True])
def test_filter(selector, jit: bool):
    """Items with a selector that is not 0 come first, in order; zeros follow. The same under jit."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 3, 2)).astype(np.float32), random.normal(size=7).astype(np.float32)
    selector = np.array(selector, np.float32)
    net = compile_net(FILTER)

    def forward(x, y, s):
        return net.apply({}, {"x": x, "y": y, "s": s})[0]

    s = jnp.asarray(selector.reshape(7, 1, 1))
    tops, pull = jax.vjp(jax.jit(forward) if jit else forward, jnp.asarray(x), jnp.asarray(y), s)
    chosen = np.flatnonzero(selector)
    for name, items in (("t", x), ("u", y)):
        expected = np.zeros_like(items)
        expected[: len(chosen)] = items[chosen]
        np.testing.assert_array_equal(tops[name], expected)
    top = random.normal(size=x.shape).astype(np.float32)
    d_x, d_y, d_s = pull({"t": jnp.asarray(top), "u": jnp.zeros(7)})
    expected = np.zeros_like(x)
    expected[chosen] = top[: len(chosen)]
    np.testing.assert_array_equal(d_x, expected)
    assert not d_y.any()
    assert not d_s.any()


def test_filter_keeps_bad_numbers_out():
    """NaN in an item that is not selected reaches neither the tops nor the gradients."""
    x = jnp.ones((7, 3, 2)).at[2].set(jnp.nan)
    s = jnp.array([1.0, 1, 0, 1, 0, 1, 1]).reshape(7, 1, 1)
    net = compile_net(FILTER)
    value, gradient = jax.value_and_grad(
        lambda x: (net.apply({}, {"x": x, "y": jnp.zeros(7), "s": s})[0]["t"] ** 2).sum()
    )(x)
    assert value == 5 * 6
    np.testing.assert_array_equal(gradient[:, 0, 0], [2, 2, 0, 2, 0, 2, 2])
