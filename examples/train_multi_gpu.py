"""Train a jaffe net on every device at once: data parallel with pmap. Copy it and change what you need.

    python examples/train_multi_gpu.py                          # LeNet on the UCI digits, all devices
    python examples/train_multi_gpu.py --devices 4 --batch 32
    XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/train_multi_gpu.py   # four virtual CPUs

As in Caffe, every device takes a batch of its own and gradients are averaged: with 4 devices and --batch 16 an
iteration sees 64 images. The learning rate is not rescaled. BatchNorm's statistics, where a net has them, are those
of each device's own batch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import numpy as np
import optax
from flax import jax_utils
from flax.training.train_state import TrainState
from jax import lax

import jaffe
from jaffe import zoo


def make_step(net: jaffe.CompiledNet, optimizer: optax.GradientTransformation):
    """One update on all devices: ``(replicated state, sharded batch, keys) -> (state, loss)``, state donated."""

    def step(state: TrainState, inputs: dict[str, jax.Array], key: jax.Array):
        def loss(params: Any):
            return net.loss({"params": params, "state": {}}, inputs, key)

        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradients = lax.pmean(gradients, "devices")
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), lax.pmean(value, "devices")

    return jax.pmap(step, axis_name="devices", donate_argnums=0)


def train(
    net: jaffe.CompiledNet,
    optimizer: optax.GradientTransformation,
    params: Any,
    data: dict[str, np.ndarray],
    *,
    iterations: int,
    devices: int,
    seed: int = 0,
) -> tuple[Any, list[float]]:
    """Train and return the parameters and the loss of each iteration.

    Args:
        net: compiled for the batch of one device, without state (BatchNorm).
        data: arrays by input name, (items, ...); taken in shuffled order, without end.
        devices: the first so many of ``jax.devices()``.
    """
    batch = devices * next(iter(net.inputs.values())).shape[0]
    state = TrainState(step=0, apply_fn=None, params=params, tx=optimizer, opt_state=optimizer.init(params))
    state = jax_utils.replicate(state, jax.devices()[:devices])
    step = make_step(net, optimizer)
    order = np.random.default_rng(seed)
    items = len(next(iter(data.values())))
    queue = np.concatenate([order.permutation(items) for _ in range(iterations * batch // items + 1)])

    def batches():
        for i in range(iterations):
            chosen = queue[i * batch : (i + 1) * batch]
            yield {name: array[chosen].reshape(devices, -1, *array.shape[1:]) for name, array in data.items()}

    losses = []
    keys = jax.random.split(jax.random.key(seed), iterations * devices).reshape(iterations, devices)
    # Two batches are on the devices ahead of the one being computed.
    for i, inputs in enumerate(jax_utils.prefetch_to_device(batches(), 2, jax.devices()[:devices])):
        state, loss = step(state, inputs, keys[i])
        losses.append(loss)  # still on the devices: nothing waits here
    # Not jax_utils.unreplicate: with a single device it leaves the leading axis in place.
    params = jax.tree.map(lambda copies: copies[0], jax.device_get(state.params))
    return params, [float(loss[0]) for loss in losses]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--devices", type=int, default=jax.local_device_count(), help="how many (default: all)")
    arguments.add_argument("--batch", type=int, default=16, help="images on each device (default: 16)")
    arguments.add_argument("--iterations", type=int, default=300)
    options = arguments.parse_args()
    if not 1 <= options.devices <= jax.local_device_count() or options.iterations < 1 or options.batch < 1:
        arguments.error(f"expected --devices from 1 to {jax.local_device_count()}, and positive numbers")

    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.asarray(jax.image.resize(images.reshape(-1, 1, 8, 8) / 16, (len(images), 1, 28, 28), "bilinear"))
    test = np.arange(len(images)) % 6 == 0
    data = {"data": images[~test], "label": labels[~test].astype(np.float32)}

    net = jaffe.compile_net(zoo.lenet(), phase="TRAIN", batch=options.batch)
    params = net.init(jax.random.key(0))["params"]
    print(f"{options.devices} x {jax.devices()[0].device_kind}, {options.batch} images each")
    began = time.perf_counter()
    params, losses = train(net, optax.sgd(0.02, momentum=0.9), params, data, iterations=options.iterations,
                           devices=options.devices)
    seconds = time.perf_counter() - began
    print(f"loss {np.mean(losses[:10]):.3f} -> {np.mean(losses[-10:]):.3f}; {options.iterations} iterations in "
          f"{seconds:.1f} s, compiling included")

    tester = jaffe.compile_net(zoo.lenet(), phase="TEST", batch=int(test.sum()))
    outputs, _ = tester.apply({"params": params, "state": {}}, {"data": images[test], "label": labels[test]})
    print(f"test accuracy {float(outputs['accuracy']):.2%}")


if __name__ == "__main__":
    main()
