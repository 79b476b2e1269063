"""A recurrent net one step at a time, from the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaffe.compile.execute import execute
from jaffe.compile.fused import make_program
from jaffe.compile.reader import feed
from jaffe.compile.reroll.check import check_shapes
from jaffe.compile.reroll.gather import gather
from jaffe.compile.reroll.plan import Cut, Join, Run, Series, Steps
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Node

if TYPE_CHECKING:
    from jaffe.compile.net import Blobs, CompiledNet, Variables

Carry = dict[str, Any]


class Stepper:
    """A net of sequences as a function of one step; made by ``CompiledNet.stepper``.

        carry = stepper.start(variables)
        for x in steps:  # each (1, N, ...)
            outputs, carry = stepper(variables, carry, {"x": x})

    Both functions are pure. What does not depend on the inputs of the steps (an encoder, features of an image) is
    computed by ``start``, once.

    Attributes:
        inputs: names of the inputs that each step gets.
        given: names of those that ``start`` gets.
        outputs: names of the blobs that each step gives.
    """

    def __init__(self, net: CompiledNet, inputs: Iterable[str] | None, outputs: Iterable[str] | None):
        wanted = list(net.outputs if outputs is None else outputs)
        values = {name: net.value_of(name) for name in wanted}
        self.net = net
        nodes = net.program(frozenset(values.values())).nodes
        read = {value for node in nodes for value in node.bottoms} | set(values.values())
        needed = [name for name in net.inputs if name in read]
        self.inputs = tuple(needed if inputs is None else inputs)
        for name in self.inputs:
            if name not in needed:
                raise JaffeError(f"the outputs {', '.join(wanted)} need no input {name!r}{suggest(name, needed)}; they "
                                 f"need {', '.join(needed) or 'none'}")
        self.given = tuple(name for name in needed if name not in self.inputs)
        varying = set(self.inputs)  # values that differ from step to step
        before: list[Node] = []
        steps: list[Node] = []
        for node in nodes:
            if not any(top in net.inputs for top in node.tops):
                moves = not varying.isdisjoint(node.bottoms)
                (steps if moves else before).append(node)
                varying.update(node.tops if moves else ())
        self.outputs = tuple(name for name in wanted if values[name] in varying)
        self._values = {name: values[name] for name in self.outputs}
        self._before = make_program(before)
        one = _OneStep(steps, varying)
        self._histories = one.histories
        self._after = one.after
        self._nodes = one.nodes
        self._program = make_program(one.nodes)
        made = {top for node in before for top in node.tops} | set(self.given)
        self._constants = tuple(sorted(made.intersection(value for node in steps for value in _reads(node))))
        self._carried = [node.name for node in steps if net.inferred.carried[node.name] and node.plan is None]
        if not (self._carried or self._histories):
            raise JaffeError(f"nothing goes from step to step on the way to {', '.join(wanted)}: expected an LSTM or "
                             "RNN layer, or steps that became a loop (net.summary() says why they did not)")

    def start(self, variables: Variables, inputs: Mapping[str, Any] = MappingProxyType({}), batch: int | None = None
              ) -> Carry:
        """What the first step begins with.

        Args:
            inputs: an array for each of ``given``.
            batch: how many sequences, for the state of LSTM and RNN layers; by default as declared.

        Raises:
            JaffeError: an input is missing, or is none of ``given``.
        """
        env = self._feed(inputs, self.given)
        env, _ = execute(self.net, self._before, variables, env, anew=True)
        fresh = self.net.fresh_carry()
        state = {layer: fresh[layer] for layer in self._carried}
        if batch is not None:
            state = jax.tree.map(lambda x: jnp.zeros((x.shape[0], batch, *x.shape[2:]), x.dtype), state)
        return {
            "constants": {name: env[name] for name in self._constants},
            "history": {name: gather(series, env) for name, series in self._histories.items()},
            "state": state,
        }

    def __call__(
        self, variables: Variables, carry: Carry, inputs: Mapping[str, Any], rng: jax.Array | None = None
    ) -> tuple[Blobs, Carry]:
        """The outputs of a step, and what the next one begins with.

        Args:
            carry: of ``start``, or of the step before.
            inputs: an array for each of ``inputs``: as declared, but one step along the axis of time.
            rng: key for random layers.

        Raises:
            JaffeError: inputs do not fit the net.
        """
        env = {**carry["constants"], **carry["history"], **self._feed(inputs, self.inputs)}
        check_shapes(self._nodes, {name: value.shape for name, value in env.items()})
        state = {**variables["state"], **carry["state"]}
        env, state = execute(self.net, self._program, {**variables, "state": state}, env, rng)
        history = {
            name: jnp.concatenate([old[1:], env[self._after[name]].astype(old.dtype)])
            for name, old in carry["history"].items()
        }
        after = {"constants": carry["constants"], "history": history,
                 "state": {layer: state[layer] for layer in self._carried}}
        return {name: env[value].astype(self.net.dtype) for name, value in self._values.items()}, after

    def _feed(self, inputs: Mapping[str, Any], expected: tuple[str, ...]) -> Blobs:
        if set(inputs) != set(expected):
            raise JaffeError(f"expected the inputs {', '.join(expected) or 'none'}; received "
                             f"{', '.join(inputs) or 'none'}")
        return {name: feed(self.net, name, value) for name, value in inputs.items()}


class _OneStep:
    """The nodes of a net with the loops cut down to one step.

    Attributes:
        nodes: the layers of a step.
        histories: by name, what the first step gets from before it.
        after: by those names, the stack of what the next step gets.
    """

    def __init__(self, nodes: Iterable[Node], varying: set[str]):
        self.varying = varying
        self.histories: dict[str, Series] = {}
        self.after: dict[str, str] = {}
        self.counts: dict[str | Cut, int] = {}  # how long each stack is
        self.steps: Node | None = None
        self.nodes = [self._cut_down(node) for node in nodes]

    def _cut_down(self, node: Node) -> Node:
        plan = node.plan
        if isinstance(plan, Join):
            plan = replace(plan, series=self._one(node, plan.series))
        elif isinstance(plan, Steps):
            plan = self._first(node, plan)
        else:
            return node
        return replace(node, plan=plan, bottoms=tuple(plan.reads()))

    def _first(self, node: Node, plan: Steps) -> Steps:
        if self.steps is not None and self.steps.plan.count != plan.count:
            raise node.error(f"{plan.count} steps, where those of {self.steps.name!r} are {self.steps.plan.count}: "
                             "expected loops of one length to go through step by step; name the inputs of one of them")
        self.steps = node
        self.counts.update(dict.fromkeys(plan.stacks, plan.count))
        for value, (_, step) in plan.picked.items():
            if step != plan.count - 1:
                raise node.error(f"{value!r} is read of one step alone: expected steps that are all alike")
        carried = {}
        stacks = dict(plan.stacks)
        for name, one in plan.carried.items():
            if any(run.value in self.varying for run in one.before):
                raise node.error(f"its first step reads what another step gives ({one.before[0].value!r}): expected "
                                 "steps that are all alike")
            history = f"before {name}"
            self.histories[history] = one.before
            self.after[history] = f"after {name}"
            stacks[f"after {name}"] = one.value
            carried[name] = replace(one, before=(Run(history, 0, one.delay),))
        return replace(
            plan, count=1, names={name: names[:1] for name, names in plan.names.items()}, carried=carried,
            sequences={name: self._one(node, series) for name, series in plan.sequences.items()}, stacks=stacks,
            picked={value: (top, 0) for value, (top, _) in plan.picked.items()})

    def _one(self, node: Node, series: Series) -> Series:
        """The whole of a series, cut down to a step."""
        first = series[0]
        whole = first.source.pieces if isinstance(first.source, Cut) else self.counts.get(first.source)
        if len(series) > 1 or first.alone or (first.first, first.count, first.stride) != (0, whole, 1):
            raise node.error("takes its steps in another order than that of time, or not all that there are: expected "
                             "steps that are all alike")
        if isinstance(first.source, Cut):
            return (replace(first, count=1, source=replace(first.source, pieces=1, exact=True)),)
        return (replace(first, count=1),)


def _reads(node: Node) -> list[str]:
    """Of a loop without what it starts from, which ``start`` turns into history."""
    if isinstance(node.plan, Steps):
        return replace(node.plan, carried={}).reads()
    return list(node.bottoms)
