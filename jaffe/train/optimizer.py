"""Caffe's updates as optax chains, in Caffe's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaffe.compile.net import CompiledNet
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.schedules import learning_rate

Labels = dict[str, dict[str, float]]


def make_optimizer(solver: SolverParameter, net: CompiledNet) -> optax.GradientTransformation:
    """The update of ``solver.type``. Expects the *sum* of the gradients of ``iter_size`` passes.

    In order: clip by the global norm of the raw sum; divide by iter_size; add weight decay, L2 ``lambda w`` or
    L1 ``lambda sign(w)``, times each parameter's decay_mult; the type's own step, with the learning rate times each
    parameter's lr_mult; subtract. SGD and Nesterov multiply by the rate first, so that their momentum holds it; the
    others do so last. Source: Caffe 1.0, ``solvers/*.cpp``.
    """
    lr_mult, decay_mult = multipliers(net)
    decay = _l1 if solver.regularization_type == "L1" else optax.add_decayed_weights
    steps = []
    if solver.clip_gradients >= 0:
        steps.append(optax.clip_by_global_norm(solver.clip_gradients))
    if solver.iter_size > 1:
        steps.append(optax.scale(1 / solver.iter_size))
    if solver.weight_decay:
        steps.append(_per_value(decay_mult, lambda mult: decay(solver.weight_decay * mult), neutral=0))
    rate = [optax.scale_by_schedule(learning_rate(solver)), _per_value(lr_mult, optax.scale, neutral=1)]
    own = UPDATES[solver.type](solver)
    steps += [*rate, *own] if solver.type in ("SGD", "Nesterov") else [*own, *rate]
    return optax.chain(*steps, optax.scale(-1))


def _momentum(solver: SolverParameter, nesterov: bool) -> list[optax.GradientTransformation]:
    """``V' = mu V + r g``; SGD takes V', Nesterov ``r g + mu V'``, which is Caffe's ``(1 + mu) V' - mu V``."""
    return [optax.trace(solver.momentum, nesterov=nesterov)] if solver.momentum else []


# Each type's own step.
UPDATES: dict[str, Callable[[SolverParameter], list[optax.GradientTransformation]]] = {
    "SGD": lambda solver: _momentum(solver, nesterov=False),
    "Nesterov": lambda solver: _momentum(solver, nesterov=True),
    "AdaGrad": lambda solver: [scale_by_sum_of_squares(solver.delta)],
    "RMSProp": lambda solver: [optax.scale_by_rms(solver.rms_decay, solver.delta, eps_in_sqrt=False)],
    "AdaDelta": lambda solver: [optax.scale_by_adadelta(solver.momentum, solver.delta)],
    "Adam": lambda solver: [scale_by_caffe_adam(solver.momentum, solver.momentum2, solver.delta)],
}


class SumOfSquares(NamedTuple):
    """AdaGrad's state: H, shaped as the parameters."""

    total: Any


def scale_by_sum_of_squares(eps: float) -> optax.GradientTransformation:
    """AdaGrad: ``H += g^2``, ``g / (sqrt(H) + eps)``. (optax's puts eps inside the root.)"""

    def init(params: Any) -> SumOfSquares:
        return SumOfSquares(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: SumOfSquares, params: Any = None) -> tuple[Any, SumOfSquares]:
        total = jax.tree.map(lambda h, g: h + g * g, state.total, updates)
        return jax.tree.map(lambda g, h: g / (jnp.sqrt(h) + eps), updates, total), SumOfSquares(total)

    return optax.GradientTransformation(init, update)


def scale_by_caffe_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as Caffe has it: ``sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``.

    eps is added to the uncorrected root ("epsilon hat" of Kingma and Ba 2015); optax adds it to the corrected one.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        step = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return step, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def multipliers(net: CompiledNet) -> tuple[Labels, Labels]:
    """lr_mult and decay_mult of every parameter, shaped as the variables' ``"params"``."""
    lr: Labels = {}
    decay: Labels = {}
    for node, owned in ((node.name, net.inferred.owned(node.name)) for node in net.graph.nodes):
        for stored in owned:
            if stored.weight.trained:
                lr.setdefault(node, {})[stored.weight.name] = stored.lr_mult
                decay.setdefault(node, {})[stored.weight.name] = stored.decay_mult
    return lr, decay


def _per_value(
    labels: Labels, make: Callable[[float], optax.GradientTransformation], neutral: float
) -> optax.GradientTransformation:
    """One transformation for each distinct multiplier, on the parameters that have it."""
    values = sorted({value for layer in labels.values() for value in layer.values()} - {neutral})

    def mask(value: float) -> Any:
        return {layer: {name: one == value for name, one in group.items()} for layer, group in labels.items()}

    return optax.chain(optax.identity(), *(optax.masked(make(value), mask(value)) for value in values))


def _l1(weight: float) -> optax.GradientTransformation:
    """Adds ``weight * sign(w)``, which optax does not have; sign(0) is 0."""
    return optax.stateless_with_tree_map(lambda g, w: g + weight * jnp.sign(w))
