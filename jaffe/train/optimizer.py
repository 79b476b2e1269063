"""Caffe's updates as optax chains, in Caffe's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.net import CompiledNet
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.schedules import learning_rate

Multipliers = dict[str, dict[str, float]]


def make_optimizer(solver: SolverParameter, net: CompiledNet) -> optax.GradientTransformation:
    """The update of ``solver.type``. Expects the *sum* of the gradients of ``iter_size`` passes.

    In order: clip by the global norm of the raw sum; divide by iter_size; add weight decay, L2 ``lambda w`` or
    L1 ``lambda sign(w)``, times each parameter's decay_mult; the type's own step, with the learning rate times each
    parameter's lr_mult; subtract. SGD and Nesterov multiply by the rate first, so that their momentum holds it; the
    others do so last. Source: Caffe 1.0, ``solvers/*.cpp``.
    """
    lr_mult, decay_mult = multipliers(net)
    # Steps that are switched off stay in the chain: the state's structure depends on the type alone, so that a run
    # can go on with other settings.
    first = [
        clip_by_norm(solver.clip_gradients) if solver.clip_gradients >= 0 else optax.identity(),
        optax.scale(1 / solver.iter_size) if solver.iter_size > 1 else optax.identity(),
        _decay(solver.weight_decay, decay_mult, l1=solver.regularization_type == "L1"),
    ]
    rate = [optax.scale_by_schedule(learning_rate(solver)), _scale(lr_mult)]
    own = UPDATES[solver.type](solver)
    then = [*rate, own] if solver.type in ("SGD", "Nesterov") else [own, *rate]
    return optax.chain(*first, *then, optax.scale(-1))


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Scale all gradients together so that their norm is at most this. (optax's makes NaN of 0 at most 0.)"""

    def clip(updates: Any, params: Any) -> Any:
        norm = optax.tree.norm(updates)
        scale = jnp.where(norm > most, most / norm, 1)
        return jax.tree.map(lambda g: (scale * g).astype(g.dtype), updates)

    return optax.stateless(clip)


# Each type's own step.
# ``V' = mu V + r g``; SGD takes V', Nesterov ``r g + mu V'``, which is Caffe's ``(1 + mu) V' - mu V``.
UPDATES: dict[str, Callable[[SolverParameter], optax.GradientTransformation]] = {
    "SGD": lambda solver: optax.trace(solver.momentum),
    "Nesterov": lambda solver: optax.trace(solver.momentum, nesterov=True),
    "AdaGrad": lambda solver: scale_by_sum_of_squares(solver.delta),
    "RMSProp": lambda solver: optax.scale_by_rms(solver.rms_decay, solver.delta, eps_in_sqrt=False),
    "AdaDelta": lambda solver: optax.scale_by_adadelta(solver.momentum, solver.delta),
    "Adam": lambda solver: scale_by_caffe_adam(solver.momentum, solver.momentum2, solver.delta),
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
        correction = jnp.sqrt(_one_minus_power(b2, count)) / _one_minus_power(b1, count)
        step = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return step, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _one_minus_power(base: float, exponent: jax.Array) -> jax.Array:
    """``1 - base^exponent``, precise in float32 also where the power is near 1."""
    return -jnp.expm1(exponent * np.log(base)) if base else jnp.ones(())


def multipliers(net: CompiledNet) -> tuple[Multipliers, Multipliers]:
    """lr_mult and decay_mult of every parameter, shaped as the variables' ``"params"``."""
    lr: Multipliers = {}
    decay: Multipliers = {}
    for node, owned in ((node.name, net.inferred.owned(node.name)) for node in net.graph.nodes):
        for stored in owned:
            if stored.weight.trained:
                lr.setdefault(node, {})[stored.weight.name] = stored.lr_mult
                decay.setdefault(node, {})[stored.weight.name] = stored.decay_mult
    return lr, decay


def _decay(weight_decay: float, multipliers: Multipliers, *, l1: bool) -> optax.GradientTransformation:
    """Adds ``lambda mult w``, or ``lambda mult sign(w)`` with sign(0) = 0."""

    def one(g: jax.Array, w: jax.Array, mult: float) -> jax.Array:
        return g + weight_decay * mult * (jnp.sign(w) if l1 else w) if weight_decay * mult else g

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates, params, multipliers))


def _scale(multipliers: Multipliers) -> optax.GradientTransformation:
    """Multiplies each parameter's update by its own factor."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda g, mult: mult * g, updates, multipliers))
