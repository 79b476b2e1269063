"""Caffe's learning rate policies as optax schedules: functions of the iteration, counted from 0."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax

from jaffe.netdef.jaffe_pb2 import SolverParameter


def learning_rate(solver: SolverParameter) -> optax.Schedule:
    """The schedule that the solver's ``lr_policy`` names. Source: Caffe 1.0, ``sgd_solver.cpp``."""
    return POLICIES[solver.lr_policy](solver)


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


POLICIES: dict[str, Callable[[SolverParameter], optax.Schedule]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
