"""Graphs after a pass as text, and programs against the same layers run one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile import CompiledNet, compile_net, trace
from jaffe.compile.execute import execute
from jaffe.compile.fused import make_program
from jaffe.compile.passes import Pass
from jaffe.compile.reader import read_inputs
from jaffe.netdef.graph import Node


def after(one: Pass, text: str, *keep: str, phase: str = "TEST", **settings: Any) -> list[str]:
    """The layers of a net after a pass that keeps these values, or the outputs; once more changes nothing.

    ``settings`` replace those of the pass's context.
    """
    net = compile_net(text, phase=phase)
    context = replace(net.context(frozenset(keep or map(net.graph.blobs.get, net.outputs))), **settings)
    graph = one(net.graph, context).verify()
    assert str(one(graph, context)) == str(graph)
    return [line.strip() for line in str(graph).splitlines()[1:-1]]


def kept(net: CompiledNet) -> frozenset[str]:
    """The values behind a net's outputs."""
    return frozenset(net.graph.blobs[name] for name in net.outputs)


def assert_as_traced(net: CompiledNet, inputs: Any, rtol: float, atol: float, loss_rtol: float) -> Any:
    """Loss, state, and gradients of fresh weights, against a trace, which runs layers one by one. The gradients."""
    variables = net.init(jax.random.key(0))
    (loss, (_, state)), gradients = jax.value_and_grad(net.loss, has_aux=True)(variables, inputs)
    expected = trace(net, variables, inputs)
    np.testing.assert_allclose(loss, expected.loss, rtol=loss_rtol)
    for found, wanted in ((gradients["params"], expected.weight_gradients), (state, expected.state)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, wanted)
    return gradients["params"]


def differentiated(net: CompiledNet, nodes: Sequence[Node], variables: Any, inputs: Any, rng: Any = None) -> Any:
    """Outputs, new state, and gradients of a weighted sum of all outputs by the parameters, run as ``nodes``."""

    def run(params: Any) -> Any:
        found, state = execute(net, make_program(nodes), {**variables, "params": params}, read_inputs(net, inputs), rng)
        tops = {name: found[net.graph.blobs[name]].astype(net.dtype) for name in net.outputs}
        weighted = ((top * (1.5 + jnp.cos(jnp.arange(top.size).reshape(top.shape)))).sum() for top in tops.values())
        return sum(weighted), (tops, state)

    (_, (tops, state)), gradients = jax.value_and_grad(run, has_aux=True)(variables["params"])
    return tops, state, gradients


def every_equation(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, and of the programs in it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner)


def operations(jaxpr: Any) -> list[str]:
    """Names of the primitives of a program, those of inner programs too."""
    return [equation.primitive.name for equation in every_equation(jaxpr)]


def quickly(function: Any) -> Any:
    """The function's result, compiled in little time."""
    return jax.jit(function, compiler_options={
        "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})()


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    """Within so much of each array's largest value."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
