"""jaffe: a net of the zoo, and the step that ``jaffe.Solver`` runs, on a batch that is on the device already."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.jax_common import any_weights, count, device, matmul_ms, peak_bytes
from benchmarks.job import Job, Stopwatch, Task
from benchmarks.nets import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from jaffe import compile_net, zoo
from jaffe.netdef import SolverParameter
from jaffe.netdef.deploy import deploy
from jaffe.train.optimizer import make_optimizer
from jaffe.train.step import begin, make_train_step

SOLVER = SolverParameter(type="SGD", base_lr=LEARNING_RATE, lr_policy="fixed", momentum=MOMENTUM,
                         weight_decay=WEIGHT_DECAY)


def prepare(task: Task) -> Job:
    """The net, to infer as ``deploy`` makes it: without losses and labels."""
    built, drawn = Stopwatch(), Stopwatch()
    data, label = task.data()
    spec = getattr(zoo, task.net)(batch=task.batch)
    with built:
        if task.mode == "infer":
            spec = deploy(spec, batch=task.batch)
        net = compile_net(spec, phase="TRAIN" if task.mode == "train" else "TEST", inputs={"data": data.shape},
                          precision=task.precision)
    # An LSTM goes on where the batch before ended, as in Caffe.
    values = {"data": data, "label": label, "cont": jnp.ones(data.shape[:2])}
    inputs = {name: jnp.asarray(values[name], jnp.float32) for name in net.inputs}
    with drawn:
        if task.mode == "train":
            variables = jax.block_until_ready(net.init(jax.random.key(0)))
        else:
            variables = any_weights(jax.eval_shape(net.init, jax.random.key(0)))
    params = count(variables["params"])
    with built:
        if task.mode == "infer":
            apply = jax.jit(lambda variables, inputs: net.apply(variables, inputs)[0])
            return Job(partial(apply, variables, inputs), jax.block_until_ready, params, built, drawn, device(),
                       peak_bytes)
        optimizer = make_optimizer(SOLVER, net)
        update = jax.jit(make_train_step(net, optimizer, lambda resident, batch, key: batch), donate_argnums=0)
        state = begin(variables, optimizer, jax.random.key(1))
    del variables

    def step() -> jax.Array:
        nonlocal state
        state, metrics = update(state, None, inputs)
        return metrics["loss"]

    flops = net.cost().flops + net.cost().backward_flops
    return Job(step, jax.block_until_ready, params, built, drawn, device(), peak_bytes,
               lambda: matmul_ms(flops, task.precision))
