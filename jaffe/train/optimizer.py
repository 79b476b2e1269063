"""Caffe's update as an optax chain, in Caffe's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaffe.compile.net import CompiledNet
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.schedules import learning_rate

Labels = dict[str, dict[str, float]]


def make_optimizer(solver: SolverParameter, net: CompiledNet) -> optax.GradientTransformation:
    """SGD with momentum. Expects the *sum* of the gradients of ``iter_size`` passes.

    In order: clip by the global norm of the raw sum; divide by iter_size; add weight decay, L2 ``lambda w`` or
    L1 ``lambda sign(w)``, times each parameter's decay_mult; multiply by the learning rate and each parameter's
    lr_mult; momentum ``V = mu V + g`` (so that V holds the rate); subtract. Source: Caffe 1.0, ``sgd_solver.cpp``.
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
    steps.append(optax.scale_by_schedule(learning_rate(solver)))
    steps.append(_per_value(lr_mult, optax.scale, neutral=1))
    if solver.momentum:
        steps.append(optax.trace(solver.momentum))
    return optax.chain(*steps, optax.scale(-1))


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
