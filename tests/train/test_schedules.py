"""Learning rate policies against their formulas."""

from __future__ import annotations

import math

import jax
import pytest

from jaffe.netdef.text import read_solver
from jaffe.train import learning_rate

AT = (0, 1, 3, 4, 5, 9, 10, 11, 99)

CASES = {
    "lr_policy: 'fixed'": lambda t: 0.1,
    "lr_policy: 'step' gamma: 0.5 stepsize: 5": lambda t: 0.1 * 0.5 ** (t // 5),
    "lr_policy: 'exp' gamma: 0.9": lambda t: 0.1 * 0.9**t,
    "lr_policy: 'inv' gamma: 0.01 power: 0.75": lambda t: 0.1 * (1 + 0.01 * t) ** -0.75,
    "lr_policy: 'multistep' gamma: 0.1 stepvalue: 5 stepvalue: 10": lambda t: 0.1 * 0.1 ** ((t >= 5) + (t >= 10)),
    "lr_policy: 'multistep' gamma: 0.1 stepvalue: 4 stepvalue: 4": lambda t: 0.1 * 0.1 ** ((t >= 4) + (t >= 5)),
    "lr_policy: 'poly' power: 2 max_iter: 100": lambda t: 0.1 * (1 - t / 100) ** 2,
    "lr_policy: 'sigmoid' gamma: 0.3 stepsize: 10": lambda t: 0.1 / (1 + math.exp(-0.3 * (t - 10))),
    "lr_policy: 'cosine' max_iter: 100": lambda t: 0.1 * (1 + math.cos(math.pi * t / 100)) / 2,
    "lr_policy: 'fixed' warmup_iter: 10": lambda t: 0.1 * min(1, (t + 1) / 10),
    "lr_policy: 'step' gamma: 0.5 stepsize: 5 warmup_iter: 4": lambda t: 0.1 * 0.5 ** (t // 5) * min(1, (t + 1) / 4),
    "lr_policy: 'cosine' max_iter: 100 warmup_iter: 9":
        lambda t: 0.1 * min(1, (t + 1) / 9) * (1 + math.cos(math.pi * max(t - 9, 0) / 91)) / 2,
}


@pytest.mark.parametrize("text", CASES)
def test_policy(text):
    schedule = learning_rate(read_solver(f"base_lr: 0.1 {text}"))
    for t in AT:
        for rate in (schedule(t), jax.jit(schedule)(t)):
            # Rates are float32: powers of 0.9 and 1 - t / max_iter near the end lose a digit; 1 + cos near
            # pi is off by 6e-8, times base_lr / 2.
            assert float(rate) == pytest.approx(CASES[text](t), rel=1e-5, abs=3e-9)
