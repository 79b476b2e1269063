"""The example for several devices, on four virtual CPU devices, against one device with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT

COMPARE = """
import jax, numpy as np, optax, sys
sys.path.insert(0, "examples")
import jaffe
from jaffe import zoo
from train_multi_gpu import train

assert jax.device_count() == 4
random = np.random.default_rng(0)
data = {"data": random.random((64, 1, 28, 28), np.float32), "label": random.integers(0, 10, 64).astype(np.float32)}
optimizer = optax.sgd(0.05, momentum=0.9)
results = []
for devices, batch in ((1, 32), (4, 8)):
    net = jaffe.compile_net(zoo.lenet(), phase="TRAIN", batch=batch)
    params = net.init(jax.random.key(0))["params"]
    results.append(train(net, optimizer, params, data, iterations=6, devices=devices))
(one, one_losses), (four, four_losses) = results
np.testing.assert_allclose(four_losses, one_losses, rtol=1e-5)
assert four_losses[-1] != four_losses[0]
for a, b in zip(jax.tree.leaves(four), jax.tree.leaves(one), strict=True):
    # float32 gradients averaged in another order, over six steps
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(np.asarray(b)).max())
print("equal")
"""


def run(*arguments: str) -> str:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-W", "error", *arguments], env=environment, cwd=ROOT, capture_output=True,
                          text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_four_devices_are_one():
    assert run("-c", COMPARE).strip() == "equal"


def test_the_script():
    output = run("examples/train_multi_gpu.py", "--iterations", "60")
    assert "4 x cpu, 16 images each" in output
    assert float(output.split("test accuracy ")[1].rstrip("%\n")) > 90
