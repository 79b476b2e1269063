"""Learning rate policies, Caffe's and a cosine, as optax schedules: functions of the iteration, counted from 0."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax

from jaffe.netdef.jaffe_pb2 import SolverParameter


def learning_rate(solver: SolverParameter) -> optax.Schedule:
    """The schedule that the solver's ``lr_policy`` names. Source: Caffe 1.0, ``sgd_solver.cpp``.

    With ``warmup_iter: w`` it is multiplied by ``min(1, (t + 1) / w)`` (Goyal et al. 2017).
    """
    policy = POLICIES[solver.lr_policy](solver)
    if not solver.warmup_iter:
        return policy
    return lambda t: policy(t) * jnp.minimum(1, (t + 1) / solver.warmup_iter)


def _fixed(s: SolverParameter) -> optax.Schedule:
    """base_lr."""
    return optax.constant_schedule(s.base_lr)


def _step(s: SolverParameter) -> optax.Schedule:
    """base_lr * gamma^floor(t / stepsize)."""
    return lambda t: s.base_lr * jnp.float32(s.gamma) ** (t // s.stepsize)


def _exp(s: SolverParameter) -> optax.Schedule:
    """base_lr * gamma^t."""
    return lambda t: s.base_lr * jnp.float32(s.gamma) ** t


def _inv(s: SolverParameter) -> optax.Schedule:
    """base_lr * (1 + gamma t)^-power."""
    return lambda t: s.base_lr * jnp.power(1 + s.gamma * t, -s.power)


def _multistep(s: SolverParameter) -> optax.Schedule:
    """base_lr * gamma^k; k grows by one, at most once an iteration, when t reaches stepvalue[k]."""
    steps: list[int] = []
    for value in s.stepvalue:
        steps.append(max(value, steps[-1] + 1) if steps else value)
    return optax.piecewise_constant_schedule(s.base_lr, dict.fromkeys(steps, s.gamma))


def _poly(s: SolverParameter) -> optax.Schedule:
    """base_lr * (1 - t / max_iter)^power; 0 from max_iter on."""
    return optax.polynomial_schedule(s.base_lr, 0.0, s.power, max(s.max_iter, 1))


def _sigmoid(s: SolverParameter) -> optax.Schedule:
    """base_lr / (1 + exp(-gamma (t - stepsize)))."""
    return lambda t: s.base_lr / (1 + jnp.exp(-s.gamma * (t - jnp.float32(s.stepsize))))


def _cosine(s: SolverParameter) -> optax.Schedule:
    """base_lr * (1 + cos(pi t / T)) / 2 over the T = max_iter - warmup_iter iterations after the warm-up, then 0.

    Source: Loshchilov and Hutter 2017, without restarts. jaffe's own.
    """
    rest = max(s.max_iter - s.warmup_iter, 1)
    decay = optax.cosine_decay_schedule(s.base_lr, rest)
    return lambda t: decay(jnp.maximum(t - s.warmup_iter, 0))


POLICIES: dict[str, Callable[[SolverParameter], optax.Schedule]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "cosine": _cosine,
}
