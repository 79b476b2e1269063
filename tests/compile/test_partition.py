"""Layers divided over devices: values and gradients are those of the net on one device."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaffe
from jaffe import L
from jaffe.compile.partition import Partition, transfers, ways
from tests.devices import on_devices

ITEMS = 3  # on each device


def small_caffenet(batch: int) -> jaffe.NetSpec:
    """A convolution, pooling, and three fully connected layers; sizes that no two axes share."""
    n = jaffe.NetSpec("small")
    filler = dict(weight_filler=dict(type="xavier"), bias_filler=dict(type="gaussian", std=0.1))
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[batch, 4, 9, 7]), dict(dim=[batch])])
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, **filler)
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2)
    n.fc6 = L.InnerProduct(n.pool, num_output=24, **filler)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.fc7 = L.InnerProduct(n.fc6, num_output=20, **filler)
    n.relu7 = L.ReLU(n.fc7, in_place=True)
    n.fc8 = L.InnerProduct(n.fc7, num_output=12, **filler)
    n.loss = L.SoftmaxWithLoss(n.fc8, n.label)
    return n


def words(batch: int) -> jaffe.NetSpec:
    n = jaffe.NetSpec("words")
    filler = dict(weight_filler=dict(type="xavier"), bias_filler=dict(type="gaussian", std=0.1))
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[batch, 5]), dict(dim=[batch, 5])])
    n.embed = L.Embed(n.data, input_dim=16, num_output=6, **filler)
    n.one = L.InnerProduct(n.embed, axis=2, num_output=8, transpose=True, **filler)
    n.tanh = L.TanH(n.one)
    n.two = L.InnerProduct(n.tanh, axis=2, num_output=16, transpose=True, **filler)
    n.loss = L.SoftmaxWithLoss(n.two, n.label, axis=2)
    return n


def check_equal(spec, layers, data, model, axes):
    """Loss and gradients of a mesh of 4 devices, ``model`` of which share weights, against one device's."""
    devices = 4
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(-1, model), ("data", "model"))
    one = jaffe.compile_net(spec(devices * ITEMS), phase="TRAIN")
    part = Partition("model", model, layers)
    net = jaffe.compile_net(spec(ITEMS), phase="TRAIN", partition=part)
    params = one.init(jax.random.key(3))["params"]
    (value, _), expected = jax.jit(jax.value_and_grad(
        lambda p: one.loss({"params": p, "state": {}}, data), has_aux=True))(params)

    specs = jax.tree.map(lambda _: P(), params)
    for layer, weights in axes.items():
        for name, axis in weights.items():
            assert part.weight_axis(net.inferred.layers[layer], name) == axis
            specs[layer][name] = P(*[None] * axis, "model")

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(specs, P(("data", "model"))), out_specs=(P(), specs), check_vma=False)
    def step(params, data):
        (loss, _), gradients = jax.value_and_grad(
            lambda p: net.loss({"params": p, "state": {}}, data), has_aux=True)(params)
        gradients = jax.tree.map(
            lambda g, s: lax.pmean(g, "data") / model if s != P() else lax.pmean(g, ("data", "model")),
            gradients, specs)
        return lax.pmean(loss, ("data", "model")), gradients

    placed = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), params, specs)
    loss, found = step(placed, data)
    np.testing.assert_allclose(loss, value, rtol=1e-6)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(b).max()
        assert scale > 0, path
        # float32 sums in another order
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * scale, err_msg=str(path))


DIVIDED = {
    "a pair": ({"fc6": "output", "fc7": "input"},
               {"fc6": {"weight": 0, "bias": 0}, "fc7": {"weight": 1}}),
    "outputs alone": ({"fc7": "output"}, {"fc7": {"weight": 0, "bias": 0}}),
    "inputs alone": ({"fc7": "input", "fc8": "input"}, {"fc7": {"weight": 1}, "fc8": {"weight": 1}}),
    "all": ({"conv": "output", "fc6": "input", "fc7": "output", "fc8": "input"},
            {"conv": {"weight": 0, "bias": 0}, "fc6": {"weight": 1}, "fc7": {"weight": 0, "bias": 0},
             "fc8": {"weight": 1}}),
    "a convolution by its inputs": ({"conv": "input", "fc8": "output"},
                                    {"conv": {"weight": 1}, "fc8": {"weight": 0, "bias": 0}}),
}


@pytest.mark.parametrize("model", [2, 4])
@on_devices(4)
def test_fully_connected_layers(model):
    rng = np.random.default_rng(0)
    data = {"data": rng.normal(size=(4 * ITEMS, 4, 9, 7)).astype(np.float32),
            "label": rng.integers(0, 12, 4 * ITEMS).astype(np.float32)}
    for layers, axes in DIVIDED.values():
        check_equal(small_caffenet, layers, data, model, axes)


@on_devices(4)
def test_embedding_by_its_vocabulary():
    rng = np.random.default_rng(0)
    data = {name: rng.integers(0, 16, (4 * ITEMS, 5)).astype(np.float32) for name in ("data", "label")}
    layers = {"embed": "input", "one": "output", "two": "input"}
    axes = {"embed": {"weight": 0}, "one": {"weight": 1, "bias": 0}, "two": {"weight": 0}}
    check_equal(words, layers, data, 2, axes)


def test_what_can_be_divided():
    net = jaffe.compile_net(small_caffenet(2))
    found = {node.name: ways(node, net.inferred, 4) for node in net.graph.nodes}
    assert {name: way for name, way in found.items() if way} == {
        "conv": ("output", "input"), "fc6": ("output", "input"), "fc7": ("output", "input"),
        "fc8": ("output", "input")}
    assert ways(net.graph.node("fc8"), net.inferred, 5) == ("input",)
    assert ways(net.graph.node("fc8"), net.inferred, 7) == ()


def test_what_is_sent():
    net = jaffe.compile_net(small_caffenet(2), phase="TRAIN")
    part = Partition("model", 4, {"fc6": "output", "fc7": "input"})
    found = [(one.layer, one.kind, one.backward, one.size) for one in
             transfers(net.graph, net.inferred, part, net.gradients)]
    assert found == [
        ("fc6", "all-gather", False, 4 * 4 * 2 * 8 * 4 * 3), ("fc6", "reduce-scatter", True, 4 * 4 * 2 * 8 * 4 * 3),
        ("fc7", "reduce-scatter", False, 4 * 4 * 2 * 20), ("fc7", "all-gather", True, 4 * 4 * 2 * 20)]


@pytest.mark.parametrize(("layers", "message"), [
    ({"fc9": "output"}, r"a layer to divide, 'fc9', is not in the net; did you mean 'fc8'\?"),
    ({"relu": "output"}, "layer 'relu'.*it cannot be divided over 4 devices by its outputs; what can be are"),
])
def test_what_cannot(layers, message):
    with pytest.raises(jaffe.JaffeError, match=message):
        jaffe.compile_net(small_caffenet(2), partition=Partition("model", 4, layers))


def test_whole_weights_are_refused_with_their_shapes():
    net = jaffe.compile_net(small_caffenet(2), phase="TRAIN", partition=Partition("model", 4, {"fc7": "output"}))
    variables = net.init(jax.random.key(0))
    with pytest.raises(jaffe.JaffeError, match=r"expected shape \(5, 24\), the part of \(20, 24\) that a device has"):
        net.loss(variables, {name: np.zeros(x.shape, np.float32) for name, x in net.inputs.items()})
