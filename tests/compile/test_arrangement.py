"""Layers that repeat, cut, reorder, add up or combine, against loops and NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

KEY = jax.random.key(0)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def moved(net, inputs: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """The top is as expected, and its gradient goes back to where each value came from."""
    inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
    y, pull = jax.vjp(lambda x: net.apply({}, {**inputs, "x": x})[0]["t"], inputs["x"])
    np.testing.assert_array_equal(y, expected)
    top = values(*expected.shape, seed=1)
    gradient = np.zeros(inputs["x"].shape, np.float32)
    places = {value: place for place, value in np.ndenumerate(np.asarray(inputs["x"]))}  # normal values do not repeat
    for place, value in np.ndenumerate(expected):
        gradient[places[value]] += top[place]
    np.testing.assert_allclose(pull(jnp.asarray(top))[0], gradient, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_tile(axis: int, tiles: int):
    """A, B becomes A, B, A, B: not A, A, B, B."""
    x = values(2, 3, 5)
    net = compile_net(one("Tile", f"tile_param {{ axis: {axis} tiles: {tiles} }}", inputs=input_layer("x", 2, 3, 5)))
    moved(net, {"x": x}, np.concatenate([x] * tiles, axis))


@pytest.mark.parametrize(("settings", "cut"), [
    ("", np.s_[:, :, :5, :3]),
    ("crop_param { offset: 2 }", np.s_[:, :, 2:7, 2:5]),
    ("crop_param { axis: -2 offset: 1 offset: 4 }", np.s_[:, :, 1:6, 4:7]),
    ("crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }", np.s_[:, 1:3, :5, 2:5]),
    ("crop_param { axis: 3 offset: 4 }", np.s_[:, :, :, 4:]),
])
def test_crop(settings: str, cut):
    """Axes before ``axis`` keep the first bottom's size; a single offset is for all axes that are cut."""
    x = values(2, 3, 11, 7)
    net = compile_net(one("Crop", settings, "x y", inputs=input_layer("x", 2, 3, 11, 7) + input_layer("y", 1, 2, 5, 3)))
    moved(net, {"x": x, "y": np.zeros((1, 2, 5, 3))}, x[cut])


@pytest.mark.parametrize(("order", "full"), [
    ([], [0, 1, 2, 3]), ([0, 2, 3, 1], [0, 2, 3, 1]), ([3], [3, 0, 1, 2]), ([2, 0], [2, 0, 1, 3]),
])
def test_permute(order: list[int], full: list[int]):
    x = values(2, 3, 5, 7)
    settings = f"permute_param {{ {' '.join(f'order: {axis}' for axis in order)} }}"
    net = compile_net(one("Permute", settings, inputs=input_layer("x", 2, 3, 5, 7)))
    expected = np.zeros([x.shape[axis] for axis in full], np.float32)
    for place in np.ndindex(*expected.shape):
        source = [0] * 4
        for i, axis in enumerate(full):
            source[axis] = place[i]
        expected[place] = x[tuple(source)]
    moved(net, {"x": x}, expected)


@pytest.mark.parametrize("group", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 7)])
def test_shuffle_channel(group: int, shape: tuple[int, ...]):
    x = values(*shape)
    settings = f"shuffle_channel_param {{ group: {group} }}"
    net = compile_net(one("ShuffleChannel", settings, inputs=input_layer("x", *shape)))
    expected = np.zeros_like(x)
    for i in range(group):
        for j in range(6 // group):
            expected[:, j * group + i] = x[:, i * (6 // group) + j]
    moved(net, {"x": x}, expected)


IDENTITIES = {
    "Tile": ("tile_param { tiles: 1 }", "tile_param { tiles: 2 }"),
    "Permute": ("permute_param { order: 0 }", "permute_param { order: 1 }"),
    "ShuffleChannel": ("shuffle_channel_param { group: 6 }", "shuffle_channel_param { group: 2 }"),
    "Maxout": ("maxout_param { pieces: 1 }", "maxout_param { pieces: 2 }"),
}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identities_are_left_out(kind: str):
    inputs = input_layer("x", 2, 6, 5)
    after = 'layer { name: "after" type: "TanH" bottom: "t" top: "u" }\n'
    for settings, runs in zip(IDENTITIES[kind], (["x", "after"], ["x", "l", "after"]), strict=True):
        net = compile_net(one(kind, settings, inputs=inputs) + after)
        assert [node.name for node in net.program(frozenset(["u"])).nodes] == runs


def test_a_crop_to_its_own_size_is_left_out():
    after = 'layer { name: "after" type: "TanH" bottom: "t" top: "u" }\n'
    for size, runs in ((5, ["x", "after"]), (3, ["x", "y", "l", "after"])):
        inputs = input_layer("x", 2, 3, 5) + input_layer("y", 2, 3, size)
        net = compile_net(one("Crop", "", "x y", inputs=inputs) + after)
        assert [node.name for node in net.program(frozenset(["u"])).nodes] == runs


REDUCTIONS = {
    "SUM": (lambda row: row.sum(), lambda row: np.ones_like(row)),
    "ASUM": (lambda row: np.abs(row).sum(), np.sign),
    "SUMSQ": (lambda row: (row**2).sum(), lambda row: 2 * row),
    "MEAN": (lambda row: row.mean(), lambda row: np.full_like(row, 1 / len(row))),
}


@pytest.mark.parametrize("operation", REDUCTIONS)
@pytest.mark.parametrize(("axis", "kept"), [(0, ()), (1, (2,)), (-1, (2, 3))])
@pytest.mark.parametrize("coeff", [1, -0.5])
def test_reduction(operation: str, axis: int, kept: tuple[int, ...], coeff: float):
    x = values(2, 3, 5).astype(np.float64)
    x[0, 1, 2] = 0
    settings = f"reduction_param {{ operation: {operation} axis: {axis} coeff: {coeff} }}"
    net = compile_net(one("Reduction", settings, inputs=input_layer("x", 2, 3, 5)))
    value, gradient = REDUCTIONS[operation]
    rows = x.reshape(int(np.prod(kept)), -1)
    y, pull = jax.vjp(lambda x: net.apply({}, {"x": x})[0]["t"], jnp.asarray(x, jnp.float32))
    assert y.shape == kept
    np.testing.assert_allclose(y.ravel(), [coeff * value(row) for row in rows], rtol=1e-5)
    expected = np.concatenate([coeff * gradient(row) for row in rows]).reshape(x.shape)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], expected, rtol=1e-5)
    each = {"SUM": 30, "ASUM": 60, "SUMSQ": 60, "MEAN": 30}[operation]
    assert net.cost()["l"].flops == each + (len(rows) if coeff != 1 or operation == "MEAN" else 0)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 1, 1)])
def test_axpy(shape: tuple[int, ...]):
    a, x, y, top = values(*shape), values(2, 3, 5, 7, seed=1), values(2, 3, 5, 7, seed=2), values(2, 3, 5, 7, seed=3)
    inputs = input_layer("a", *shape) + input_layer("x", 2, 3, 5, 7) + input_layer("y", 2, 3, 5, 7)
    net = compile_net(one("Axpy", bottoms="a x y", inputs=inputs))
    result, pull = jax.vjp(lambda blobs: net.apply({}, blobs)[0]["t"], {"a": a, "x": x, "y": y})
    each = a.reshape(2, 3)[:, :, None, None]
    np.testing.assert_allclose(result, each * x + y, rtol=1e-6, atol=1e-6)
    gradient = pull(jnp.asarray(top))[0]
    np.testing.assert_allclose(gradient["a"].reshape(2, 3), (top * x).sum((2, 3)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient["x"], each * top, rtol=1e-6)
    np.testing.assert_array_equal(gradient["y"], top)
    assert net.cost()["l"].flops == 2 * x.size


@pytest.mark.parametrize(("axis", "num_axes", "shape"), [(1, 1, (3,)), (0, 2, (2, 3)), (1, -1, (3, 5)), (0, 0, ())])
@pytest.mark.parametrize("learned", [True, False])
def test_bias(axis: int, num_axes: int, shape: tuple[int, ...], learned: bool):
    x, bias, top = values(2, 3, 5), values(*shape, seed=1), values(2, 3, 5, seed=2)
    inputs = input_layer("x", 2, 3, 5)
    if not learned:
        inputs += f'layer {{ name: "b" type: "Input" top: "b" input_param {{ shape {{ {dims(shape)} }} }} }}\n'
    settings = f"bias_param {{ axis: {axis} num_axes: {num_axes} }}"
    net = compile_net(one("Bias", settings, "x" if learned else "x b", inputs=inputs))

    def forward(bias):
        return net.apply({"params": {"l": {"bias": bias}}} if learned else {},
                         {"x": x} if learned else {"x": x, "b": bias})[0]["t"]

    y, pull = jax.vjp(forward, jnp.asarray(bias))
    full = bias.reshape((1,) * axis + shape + (1,) * (3 - axis - len(shape)))
    np.testing.assert_array_equal(y, x + full)
    summed = tuple(i for i in range(3) if not axis <= i < axis + len(shape))
    np.testing.assert_allclose(pull(jnp.asarray(top))[0], top.sum(summed), rtol=1e-5, atol=1e-6)
    if learned:
        assert not net.init(KEY)["params"]["l"]["bias"].any()


def dims(shape: tuple[int, ...]) -> str:
    return " ".join(f"dim: {size}" for size in shape)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_parameter(shape: tuple[int, ...]):
    """The stored blob is the top, and its gradient the top's."""
    text = f'layer {{ name: "p" type: "Parameter" top: "p" parameter_param {{ shape {{ {dims(shape)} }} }} }}'
    net = compile_net(text)
    variables = net.init(KEY)
    np.testing.assert_array_equal(variables["params"]["p"]["weight"], np.zeros(shape))
    weight = values(*shape)
    y, pull = jax.vjp(lambda w: net.apply({"params": {"p": {"weight": w}}}, {})[0]["p"], jnp.asarray(weight))
    np.testing.assert_array_equal(y, weight)
    np.testing.assert_array_equal(pull(jnp.asarray(weight))[0], weight)


def test_a_parameter_is_shared_by_name():
    """Two layers show one blob, and its gradients add up."""
    layers = "".join(
        f'layer {{ name: "{name}" type: "Parameter" top: "{name}" param {{ name: "w" }} '
        "parameter_param { shape { dim: 3 } } }\n"
        for name in "pq"
    )
    net = compile_net(layers + 'layer { name: "t" type: "Eltwise" bottom: "p" bottom: "q" top: "t" '
                      "eltwise_param { coeff: 2 coeff: 5 } }")
    assert set(net.init(KEY)["params"]) == {"p"}
    gradient = jax.grad(lambda w: net.apply({"params": {"p": {"weight": w}}}, {})[0]["t"].sum())(jnp.ones(3))
    np.testing.assert_array_equal(gradient, [7, 7, 7])


def test_hdf5_output_is_a_sink():
    """It has no top, and what it reads is no output."""
    net = compile_net(one("HDF5Output", "hdf5_output_param { file_name: 'out.h5' }", "x y", "",
                          input_layer("x", 2, 3) + input_layer("y", 2))
                      + 'layer { name: "r" type: "TanH" bottom: "x" top: "t" }')
    assert list(net.outputs) == ["t"]
    assert net.cost()["l"].flops == 0
    assert [node.name for node in net.program(frozenset(["t"])).nodes] == ["x", "r"]


def test_any_batch():
    """Layers whose shapes do not hang on the batch export for every batch size."""
    (batch,) = jax.export.symbolic_shape("batch")
    text = input_layer("x", 2, 6, 5) + input_layer("s", 2) + "".join(
        f'layer {{ name: "{top}" type: "{kind}" {" ".join(f"bottom: {b!r}" for b in bottoms.split())} top: "{top}" '
        f"{settings} }}\n"
        for top, kind, bottoms, settings in (
            ("a", "ShuffleChannel", "x", "shuffle_channel_param { group: 3 }"),
            ("b", "Permute", "a", "permute_param { order: 0 order: 2 }"),
            ("c", "Tile", "b", "tile_param { tiles: 2 }"),
            ("d", "Filter", "c s", ""),
            ("e", "Maxout", "d", ""),
            ("f", "Reduction", "e", "reduction_param { axis: 2 }"),
            ("t", "ArgMax", "f", "argmax_param { axis: 1 }"),
            ("u", "ArgMax", "e", "argmax_param { top_k: 2 }"),
        )
    )
    net = compile_net(text)
    shapes = {"x": jax.ShapeDtypeStruct((batch, 6, 5), jnp.float32), "s": jax.ShapeDtypeStruct((batch,), jnp.float32)}
    exported = jax.export.export(jax.jit(lambda inputs: net.apply({}, inputs)[0]))(shapes)
    inputs = {"x": jnp.asarray(values(7, 6, 5)), "s": jnp.array([1.0, 0, 1, 1, 0, 0, 1])}
    for name, value in net.apply({}, inputs)[0].items():
        np.testing.assert_allclose(exported.call(inputs)[name], value, rtol=1e-6)
