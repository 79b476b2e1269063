"""Flax: a net of ``flax_nets`` and a step as its examples write it: ``TrainState``, optax, one jitted function."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state

from benchmarks.flax_nets import NETS
from benchmarks.jax_common import any_weights, count, device, peak_bytes
from benchmarks.job import Job, Stopwatch, Task
from benchmarks.nets import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY


class State(train_state.TrainState):
    batch_stats: Any


def prepare(task: Task) -> Job:
    built, drawn = Stopwatch(), Stopwatch()
    data, label = task.data()
    x = jnp.asarray(data if data.ndim == 2 else data.transpose(0, 2, 3, 1))
    y = jnp.asarray(label)
    with built:
        model = NETS[task.net](dtype=jnp.dtype(task.precision))
        init = jax.jit(partial(model.init, train=task.mode == "train"))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with drawn:
        if task.mode == "train":
            variables = jax.block_until_ready(init(keys, x))
        else:
            variables = any_weights(jax.eval_shape(init, keys, x))
    params = count(variables["params"])
    with built:
        if task.mode == "infer":
            apply = jax.jit(lambda variables, x: nn.softmax(model.apply(variables, x, train=False)))
            return Job(partial(apply, variables, x), jax.block_until_ready, params, built, drawn, device(), peak_bytes)
        optimizer = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, MOMENTUM))
        state = State.create(apply_fn=model.apply, params=variables["params"], tx=optimizer,
                             batch_stats=variables.get("batch_stats", {}))
    del variables

    @partial(jax.jit, donate_argnums=0)
    def update(state: State, x: jax.Array, y: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            outputs, new = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats}, x, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(key, state.step)},
            )
            scores, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
            return cross_entropy(scores, y) + sum(0.3 * cross_entropy(head, y) for head in heads), new

        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=new.get("batch_stats", {})), value

    def step() -> jax.Array:
        nonlocal state
        state, value = update(state, x, y, keys["dropout"])
        return value

    return Job(step, jax.block_until_ready, params, built, drawn, device(), peak_bytes)


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores.astype(jnp.float32), labels).mean()
