"""Train a net on every device at once: data parallel with pmap. Copy it and change what you need.

    python examples/train_multi_gpu.py                                   # the UCI digits, all devices
    python examples/train_multi_gpu.py --devices 4 --scaling strong --sync-bn
    python examples/train_multi_gpu.py --output run                      # snapshots; later, on any number of devices:
    python examples/train_multi_gpu.py --output run --resume --iterations 600
    XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/train_multi_gpu.py   # four virtual CPUs

As in Caffe, every device takes a batch of its own (weak scaling) and gradients are averaged: with 4 devices and
--batch 16 an iteration sees 64 images. The learning rate is not rescaled. With --scaling strong the devices divide
--batch. BatchNorm normalises by each device's own batch, with --sync-bn by all of them as one; its moving statistics
are averaged. With --scaling strong --sync-bn --dropout 0 any number of devices computes the same, but for rounding.

One process, its own devices. `jaffe train --device all`, or jaffe.Solver(parallel=jaffe.Parallel()), does all this
for any net and solver; this script shows how, for loops of your own.
"""

from __future__ import annotations

import argparse
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import jax_utils
from flax.training import train_state
from jax import lax
from sklearn.datasets import load_digits

import jaffe
from jaffe import L

Arrays = dict[str, np.ndarray]


class TrainState(train_state.TrainState):
    """Flax's, with what the net itself carries on: BatchNorm's moving statistics."""

    net_state: Any


def digits_net(dropout: float) -> jaffe.NetSpec:
    """Two convolutions with BatchNorm, for images of 8x8; Dropout before the last layer."""
    n = jaffe.NetSpec("digits")
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[1, 1, 8, 8]), dict(dim=[1])])
    x = n.data
    for i, channels in enumerate((16, 32), 1):
        n[f"conv{i}"] = x = L.Convolution(x, num_output=channels, kernel_size=3, pad=1, bias_term=False,
                                          weight_filler=dict(type="msra"))
        n[f"bn{i}"] = x = L.BatchNorm(x, moving_average_fraction=0.95, in_place=True)
        n[f"scale{i}"] = x = L.Scale(x, bias_term=True, in_place=True)
        n[f"relu{i}"] = x = L.ReLU(x, in_place=True)
        n[f"pool{i}"] = x = L.Pooling(x, pool="MAX", kernel_size=2, stride=2)
    if dropout:
        n.drop = x = L.Dropout(x, dropout_ratio=dropout)
    n.scores = L.InnerProduct(x, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.scores, n.label)
    n.accuracy = L.Accuracy(n.scores, n.label, include=dict(phase="TEST"))
    return n


def make_step(net: jaffe.CompiledNet, devices: Sequence[jax.Device], seed: int):
    """One update on all devices: ``(replicated state, divided batch) -> (state, loss)``, the state donated."""

    def step(state: TrainState, inputs: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, lax.axis_index("devices"))  # else all would drop the same units

        def loss_of(params: Any):
            return net.loss({"params": params, "state": state.net_state}, inputs, key)

        (loss, (_, net_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        # The state too, or replicas would drift apart.
        gradients, net_state, loss = lax.pmean((gradients, net_state, loss), "devices")
        return state.apply_gradients(grads=gradients, net_state=net_state), loss

    return jax.pmap(step, axis_name="devices", devices=devices, donate_argnums=0)


def first(tree: Any) -> Any:
    """What the first device has, as arrays of its own: the next step may take the state's."""
    # Not jax_utils.unreplicate: with a single device it leaves the leading axis in place.
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


@functools.lru_cache(maxsize=2)
def shuffled(items: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(items)


def batches(data: Arrays, size: int, start: int, stop: int, seed: int) -> Iterator[Arrays]:
    """The batches of iterations: shuffled epochs without end. They depend on the iteration alone: runs can resume."""
    items = len(data["label"])
    for i in range(start, stop):
        places = (divmod(place, items) for place in range(i * size, (i + 1) * size))
        rows = [shuffled(items, seed, epoch)[place] for epoch, place in places]
        yield {name: array[rows] for name, array in data.items()}


def train(
    net: jaffe.CompiledNet, state: TrainState, data: Arrays, *, devices: Sequence[jax.Device], iterations: int,
    every: int, seed: int = 0,
) -> Iterator[tuple[TrainState, float]]:
    """Train on; every so often, and at the end, yield the state of one replica and the mean loss since the last time.

    Args:
        net: compiled for the batch of one device.
        state: of one device. Training goes on from ``state.step`` to ``iterations``.
    """
    step, start, count = make_step(net, devices, seed), int(state.step), len(devices)
    size = count * net.inputs["label"].shape[0]
    divided = ({name: array.reshape(count, -1, *array.shape[1:]) for name, array in batch.items()}
               for batch in batches(data, size, start, iterations, seed))
    state = jax_utils.replicate(state, devices)
    losses = []
    # Two batches are on the devices, or on their way, ahead of the one being computed.
    for i, inputs in enumerate(jax_utils.prefetch_to_device(divided, 2, devices), start + 1):
        state, loss = step(state, inputs)
        losses.append(loss)
        # The host is one step ahead, not more: with many under way, XLA's CPU devices wait for each other for ever.
        jax.block_until_ready(losses[-2:-1])
        if i % every == 0 or i == iterations:
            yield first(state), float(np.mean([first(loss) for loss in losses]))
            losses = []


def main(argv: Sequence[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = functools.partial(arguments.add_argument, metavar="N", type=int)
    there = jax.local_device_count()
    add("--devices", default=there, help="how many (default: all)")
    add("--batch", default=16, help="images of each device, or with strong scaling of all (default: 16)")
    arguments.add_argument("--scaling", choices=("weak", "strong"), default="weak", help="default: weak")
    arguments.add_argument("--sync-bn", action="store_true", help="BatchNorm takes the batches of all devices as one")
    add("--dropout", type=float, metavar="RATIO", default=0.5, help="default: 0.5")
    add("--iterations", default=300, help="of the whole run (default: 300)")
    add("--snapshot", default=100, help="test, and with --output write a snapshot, every N iterations (default: 100)")
    arguments.add_argument("--output", metavar="FOLDER", type=Path, help="for snapshots; the last three are kept")
    arguments.add_argument("--resume", action="store_true", help="go on from the last snapshot in --output")
    add("--seed", default=0)
    options = arguments.parse_args(argv)
    devices, batch = jax.local_devices()[:options.devices], options.batch
    if not 1 <= options.devices <= there or min(batch, options.iterations, options.snapshot, options.seed + 1) < 1:
        arguments.error(f"expected --devices from 1 to {there}, and positive numbers")
    if not 0 <= options.dropout < 1:
        arguments.error(f"expected --dropout from 0 to below 1; found {options.dropout:g}")
    if options.scaling == "strong" and batch % len(devices):
        arguments.error(f"{len(devices)} devices cannot divide --batch {batch} evenly")
    if options.resume and not (options.output and options.output.is_dir()):
        arguments.error("--resume expects the folder of a run as --output")
    batch //= len(devices) if options.scaling == "strong" else 1

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    test = np.arange(len(images)) % 6 == 0
    data = {"data": images[~test], "label": labels[~test]}
    test_data = {"data": images[test], "label": labels[test]}

    spec = digits_net(options.dropout)
    net = jaffe.compile_net(spec, phase="TRAIN", batch=batch, axis_name="devices" if options.sync_bn else None)
    tester = jaffe.compile_net(spec, phase="TEST", batch=int(test.sum()))
    evaluate = jax.jit(lambda variables: tester.apply(variables, test_data)[0]["accuracy"])  # on one device
    variables = net.init(jax.random.key(options.seed))
    state = TrainState.create(apply_fn=None, params=variables["params"], tx=optax.sgd(0.02, momentum=0.9),
                              net_state=variables["state"])
    state = state.replace(step=jax.numpy.int32(0))  # orbax wants arrays only

    snapshots = None
    if options.output:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells of every save
        keep = ocp.CheckpointManagerOptions(max_to_keep=3)
        snapshots = ocp.CheckpointManager(options.output.absolute(), options=keep)
        last = snapshots.latest_step()
        if (last is not None) != options.resume:
            arguments.error(f"{options.output} has no snapshot to resume from" if options.resume else
                            f"{options.output} has snapshots; expected --resume or another folder")
        if options.resume:
            state = snapshots.restore(last, args=ocp.args.StandardRestore(state))
    if state.step >= options.iterations:
        arguments.error(f"the last snapshot is of iteration {state.step}; expected more --iterations")

    print(f"{len(devices)} x {devices[0].device_kind}, {batch} images each, from iteration {state.step}")
    began = time.perf_counter()
    for replica, loss in train(net, state, data, devices=devices, iterations=options.iterations,
                               every=options.snapshot, seed=options.seed):
        accuracy = evaluate({"params": replica.params, "state": replica.net_state})
        print(f"iteration {replica.step}: loss {loss:.4f}, test accuracy {accuracy:.2%}, "
              f"{time.perf_counter() - began:.1f} s", flush=True)
        if snapshots:
            snapshots.save(int(replica.step), args=ocp.args.StandardSave(replica))
    if snapshots:
        snapshots.close()  # waits until the last one is written


if __name__ == "__main__":
    main()
