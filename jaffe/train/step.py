"""One training iteration as one pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from jaffe.compile.net import CompiledNet
from jaffe.train.carry import apart, merged
from jaffe.train.optimizer import Traced

Fetch = Callable[[Any, Any, jax.Array], dict[str, jax.Array]]
Passes = Callable[[Any, Any, Any, Any, jax.Array], tuple[Any, Any, jax.Array, Any]]


@struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        iteration: updates made so far, a scalar.
        params: the net's ``"params"``.
        net_state: the net's ``"state"``.
        opt_state: of the optax chain.
        key: of the whole run; iteration i uses ``fold_in(key, i)``.
        finite: whether all losses, gradients and updates were finite. Once one was not, steps change ``opt_state``
            alone: the rest stays as it was before that iteration.
        ema: moving average of ``params``, or ``None``.
    """

    iteration: jax.Array
    params: Any
    net_state: Any
    opt_state: Any
    key: jax.Array
    finite: jax.Array
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What is trained."""
        return {"params": self.params, "state": self.net_state}

    @property
    def tested(self) -> dict[str, Any]:
        """What is tested and used: with the averaged parameters, where there are such."""
        return {"params": self.params if self.ema is None else self.ema, "state": self.net_state}


def begin(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, key: jax.Array, iteration: int = 0,
    *, averaged: bool = False, place: Callable[[Any], Any] | None = None,
) -> TrainState:
    """The state before an update, without momentum. The optimiser's counts are those of the iteration.

    Args:
        key: of the whole run.
        averaged: whether it has an average of the parameters, which begins as they are.
        place: says of what the optimiser keeps where it is to be, as ``jax.jit`` has it.
    """

    def fresh(params: Any) -> Any:
        opt_state = optimizer.init(params)
        if any(is_field(*found) for found in optax.tree.get_all_with_path(opt_state, "count")):
            opt_state = optax.tree.set(opt_state, is_field, count=jnp.int32(iteration))
        return opt_state

    # One program, not one for each shape; and several counts are an array each, to be donated.
    where = None if place is None else place(jax.eval_shape(fresh, variables["params"]))
    opt_state = jax.jit(fresh, out_shardings=where)(variables["params"])
    ema = jax.tree.map(jnp.copy, variables["params"]) if averaged else None
    return TrainState(
        jnp.int32(iteration), variables["params"], variables["state"], opt_state, key, jnp.bool_(True), ema)


def is_field(path: Any, value: Any) -> bool:
    """Whether what optax found by name is a field of its states, and not a layer that is called so."""
    return isinstance(path[-1], optax.tree_utils.NamedTupleKey)


def make_train_step(
    net: CompiledNet, optimizer: optax.GradientTransformation, fetch: Fetch, iter_size: int = 1, ema_decay: float = 0.0,
    across: Callable[[Passes], Passes] | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """A pure function ``(state, resident, batch) -> (new state, metrics)``, ready for ``jit`` with ``state`` donated.

    It gathers and transforms the batch (``fetch``), runs the net forward and backward ``iter_size`` times, adds
    the gradients up, and updates.

    Args:
        fetch: ``(resident, batch, key) -> inputs of the net``; ``resident`` is data that stays on the device.
        iter_size: passes an iteration; every array of ``batch`` then has them as its first axis.
        ema_decay: of ``state.ema``: ``ema += (1 - d) (params - ema)``, d at most ``(1 + t) / (10 + t)`` so that the
            first, random weights are soon forgotten.
        across: makes of the passes of one device those of several, whose gradients are averaged.

    Returns:
        The function. Its metrics are ``"loss"``, the mean over the passes; ``"outputs"``, those of the last pass;
        ``"finite"``, as in the state; and ``"lr"`` where the optimizer keeps its rate in its state
        (``optax.inject_hyperparams``). If loss, gradient or update are not finite, the new state is the old one with
        ``finite`` false and a useless ``opt_state``.
    """
    run = make_passes(net, fetch, iter_size)
    run = run if across is None else across(run)
    update = make_update(optimizer, ema_decay)

    def step(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.iteration)
        grads, net_state, loss, seen = run(state.params, state.net_state, resident, batch, key)
        new, metrics = update(state, grads, net_state, loss)
        return new, {**seen, **metrics}

    return step


def make_passes(net: CompiledNet, fetch: Fetch, iter_size: int = 1) -> Passes:
    """The passes of an iteration: ``(params, net state, resident, batch, key) -> (sum of the gradients, net state, mean
    of the losses, {"outputs": of the last pass})``."""
    gradient = jax.value_and_grad(lambda params, state, inputs, key: net.loss(
        {"params": params, "state": state}, inputs, key), has_aux=True)

    def one_pass(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
        data_key, net_key = jax.random.split(key)
        (loss, (outputs, net_state)), grads = gradient(params, net_state, fetch(resident, batch, data_key), net_key)
        return grads, net_state, loss, {"outputs": outputs}

    def several(params: Any, net_state: Any, resident: Any, batch: Any, key: jax.Array) -> Any:
        def body(carry: Any, item: Any) -> Any:
            total, net_state = carry
            grads, net_state, loss, seen = one_pass(params, net_state, resident, *item)
            return (jax.tree.map(jnp.add, total, grads), net_state), (loss, seen)

        zeros = jax.tree.map(jnp.zeros_like, params)
        # XLA:CPU runs convolutions in loops many times slower (github.com/jax-ml/jax/issues/12868): unroll there.
        unroll = iter_size if jax.default_backend() == "cpu" else 1
        (grads, net_state), (losses, seen) = lax.scan(
            body, (zeros, net_state), (batch, jax.random.split(key, iter_size)), unroll=unroll
        )
        return grads, net_state, losses.mean(), jax.tree.map(lambda x: x[-1], seen)

    return one_pass if iter_size == 1 else several


def make_update(
    optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """``(state, gradients, new net state, loss) -> (new state, metrics)``: a step once its passes are done."""
    traced, optimizer = isinstance(optimizer, Traced), optax.with_extra_args_support(optimizer)

    def update(state: TrainState, grads: Any, net_state: Any, loss: jax.Array) -> tuple[TrainState, dict[str, Any]]:
        # Some of optax's own optimisers want to know the loss.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(ema_decay, (1 + state.iteration) / (10 + state.iteration))
            ema = optax.incremental_update(params, ema, 1 - decay)
        # Where it does not need the new parameters, XLA chooses in the pass over memory that makes them.
        changed = opt_state if traced else (grads, params)
        finite = state.finite & all_finite(loss, net_state, changed)
        # Not the optimiser's state: keeping it cost 6 % of a step of LeNet on the CPU; the rest cost 1 %.
        iteration, params, net_state, ema = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (state.iteration + 1, params, net_state, ema), (state.iteration, state.params, state.net_state, state.ema),
        )
        new = TrainState(iteration, params, net_state, opt_state, state.key, finite, ema)
        found = (value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate"))
        rates = [value for value in found if isinstance(value, jax.Array)]
        return new, {"loss": loss, "finite": finite, **({"lr": rates[0]} if rates else {})}

    return update


def all_finite(*trees: Any) -> jax.Array:
    """Whether all numbers are finite."""
    # By their sums, which cost next to nothing: finite unless a term is not, or all is near the end of float32.
    # Behind a barrier, or XLA would sum anew what a bias's gradient is itself the sum of.
    leaves = lax.optimization_barrier(jax.tree.leaves(trees))
    return jnp.isfinite(sum((leaf.sum() for leaf in leaves), jnp.zeros(())))


def passes(
    state: TrainState, batch: Any, iter_size: int = 1, device: int | None = None
) -> list[tuple[Any, jax.Array, jax.Array]]:
    """What each pass of the iteration after ``state`` takes: its part of the batch, the key of its data, the net's.

    ``device``: its number among several.
    """
    key = jax.random.fold_in(state.key, state.iteration)
    key = key if device is None else jax.random.fold_in(key, device)
    keys = [key] if iter_size == 1 else list(jax.random.split(key, iter_size))
    parts = [batch] if iter_size == 1 else [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(iter_size)]
    return [(part, *jax.random.split(key)) for part, key in zip(parts, keys, strict=True)]


def make_test_step(
    net: CompiledNet, fetch: Fetch, *, with_loss: bool = False, blobs: Sequence[str] = ()
) -> Callable[[Any, Any, Any, Any, jax.Array], tuple[dict[str, jax.Array], Any]]:
    """A pure function ``(variables, carry, resident, batch, key) -> (output blobs, new carry)``.

    The carry is what the net takes from one batch to the next, such as an LSTM's h and c: ``net.fresh_carry()`` at
    first. Among the blobs are those asked for, and ``"total loss"`` if it is.
    """

    def step(
        variables: Any, carry: Any, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        data_key, net_key = jax.random.split(key)
        inputs = fetch(resident, batch, data_key)
        variables = {**variables, "state": merged(variables["state"], carry)}
        if with_loss:
            loss, (outputs, state) = net.loss(variables, inputs, net_key)
            outputs = {**outputs, "total loss": loss}
        else:
            outputs, state = net.apply(variables, inputs, net_key, blobs=blobs)
        return outputs, apart(state, carry)[1]

    return step
