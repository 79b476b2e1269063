"""What holds for every layer: shape rule, jit, vmap, gradients, float64, costs. (Exports: test_export, test_onnx.)"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaffe.compile import compile_net, layer_types
from jaffe.compile.layer import make_layer
from jaffe.compile.layers.data import Source
from jaffe.netdef import resolve
from tests.nets import NETS, Case

pytestmark = pytest.mark.usefixtures("unoptimised")
PHASES = ("TRAIN", "TEST")


def make_inputs(net, case: Case, seed: int = 0) -> dict[str, jax.Array]:
    """Positive values without ties (pools and products are smooth there), and what the case says of its inputs."""
    random = np.random.default_rng(seed)
    inputs: dict[str, Any] = {}
    for name, spec in net.inputs.items():
        if name in case.values:
            inputs[name] = np.asarray(case.values[name])
        elif name in case.integers:
            inputs[name] = random.integers(0, case.integers[name], spec.shape)
        else:
            inputs[name] = random.permutation(int(np.prod(spec.shape))).reshape(spec.shape) / 100 + 0.105
    return {name: jnp.asarray(value, net.dtype) for name, value in inputs.items()}


def used(key: jax.Array, variables):
    """Variables as after training: no statistic is 0, no two weights are equal."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves) + 1)
    return jax.tree.unflatten(tree, [leaf + jax.random.uniform(k, leaf.shape, leaf.dtype, 0.1, 0.5)
                                     for leaf, k in zip(leaves, keys, strict=False)])


@pytest.fixture(params=PHASES)
def phase(request) -> str:
    return request.param


@pytest.fixture(params=NETS)
def case(request) -> Case:
    return NETS[request.param]


@pytest.fixture
def net(case, phase):
    return compile_net(case.net, phase=phase)


KEY = jax.random.key(3)


def test_every_type_has_a_net():
    types = {node.type for case in NETS.values() for node in resolve(case.net).nodes}
    sources = {name for name in layer_types() if name not in types}
    foreign = {"Python"}  # needs a module: test_python_layer.py
    assert sources - foreign == {"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"}  # inputs, as Input is


def test_shape_rule_and_jit(net, case):
    variables, inputs = net.init(KEY), make_inputs(net, case)
    blobs = list(net.graph.blobs)
    outputs, state = net.apply(variables, inputs, KEY, blobs=blobs)
    for name in blobs:
        assert outputs[name].shape == net.shape(name), name
        assert outputs[name].dtype == net.dtype, name
    jitted, jitted_state = jax.jit(lambda v, x, k: net.apply(v, x, k, blobs=blobs))(variables, inputs, KEY)
    assert jax.tree.structure(state) == jax.tree.structure(variables["state"])
    for name in blobs:
        np.testing.assert_allclose(jitted[name], outputs[name], rtol=1e-6, atol=1e-6)
    for one, other in zip(jax.tree.leaves(jitted_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_vmap_is_a_loop(net, case):
    variables = net.init(KEY)
    several = [make_inputs(net, case, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several)
    keys = jax.random.split(KEY, 3)
    one = jax.jit(lambda x, k: net.apply(variables, x, k)[0])
    mapped = jax.jit(jax.vmap(one))(stacked, keys)
    for i, inputs in enumerate(several):
        outputs = one(inputs, keys[i])
        for name in net.outputs:
            np.testing.assert_allclose(mapped[name][i], outputs[name], rtol=1e-5, atol=1e-6)


def is_differentiable(case: Case) -> bool:
    net = compile_net(case.net)
    return bool(set(net.outputs) - set(case.no_gradient) and set(net.inputs) - set(case.integers) - set(case.fixed))


@pytest.mark.parametrize("name", [name for name, case in NETS.items() if is_differentiable(case)])
def test_gradients_against_finite_differences(name: str, phase: str):
    case = NETS[name]
    with jax.enable_x64(True):
        net = compile_net(case.net, phase=phase, dtype=jnp.float64)
        variables, inputs = net.init(KEY), make_inputs(net, case)
        constant = {key: value for key, value in inputs.items() if key in case.integers or key in case.fixed}
        smooth = {key: value for key, value in inputs.items() if key not in constant}
        differentiable = [blob for blob in net.outputs if blob not in case.no_gradient]

        @jax.jit
        def outputs(params, smooth):
            result, _ = net.apply({**variables, "params": params}, {**constant, **smooth}, KEY)
            return [result[blob] for blob in differentiable]

        check_grads(outputs, (variables["params"], smooth), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_cost_and_summary(net):
    cost = net.cost()
    assert cost.params == sum(leaf.size for leaf in jax.tree.leaves(net.init(KEY)["params"]))
    assert all(layer.flops >= 0 for layer in cost.layers)
    assert all(node.name in str(net.summary()) for node in net.graph.nodes)


def test_layers_are_documented():
    from jaffe.compile.layer import _REGISTRY

    for name in layer_types():
        assert (_REGISTRY[name].__doc__ or "").strip(), name


def test_sources_are_inputs():
    node = resolve('layer { name: "d" type: "MemoryData" top: "a" top: "b" memory_data_param { batch_size: 2 '
                   'channels: 3 height: 5 width: 7 } }').nodes[0]
    layer = make_layer(node)
    assert isinstance(layer, Source)
    assert layer.declared() == [(2, 3, 5, 7), (2,)]
