"""Compiles a training step for several virtual devices: bytes that a plan predicts, and those that the program sends.

    python -m benchmarks.scaling_worker caffenet 8 --model-parallel 8 --arguments '{"batch": 16}'

A process of its own, since JAX takes the number of its devices once. Nothing runs: shapes are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any


def compiled_step(spec: Any, devices: int, partition: Any) -> str:
    """The text of a compiled step: gradients, averaged as a plan has it, and SGD."""
    import jax
    from jax import lax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaffe import compile_net

    size = partition.size if partition else 1
    axes = ("data", "model")
    mesh = jax.make_mesh((devices // size, size), axes, axis_types=(AxisType.Auto,) * 2)
    net = compile_net(spec, phase="TRAIN", partition=partition)
    variables = jax.eval_shape(net.init, jax.random.key(0))

    def weight_spec(layer: str, name: str) -> P:
        axis = partition.weight_axis(net.inferred.layers[layer], name) if partition else None
        return P() if axis is None else P(*[None] * axis, "model")

    def average(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        divided = weight_spec(path[0].key, path[1].key) != P()
        return lax.psum(gradient, "data" if divided else axes) / devices

    def step(params: Any, state: Any, inputs: Any, key: jax.Array) -> tuple[Any, Any]:
        gradients, (_, state) = jax.grad(lambda p: net.loss({"params": p, "state": state}, inputs, key),
                                         has_aux=True)(params)
        gradients = jax.tree_util.tree_map_with_path(average, gradients)
        carried = {layer: {weight.name for weight in own} for layer, own in net.inferred.carried.items()}
        state = {layer: {name: x if name in carried[layer] else lax.pmean(x, axes) for name, x in group.items()}
                 for layer, group in state.items()}
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), state

    each = P(axes)  # its own on every device, along the first axis
    params = {layer: {name: weight_spec(layer, name) for name in group} for layer, group in variables["params"].items()}
    specs = (params, each, each, P())
    whole = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (jax.eval_shape(lambda: jax.random.key(0)),)]
    stacked = jax.tree.map(lambda one: jax.ShapeDtypeStruct((devices * one.shape[0], *one.shape[1:]), one.dtype),
                           (variables["state"], dict(net.inputs)))
    arguments = (variables["params"], *stacked, *whole)
    run = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(params, each), check_vma=False)
    shardings = jax.tree.map(lambda one: NamedSharding(mesh, one), specs, is_leaf=lambda one: isinstance(one, P))
    return jax.jit(run, in_shardings=shardings).lower(*arguments).compile().as_text() or ""


def compared(name: str, devices: int, model: int | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Bytes that a device sends in a step of a net of the zoo, by kind of collective: predicted, and compiled."""
    from jaffe import compile_net, zoo
    from jaffe.plan import collectives, plan

    spec = getattr(zoo, name)(**arguments)
    planned = plan(compile_net(spec, phase="TRAIN"), devices, model_parallel=model)
    found: dict[str, float] = {}
    for one in collectives(compiled_step(spec, devices, planned.partition)):
        found[one.kind] = found.get(one.kind, 0) + one.sent
    layers = dict(planned.partition.layers) if planned.partition else {}
    return {"model": planned.model, "layers": layers, "predicted": dict(planned.sent), "compiled": found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", help="of jaffe.zoo")
    parser.add_argument("devices", type=int)
    parser.add_argument("--model-parallel", type=int)
    parser.add_argument("--arguments", default="{}", help="of the net's function, as JSON")
    options = parser.parse_args(arguments)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    print(json.dumps(compared(options.net, options.devices, options.model_parallel, json.loads(options.arguments))))


if __name__ == "__main__":
    main()
