"""Running the steps of a rolled net: as one ``lax.scan``, or where no step waits for another, all at once."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.layer import Layer
from jaffe.compile.reroll.gather import gather
from jaffe.compile.reroll.plan import Carried, Steps
from jaffe.netdef.graph import Node

Values = dict[str, jax.Array]
Program = tuple[tuple[Node, Layer], ...]


class Execute(Protocol):
    """Runs layers, inside of a loop or not: their values by name, of ``variables``, a key, and words that make a key of
    a layer's own of it."""

    def __call__(
        self, program: Program, env: Mapping[str, jax.Array], variables: Any, rng: jax.Array | None,
        words: Mapping[str, Any], taps: Mapping[str, jax.Array], looped: bool,
    ) -> Values: ...


def word(name: str) -> int:
    """What makes a layer's own key of the net's: the same in every run and on every machine."""
    return zlib.crc32(name.encode())


@dataclass(frozen=True)
class StepRunner:
    """Runs a plan.

    Attributes:
        plan: what is read, and what comes out.
        program: the layers of a step.
        execute: runs them.
        learning: names of those whose weights have gradients.
    """

    plan: Steps
    program: Program
    execute: Execute
    learning: frozenset[str]

    def __call__(self, env: Mapping[str, jax.Array], variables: Any, rng: jax.Array | None, plain: bool) -> Values:
        """The stacks and values that come out. ``plain``: a loop's gradients are JAX's own."""
        plan = self.plan
        xs = {name: gather(series, env) for name, series in plan.sequences.items()}
        constants = {name: env[value] for name, value in plan.constants.items()}
        wanted = tuple(dict.fromkeys([*plan.stacks.values(), *(top for top, _ in plan.picked.values())]))
        if not plan.carried:
            found = self._at_once(self.program, xs, constants, variables, rng)
        else:
            before = {name: gather(one.before, env) for name, one in plan.carried.items()}
            start = self._start(before, xs, constants, variables, rng)
            if plain or not self.learning:
                found = self._scan(wanted, start, xs, constants, {}, variables, rng)
            else:
                found = self._with_late_weights(wanted)(start, xs, constants, variables, rng)
        stacks = {name: found[top] for name, top in plan.stacks.items()}
        return {**stacks, **_picked(plan, found)}

    @cached_property
    def _words(self) -> dict[str, np.ndarray]:
        """Of each layer, at each step."""
        return {node: np.array(list(map(word, names)), np.uint32) for node, names in self.plan.names.items()}

    def _start(
        self, before: Values, xs: Values, constants: Values, variables: Any, rng: jax.Array | None
    ) -> dict[str, tuple[jax.Array, ...]]:
        """What the first step gets from earlier ones, the oldest first, in the dtypes that steps put out."""
        first = jax.tree.map(lambda x: x[0], (xs, self._words))

        def dtypes(values: Values) -> Values:
            env = {**constants, **first[0], **values}
            return self.execute(self.program, env, variables, rng, first[1], {}, True)

        carried = self.plan.carried
        for _ in range(2):  # what a step puts out may depend on the dtype of what it gets
            found = jax.eval_shape(dtypes, {name: values[0] for name, values in before.items()})
            before = {name: values.astype(found[carried[name].value].dtype) for name, values in before.items()}
        return {name: tuple(values) for name, values in before.items()}

    def _scan(
        self, wanted: tuple[str, ...], start: Mapping[str, tuple[jax.Array, ...]], xs: Values, constants: Values,
        taps: Values, variables: Any, rng: jax.Array | None,
    ) -> Values:
        """Stacks of the values wanted."""

        def step(carry: Any, inputs: Any) -> Any:
            given, words, taps = inputs
            env = {**constants, **given, **{name: history[0] for name, history in carry.items()}}
            values = self.execute(self.program, env, variables, rng, words, taps, True)
            after = {
                name: (*history[1:], values[self.plan.carried[name].value].astype(history[0].dtype))
                for name, history in carry.items()
            }
            return after, {name: values[name] for name in wanted}

        if self.plan.again:
            step = jax.checkpoint(step, prevent_cse=False)  # a loop's body keeps its order by itself
        return lax.scan(step, start, (xs, self._words, taps), length=self.plan.count)[1]

    def _at_once(
        self, program: Program, xs: Mapping[str, jax.Array], constants: Mapping[str, jax.Array], variables: Any,
        rng: jax.Array | None,
    ) -> Values:
        """Stacks of all that the layers put out, for stacks of what they read."""
        stacks: Values = dict(xs)
        for node, layer in program:
            given = {value: stacks[value] for value in node.bottoms if value in stacks}
            fixed = {value: constants[value] for value in node.bottoms if value not in stacks}

            def one(given: Values, words: Any, alone: Program = ((node, layer),), fixed: Values = fixed) -> Values:
                values = self.execute(alone, {**fixed, **given}, variables, rng, words, {}, False)
                return {top: values[top] for top in alone[0][0].tops}

            words = {node.name: self._words[node.name]}
            if not fixed and layer.itemwise([x.shape[1:] for x in given.values()]):
                folded = one({name: x.reshape(-1, *x.shape[2:]) for name, x in given.items()}, {})
                stacks.update({top: x.reshape(self.plan.count, -1, *x.shape[1:]) for top, x in folded.items()})
            elif layer.foreign:  # which may not be written for a further axis
                stacks.update(lax.map(lambda both, one=one: one(*both), (given, words)))
            else:
                stacks.update(jax.vmap(one)(given, words))
        return stacks

    def _with_late_weights(self, wanted: tuple[str, ...]) -> Callable[..., Values]:
        """``_scan``, whose gradients of weights are computed after the loop: of all steps at once. Its own would add up
        one small product a step."""
        late = [(node, layer) for node, layer in self.program if node.name in self.learning]
        inner = {top for node, _ in self.program for top in node.tops}
        read = dict.fromkeys(value for node, _ in late for value in node.bottoms)
        kept = tuple(value for value in read if value in inner)
        kept += tuple(self.plan.carried[value].value for value in read if value in self.plan.carried)
        everything = tuple(dict.fromkeys([*wanted, *kept]))

        @jax.custom_vjp
        def scan(start: Any, xs: Any, constants: Any, variables: Any, rng: Any) -> Values:
            return self._scan(wanted, start, xs, constants, {}, variables, rng)

        def forward(start: Any, xs: Any, constants: Any, variables: Any, rng: Any) -> Any:
            def run(start: Any, xs: Any, constants: Any, taps: Any) -> Any:
                found = self._scan(everything, start, xs, constants, taps, variables, rng)
                return {name: found[name] for name in wanted}, {name: found[name] for name in kept}

            tops = tuple(top for node, _ in late for top in node.tops)
            shapes = jax.eval_shape(lambda: self._scan(tops, start, xs, constants, {}, variables, rng))
            taps = {name: jnp.zeros(one.shape, one.dtype) for name, one in shapes.items()}
            found, pull, stacks = jax.vjp(run, start, xs, constants, taps, has_aux=True)
            return found, (pull, stacks, start, xs, constants, variables, rng)

        def backward(saved: Any, gradients: Any) -> Any:
            pull, stacks, start, xs, constants, variables, rng = saved
            by_start, by_xs, by_constants, by_taps = pull(gradients)
            stacked = {**xs, **stacks}
            for name, one in self.plan.carried.items():
                if name in read:
                    stacked[name] = _shifted(start[name], stacks[one.value], one)

            def weigh(variables: Any) -> Values:
                found: Values = {}
                for node, layer in late:
                    given = {value: stacked[value] for value in node.bottoms if value in stacked}
                    found.update(self._at_once(((node, layer),), given, constants, variables, rng))
                return {name: found[name] for name in by_taps}

            (by_variables,) = jax.vjp(weigh, variables)[1](by_taps)
            return by_start, by_xs, by_constants, by_variables, None

        scan.defvjp(forward, backward)
        return scan


def _picked(plan: Steps, stacks: Values) -> Values:
    """The values of single steps. Those of many are had by one operation, for the sake of tracing."""
    counts = Counter(top for top, _ in plan.picked.values())
    steps = {top: lax.split(stacks[top], (1,) * plan.count) for top, count in counts.items() if count > 1}
    return {
        value: lax.squeeze(steps[top][step], (0,)) if top in steps else lax.index_in_dim(stacks[top], step, 0, False)
        for value, (top, step) in plan.picked.items()
    }


def _shifted(start: tuple[jax.Array, ...], stack: jax.Array, one: Carried) -> jax.Array:
    """What each step got from an earlier one."""
    return jnp.concatenate([jnp.stack(start), stack[: -one.delay]])
