"""A net up to some of its values, with gradients by its inputs: what the functions of this package run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.execute import execute
from jaffe.compile.fused import make_program
from jaffe.compile.infer import infer
from jaffe.compile.layer import Array, Context, Shape
from jaffe.compile.layers.neuron import ReLU
from jaffe.compile.net import CompiledNet, Variables
from jaffe.compile.reader import feed
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Graph, Node


@dataclass(frozen=True)
class Part:
    """Some values of a net of phase TEST as a function of the inputs that they need.

    Attributes:
        net: the net.
        values: names of values, as its graph has them.
        relu: what ReLU layers do to gradients: ``"plain"``; ``"guided"``, let positive ones pass only;
            ``"redirected"``, where all of an item's units are off, let those pass that would turn units on. Loops of
            unrolled steps are plain.
    """

    net: CompiledNet
    values: tuple[str, ...]
    relu: str = "plain"

    def __post_init__(self) -> None:
        if self.net.phase != "TEST":
            raise JaffeError(f"expected a net compiled with phase='TEST'; found phase {self.net.phase}, in which "
                             "Dropout and BatchNorm do not do what they do in use")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that the values need, in the order of the net."""
        read = {value for node in self._graph.nodes for value in node.bottoms} | set(self.values)
        return tuple(name for name in self.net.inputs if name in read)

    @property
    def image(self) -> str:
        """The input that is looked at: the first of images (N, C, H, W) that the values need, else the first.

        Raises:
            JaffeError: they need none.
        """
        if not self.inputs:
            raise JaffeError(f"{', '.join(self.values)} depends on no input of the net")
        return next((name for name in self.inputs if len(self.net.inputs[name].shape) == 4), self.inputs[0])

    def named(self, inputs: Any) -> dict[str, Any]:
        """Those of the inputs that are needed, by name; see ``feed``."""
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise JaffeError(f"expected a dict with arrays for {', '.join(self.inputs) or 'no input'}; received "
                                 f"{type(inputs).__name__}")
            inputs = {self.inputs[0]: inputs}
        for name in inputs:
            if name not in self.net.inputs:
                raise JaffeError(f"no input {name!r}{suggest(name, self.net.inputs)}; the net reads "
                                 f"{', '.join(self.net.inputs)}")
        for name in self.inputs:
            if name not in inputs:
                raise JaffeError(f"input {name!r} is missing; {', '.join(self.values)} needs {', '.join(self.inputs)}")
        return {name: inputs[name] for name in self.inputs}

    def feed(self, inputs: Any) -> dict[str, Array]:
        """The inputs that are needed, as arrays of the net's dtype.

        Args:
            inputs: arrays by name, of which those not needed (labels) may be missing; or one array, where one is
                needed. An image without a batch axis becomes a batch of one.

        Raises:
            JaffeError: a name is wrong or missing; or a layer does not fit these sizes.
        """
        fed = {name: feed(self.net, name, value) for name, value in self.named(inputs).items()}
        fed = {name: x[None] if x.ndim == 3 and len(self.net.inputs[name].shape) == 4 else x for name, x in fed.items()}
        self.shapes({name: x.shape for name, x in fed.items()})
        return fed

    def shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of the values for inputs of these shapes. Raises JaffeError when a layer does not fit."""
        declared = {name: value.shape for name, value in self.net.inputs.items()}
        if all(declared[name] == shape for name, shape in inputs.items()):
            return {name: self.net.inferred.shapes[name] for name in self.values}
        found = infer(self._needed, {**{name: declared[name] for name in declared if name in self._tops}, **inputs})
        for layer, stored in found.stored.items():
            for old, new in zip(self.net.inferred.stored[layer], stored, strict=True):
                if old.weight.shape != new.weight.shape:
                    raise self.net.graph.node(layer).error(
                        f"with inputs of shape {dict(inputs)} its {new.weight.name} would be {new.weight.shape}; "
                        f"expected {old.weight.shape}: choose images of {dict(declared)}, or a blob before it")
        return {name: found.shapes[name] for name in self.values}

    def __call__(
        self, variables: Variables, inputs: Mapping[str, Array], taps: Mapping[str, Array] = MappingProxyType({})
    ) -> dict[str, Array]:
        """The values, for inputs as ``feed`` gives them. Pure. The gradient of a tap is that of the value so called."""
        nodes = self._needed.nodes if taps else self._graph.nodes  # passes may lead readers round a tapped value
        program = [(node, _Steered(node, self.relu) if node.type == "ReLU" and self.relu != "plain" else layer)
                   for node, layer in make_program(nodes)]
        env, _ = execute(self._forced, program, variables, inputs, anew=True, taps=taps)
        return {name: env[name].astype(self.net.dtype) for name in self.values}

    def one(self, variables: Variables, inputs: Mapping[str, Array]) -> Array:
        """The only value."""
        (value,) = self(variables, inputs).values()
        return value

    @cached_property
    def ancestors(self) -> frozenset[str]:
        """The values, and those that they are computed from."""
        found = set(self.values)
        for node in reversed(self.net.graph.nodes):
            if not found.isdisjoint(node.tops):
                found.update(node.bottoms)
        return frozenset(found)

    def maps_before(self) -> str:
        """The last value (N, C, h, w) of more than one place that these are computed from.

        Raises:
            JaffeError: there is none.
        """
        for node in reversed(self.net.graph.nodes):
            for top in node.tops:
                shape = self.net.inferred.shapes[top]
                before = top in self.ancestors and top not in self.values
                if before and len(shape) == 4 and shape[2] * shape[3] > 1 and node.bottoms:
                    return top
        raise JaffeError(f"{', '.join(self.values)} depends on no maps (N, C, h, w); name a blob")

    @cached_property
    def _forced(self) -> CompiledNet:
        """The net with gradients by all that it reads, whatever ``propagate_down`` says."""
        net = self.net
        graph = replace(net.graph, force_backward=True)
        return CompiledNet(graph, net.inferred, net.dtype, net.precision, net.lowering)

    @cached_property
    def _graph(self) -> Graph:
        return self._forced.program(frozenset(self.values))

    @cached_property
    def _needed(self) -> Graph:
        """The declared layers on the way to the values, and those that own weights of these."""
        wanted, owners = set(self.values), set[str]()
        nodes: list[Node] = []
        for node in reversed(self.net.graph.nodes):
            if node.name in owners or not wanted.isdisjoint(node.tops):
                nodes.append(node)
                wanted.update(node.bottoms)
                owners.update(owner for owner, _ in node.shared.values())
        return self.net.graph.with_nodes(reversed(nodes))

    @cached_property
    def _tops(self) -> frozenset[str]:
        return frozenset(top for node in self._needed.nodes for top in node.tops)


def image_input(net: CompiledNet, name: str | None = None) -> str:
    """The input that holds images: ``name``, or else the first of shape (N, C, H, W).

    Raises:
        JaffeError: there is none, or no input of that name.
    """
    if name is not None and name not in net.inputs:
        raise JaffeError(f"the net has no input {name!r}{suggest(name, net.inputs)}")
    pictures = [one for one, value in net.inputs.items() if len(value.shape) == 4]
    if name is None and not pictures:
        raise JaffeError("the net reads no images (N, C, H, W), but "
                         + (", ".join(f"{one} {value.shape}" for one, value in net.inputs.items()) or "nothing"))
    return pictures[0] if name is None else name


@partial(jax.jit, static_argnums=0)
def run(part: Part, variables: Variables, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The part, compiled once for each shape."""
    return part(variables, inputs)


def score_value(net: CompiledNet, blob: str | None = None) -> str:
    """The value with the scores of classes, (N, K, ...), before any softmax.

    What the last Accuracy layer reads, else the last loss of labels, else the net's only output; of what a Softmax
    gives, its bottom.

    Args:
        blob: its name, where it is not to be looked for.

    Raises:
        JaffeError: there is no such blob; or several outputs, none of which is known to be scores.
    """
    if blob is not None:
        found = net.value_of(blob)
    else:
        readers = [node for types in _READERS for node in net.graph.nodes if node.type in types]
        outputs = [name for name in net.outputs if len(net.shape(name)) >= 2]
        if not readers and len(outputs) != 1:
            raise JaffeError(f"which blob of net {net.name!r} holds the scores of classes is not plain: name it, "
                             f"blob=...; its outputs are {', '.join(net.outputs)}")
        found = _classes_read(net, readers[-1]) if readers else net.value_of(outputs[0])
        found = next((_classes_read(net, node) for node in net.graph.nodes
                      if node.type == "Softmax" and found in node.tops), found)
    if len(net.inferred.shapes[found]) < 2:
        raise JaffeError(f"expected scores (N, classes, ...); found {found!r} of shape {net.inferred.shapes[found]}")
    return found


# Layers that hold scores against labels: the last one of the last kind counts.
_READERS = (("SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss"), ("Accuracy",))


def _classes_read(net: CompiledNet, node: Node) -> str:
    """What a layer reads as scores, if it takes axis 1 for that of the classes."""
    layer, proto, value = net.inferred.layers[node.name], node.proto, node.bottoms[0]
    declared = {
        "Accuracy": proto.accuracy_param.axis, "SoftmaxWithLoss": proto.softmax_param.axis,
        "InfogainLoss": proto.infogain_loss_param.axis, "Softmax": proto.softmax_param.axis,
    }.get(node.type, 1)
    shape = net.inferred.shapes[value]
    if (axis := layer.axis(declared, len(shape))) != 1:
        raise node.error(f"its classes are along axis {axis} of {value!r} {shape}; expected scores (N, classes, ...)")
    return value


def classes_of(net: CompiledNet, value: str, class_: int | Sequence[int], items: int) -> Array:
    """A class for each item. Raises JaffeError when there is no such class."""
    count = net.inferred.shapes[value][1]
    found = np.asarray(class_)
    if not np.issubdtype(found.dtype, np.integer) or found.shape not in ((), (items,)):
        raise JaffeError(f"class_ is a number, or one for each of {items} items; received {class_!r}")
    if np.any((found < 0) | (found >= count)):
        raise JaffeError(f"{value!r} has scores of {count} classes, 0 to {count - 1}; received class_={class_!r}")
    return jnp.broadcast_to(jnp.asarray(found), (items,))


def class_scores(scores: Array, classes: Array) -> Array:
    """(N, K, ...) -> (N): the score of each item's class, summed over places."""
    if len(scores) != len(classes):
        raise JaffeError(f"expected scores of {len(classes)} items, as the inputs have; found {len(scores)} of them")
    return scores.reshape(*scores.shape[:2], -1).sum(2)[jnp.arange(len(classes)), classes]


class _Steered(ReLU):
    """ReLU with other gradients."""

    def __init__(self, node: Node, rule: str):
        super().__init__(node)
        self.rule = rule

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        (y,) = super().apply(weights, bottoms, ctx)
        if self.rule == "guided":
            return [_positive(y)]
        return [_redirected(bottoms[0], y)]


@jax.custom_vjp
def _positive(y: Array) -> Array:
    return y


_positive.defvjp(lambda y: (y, None), lambda _, gradient: (jnp.maximum(gradient, 0),))


@jax.custom_vjp
def _redirected(x: Array, y: Array) -> Array:
    """y, of whose gradient a share reaches x even where the way over y is blocked for a whole item."""
    return y


def _redirected_backward(x: Array, gradient: Array) -> tuple[Array, Array]:
    axes = tuple(range(1, x.ndim))
    blocked = jnp.all((x <= 0) | (gradient == 0), axes, keepdims=True)
    return jnp.where(blocked & (x <= 0), jnp.maximum(gradient, 0), 0), gradient


_redirected.defvjp(lambda x, y: (y, x), _redirected_backward)
