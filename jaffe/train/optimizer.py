"""Updates as optax chains: Caffe's, in Caffe's order, and some that came after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.schedules import learning_rate

Multipliers = dict[str, dict[str, float]]


def make_optimizer(solver: SolverParameter, net: CompiledNet) -> optax.GradientTransformation:
    """The update of ``solver.type``. Expects the *sum* of the gradients of ``iter_size`` passes.

    In order: clip by the global norm of the raw sum; divide by iter_size; then as ``UPDATES`` says: weight decay, L2
    ``lambda w`` or L1 ``lambda sign(w)``, times each parameter's decay_mult; the type's own step; the learning rate
    times each parameter's lr_mult; and subtract. Source: Caffe 1.0, ``solvers/*.cpp``, for its six types.
    """
    lr_mult, decay_mult = multipliers(net)
    # Steps that are switched off stay in the chain: the state's structure depends on the type alone, so that a run
    # can go on with other settings.
    decay = _decay(solver.weight_decay, decay_mult, l1=solver.regularization_type == "L1")
    rate = optax.chain(optax.scale_by_schedule(learning_rate(solver)), _scale(lr_mult))
    update = optax.chain(
        clip_by_norm(solver.clip_gradients) if solver.clip_gradients >= 0 else optax.identity(),
        optax.scale(1 / solver.iter_size) if solver.iter_size > 1 else optax.identity(),
        *UPDATES[solver.type](Parts(solver, decay, rate, decay_mult)),
        optax.scale(-1),
    )
    return Traced(*update) if solver.type in TRACED else update


class Traced(optax.GradientTransformationExtraArgs):
    """An optimiser whose new state is finite only if gradients and updates are: it adds the gradients up."""


def wrap_optimizer(
    optimizer: optax.GradientTransformation, net: CompiledNet, iter_size: int
) -> optax.GradientTransformationExtraArgs:
    """An optax optimiser of the caller's own, in place of Caffe's: it sees the mean of the gradients over ``iter_size``
    passes, and what it returns is multiplied by each parameter's lr_mult, so that what is frozen stays as it is.

    Raises:
        JaffeError: it is none, or needs more than gradients, parameters and the loss.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise JaffeError(f"optimizer is one of optax, such as optax.adam(1e-3); received {optimizer!r}")
    lr_mult, _ = multipliers(net)
    update = optax.with_extra_args_support(optimizer).update
    scalars = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), lr_mult)
    try:
        jax.eval_shape(lambda w: update(w, optimizer.init(w), w, value=jnp.float32(0)), scalars)
    except TypeError as error:  # a line search, which would run the net itself
        raise JaffeError(f"optimizer= gets gradients, parameters and the loss as value; this one needs more: {error}"
                         ) from None
    return optax.chain(optax.scale(1 / iter_size), optimizer, _scale(lr_mult))


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Scale all gradients together so that their norm is at most this. (optax's makes NaN of 0 at most 0.)"""

    def clip(updates: Any, params: Any) -> Any:
        norm = optax.tree.norm(updates)
        scale = jnp.where(norm > most, most / norm, 1)
        return jax.tree.map(lambda g: (scale * g).astype(g.dtype), updates)

    return optax.stateless(clip)


class Parts(NamedTuple):
    """What the updates are made of: the settings, and the steps that several types share."""

    solver: SolverParameter
    decay: optax.GradientTransformation
    rate: optax.GradientTransformation
    decay_mult: Multipliers

    def of(self, field: str, default: float) -> float:
        """A setting where Caffe's default (momentum 0) is not what the type's users expect."""
        return getattr(self.solver, field) if self.solver.HasField(field) else default

    def adam(self, eps: float) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.of("momentum", 0.9), self.of("momentum2", 0.999), self.of("delta", eps))

    def trust_ratio(self, coefficient: float) -> optax.GradientTransformation:
        """Layer-wise rates; weights without decay, which biases mostly are, keep theirs (You et al. 2017)."""
        ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
        return optax.masked(ratio, jax.tree.map(lambda mult: mult != 0, self.decay_mult))


# What each type does, in order. SGD and Nesterov have the rate inside their momentum: ``V' = mu V + r g``; SGD takes
# V', Nesterov ``r g + mu V'``, which is Caffe's ``(1 + mu) V' - mu V``. Caffe's types add weight decay to the gradient;
# AdamW, Lion (Chen et al. 2023) and LAMB (You et al. 2020) to the step, as optax has them.
UPDATES: dict[str, Callable[[Parts], Sequence[optax.GradientTransformation]]] = {
    "SGD": lambda p: (p.decay, p.rate, optax.trace(p.solver.momentum)),
    "Nesterov": lambda p: (p.decay, p.rate, optax.trace(p.solver.momentum, nesterov=True)),
    "AdaGrad": lambda p: (p.decay, scale_by_sum_of_squares(p.solver.delta), p.rate),
    "RMSProp": lambda p: (
        p.decay, optax.scale_by_rms(p.solver.rms_decay, p.solver.delta, eps_in_sqrt=False), p.rate),
    "AdaDelta": lambda p: (p.decay, optax.scale_by_adadelta(p.solver.momentum, p.solver.delta), p.rate),
    "Adam": lambda p: (
        p.decay, scale_by_caffe_adam(p.solver.momentum, p.solver.momentum2, p.solver.delta), p.rate),
    "AdamW": lambda p: (p.adam(1e-8), p.decay, p.rate),
    "Lion": lambda p: (optax.scale_by_lion(p.of("momentum", 0.9), p.of("momentum2", 0.99)), p.decay, p.rate),
    "LAMB": lambda p: (p.adam(1e-6), p.decay, p.trust_ratio(1.0), p.rate),
    "LARS": lambda p: (
        p.decay, p.trust_ratio(p.solver.trust_coefficient), p.rate, optax.trace(p.of("momentum", 0.9))),
}
TRACED = ("SGD", "Nesterov", "LARS")  # whose last step is the momentum


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
