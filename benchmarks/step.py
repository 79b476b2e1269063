"""Training step of LeNet, batch 64: jaffe against the same net written plainly in Flax, and PyTorch where installed.

    python -m benchmarks.step [--rounds 5] [--steps 100]

Each framework runs in a process of its own, in turn, A B C A B C ..., since the machine's speed drifts and thread pools
in one process disturb each other. What counts is the median of the ratios within a round, and their spread.
A step is forward, backward and an SGD update with momentum, on one fixed batch that is on the device already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

BATCH = 64


def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((BATCH, 1, 28, 28), np.float32), random.integers(0, 10, BATCH)


def time_steps(step: Callable[[], object], wait: Callable[[object], object], steps: int) -> dict[str, float]:
    """Seconds until the first step is done, and milliseconds a step after that."""
    began = time.perf_counter()
    wait(step())
    first = time.perf_counter() - began
    for _ in range(10):
        wait(step())
    began = time.perf_counter()
    for _ in range(steps):
        last = step()
    wait(last)
    return {"first_s": first, "step_ms": 1e3 * (time.perf_counter() - began) / steps}


def run_jaffe(steps: int) -> dict[str, float]:
    import jax

    import jaffe
    from jaffe import zoo

    images, labels = batch()
    solver = jaffe.Solver(net=zoo.lenet(), data={"data": images, "label": labels}, base_lr=0.01, momentum=0.9,
                          weight_decay=0.0005, lr_policy="fixed", random_seed=0)
    chosen = (jax.numpy.arange(BATCH),)

    def step() -> object:
        solver.state, metrics = solver._step(solver.state, solver.feed.resident, chosen)
        return metrics["loss"]

    return time_steps(step, jax.block_until_ready, steps)


def run_flax(steps: int) -> dict[str, float]:
    import jax
    import optax
    from flax import linen as nn

    class LeNet(nn.Module):
        @nn.compact
        def __call__(self, x):  # NHWC, as Flax's users write it
            x = nn.max_pool(nn.Conv(20, (5, 5), padding="VALID")(x), (2, 2), (2, 2))
            x = nn.max_pool(nn.Conv(50, (5, 5), padding="VALID")(x), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(500)(x.reshape(x.shape[0], -1)))
            return nn.Dense(10)(x)

    images, labels = batch()
    x, y = jax.numpy.asarray(images.transpose(0, 2, 3, 1)), jax.numpy.asarray(labels)
    model, optimizer = LeNet(), optax.chain(optax.add_decayed_weights(0.0005), optax.sgd(0.01, momentum=0.9))
    params = model.init(jax.random.key(0), x)
    state = [params, optimizer.init(params)]

    @jax.jit
    def update(params, opt_state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def step() -> object:
        state[0], state[1], value = update(*state, x, y)
        return value

    return time_steps(step, jax.block_until_ready, steps)


def run_torch(steps: int) -> dict[str, float]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    images, labels = batch()
    net = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    ).to(memory_format=torch.channels_last)
    x = torch.from_numpy(images).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return time_steps(step, lambda loss: loss, steps)


WORKERS = {"jaffe": run_jaffe, "flax": run_flax, "torch": run_torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.steps)))
        return
    names = [name for name in WORKERS if name != "torch" or find_spec("torch")]
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(options.rounds):
        rounds.append({})
        for name in names:
            command = [sys.executable, "-m", "benchmarks.step", "--worker", name, "--steps", str(options.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rounds[-1][name] = json.loads(done.stdout.splitlines()[-1])
    print(f"LeNet, batch {BATCH}, {options.rounds} rounds of {options.steps} steps; medians")
    for name in names:
        times = [one[name]["step_ms"] for one in rounds]
        first = statistics.median(one[name]["first_s"] for one in rounds)
        line = f"{name:6} {statistics.median(times):8.2f} ms a step ({min(times):.2f} to {max(times):.2f}), "
        line += f"first step {first:.2f} s"
        if name != "jaffe":
            ratios = [one[name]["step_ms"] / one["jaffe"]["step_ms"] for one in rounds]
            line += f"; jaffe is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


if __name__ == "__main__":
    main()
