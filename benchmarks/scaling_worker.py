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
    """The text of the compiled step of ``jaffe train`` on a mesh, with momentum."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaffe import compile_net
    from jaffe.train.devices import Devices, Parallel
    from jaffe.train.spread import spread_train_step
    from jaffe.train.step import begin

    on = Devices(Parallel(devices, by="jit", model_parallel=partition.size if partition else 1))
    net = compile_net(spec, phase="TRAIN", partition=partition)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = jax.eval_shape(lambda key: begin(net.init(key), optimizer, key), jax.random.key(0))

    def whole(one: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=NamedSharding(on.mesh, spec))

    def rows(one: Any) -> jax.ShapeDtypeStruct:
        """One of each device, stacked."""
        return whole(jax.ShapeDtypeStruct((devices, *one.shape), one.dtype), on.rows)

    placed = jax.tree.map(lambda x, spec: rows(x) if spec == on.rows else whole(x, spec), state, on.layout(state, net))
    step: Any = spread_train_step(on, net, optimizer, lambda resident, batch, key: batch)
    batch = jax.tree.map(rows, dict(net.inputs)), rows(jax.ShapeDtypeStruct((2,), jnp.int32))
    return step.lower(placed, None, batch).compile().as_text()


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
