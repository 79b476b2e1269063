"""jaffe: a net of the zoo, and the step that ``jaffe.Solver`` runs, on a batch that is on the device already."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.jax_common import any_weights, count, device, matmul_ms, peak_bytes
from benchmarks.job import Job, Stopwatch, Task
from benchmarks.nets import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from jaffe import CompiledNet, compile_net, zoo
from jaffe.netdef import SolverParameter
from jaffe.netdef.deploy import deploy
from jaffe.train.compilation import compiling
from jaffe.train.optimizer import make_optimizer
from jaffe.train.step import TrainState, begin, make_train_step

SOLVER = SolverParameter(type="SGD", base_lr=LEARNING_RATE, lr_policy="fixed", momentum=MOMENTUM,
                         weight_decay=WEIGHT_DECAY)


@dataclass(frozen=True)
class Training:
    """A net, its jitted step, and what that begins with."""

    net: CompiledNet
    update: Any
    state: TrainState
    inputs: dict[str, jax.Array]


def compiled(task: Task, built: Stopwatch) -> tuple[CompiledNet, dict[str, jax.Array]]:
    """The net, to infer as ``deploy`` makes it, without losses and labels; and its inputs, which are not timed."""
    data, label = task.data()
    spec = getattr(zoo, task.net)(batch=task.batch)
    with built:
        if task.mode == "infer":
            spec = deploy(spec, batch=task.batch)
        net = compile_net(spec, phase="TRAIN" if task.mode == "train" else "TEST", inputs={"data": data.shape},
                          precision=task.precision)
    # An LSTM goes on where the batch before ended, as in Caffe.
    values = {"data": data, "label": label, "cont": jnp.ones(data.shape[:2])}
    return net, {name: jnp.asarray(values[name], jnp.float32) for name in net.inputs}


def training(task: Task, built: Stopwatch, drawn: Stopwatch) -> Training:
    """What trains; how long it takes to make it, and to draw the weights, goes to the watches."""
    net, inputs = compiled(task, built)
    with drawn:
        variables = jax.block_until_ready(net.init(jax.random.key(0)))
    with built:
        optimizer = make_optimizer(SOLVER, net)
        update = jax.jit(make_train_step(net, optimizer, lambda resident, batch, key: batch), donate_argnums=0)
        return Training(net, update, begin(variables, optimizer, jax.random.key(1)), inputs)


def prepare(task: Task) -> Job:
    """What is timed."""
    built, drawn = Stopwatch(), Stopwatch()
    return (_training if task.mode == "train" else _inference)(task, built, drawn)


def _inference(task: Task, built: Stopwatch, drawn: Stopwatch) -> Job:
    net, inputs = compiled(task, built)
    with drawn:
        variables = any_weights(jax.eval_shape(net.init, jax.random.key(0)))
    apply = jax.jit(lambda variables, inputs: net.apply(variables, inputs)[0])
    return Job(partial(apply, variables, inputs), jax.block_until_ready, count(variables["params"]), built, drawn,
               device(), peak_bytes)


def _training(task: Task, built: Stopwatch, drawn: Stopwatch) -> Job:
    run = training(task, built, drawn)
    net, update, state, inputs = run.net, run.update, run.state, run.inputs
    del run  # whose state is given away by the first step
    compiled = False

    def step() -> jax.Array:
        nonlocal state, compiled
        with nullcontext() if compiled else compiling():  # as a solver's first step
            state, metrics = update(state, None, inputs)
        compiled = True
        return metrics["loss"]

    flops = net.cost().flops + net.cost().backward_flops
    return Job(step, jax.block_until_ready, count(state.params), built, drawn, device(), peak_bytes,
               lambda: matmul_ms(flops, task.precision))
