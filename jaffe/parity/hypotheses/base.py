"""A hypothesis: a function from a suspected layer to other functions that the reference may have computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaffe.compile.layer import Array, Layer, make_layer
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.parity.walk import Function, Weights, function_of


@dataclass(frozen=True)
class Variation:
    """What a layer would do otherwise, in words ("the pooled size is rounded down") and as a function."""

    what: str
    function: Function


@dataclass(frozen=True)
class Suspect:
    """A layer that may be at fault.

    Attributes:
        weights, bottoms: what it is given: the reference's own bottoms, where they were recorded.
        reads_input: whether a bottom is an input of the net.
        target: what its first top should be, where that can be told; ``where``: at which places (``None``: all).
    """

    node: Node
    layer: Layer
    weights: Weights
    bottoms: tuple[Array, ...]
    dtype: Any
    reads_input: bool = False
    target: np.ndarray | None = None
    where: np.ndarray | None = None

    @property
    def type(self) -> str:
        return self.node.type

    @property
    def p(self) -> Any:
        """The layer's settings."""
        return self.layer.p

    @property
    def function(self) -> Function:
        """The layer as it is."""
        return function_of(self.layer, self.node, None, self.dtype)

    def edited(self, edit: Callable[[LayerParameter], None]) -> Function:
        """The layer with other settings. Raises JaffeError where it does not take them."""
        proto = LayerParameter()
        proto.CopyFrom(self.node.proto)
        edit(proto)
        node = replace(self.node, proto=proto)
        layer = make_layer(node)
        layer.shapes([bottom.shape for bottom in self.bottoms])
        return function_of(layer, node, None, self.dtype)

    def with_weights(self, change: Callable[[dict[str, Array]], Mapping[str, Array]]) -> Function:
        """The layer with other weights."""
        return lambda weights, bottoms: self.function({**weights, **change(dict(weights))}, bottoms)

    def with_bottom(self, change: Callable[[Array], Array]) -> Function:
        """The layer with another first bottom."""
        return lambda weights, bottoms: self.function(weights, [change(bottoms[0]), *bottoms[1:]])

    def with_top(self, change: Callable[[Array], Array]) -> Function:
        """The layer with its first top changed afterwards."""

        def function(weights: Weights, bottoms: Sequence[Array]) -> Sequence[Array]:
            tops = self.function(weights, bottoms)
            return [change(tops[0]), *tops[1:]]

        return function


@dataclass(frozen=True)
class Hypothesis:
    """A named hypothesis.

    Attributes:
        name: as ``pool_rounding``.
        types: layer types that it is about; empty: any.
        check: what to look at by hand when no variation explains the difference; may be empty.
        propose: from a suspect to variations.
    """

    name: str
    types: tuple[str, ...]
    check: str
    propose: Callable[[Suspect], Iterable[Variation]]

    def concerns(self, suspect: Suspect) -> bool:
        """Whether the layer's type is one of those that this is about."""
        return not self.types or suspect.type in self.types

    def variations(self, suspect: Suspect) -> Iterator[Variation]:
        """The variations, up to the first that the layer does not take."""
        try:
            yield from self.propose(suspect)
        except (JaffeError, TypeError, ValueError, IndexError):  # settings or shapes that do not fit this layer
            return


HYPOTHESES: list[Hypothesis] = []

Propose = Callable[[Suspect], Iterable[Variation]]


def hypothesis(*types: str, check: str = "") -> Callable[[Propose], Propose]:
    """Add a function to the hypotheses, under its own name."""

    def register(propose: Propose) -> Propose:
        HYPOTHESES.append(Hypothesis(getattr(propose, "__name__", ""), types, check, propose))
        return propose

    return register


def setting(message: str, field: str, value: Any) -> Callable[[LayerParameter], None]:
    """A change of settings: one field of one message of a layer."""
    return lambda proto: setattr(getattr(proto, message), field, value)


def edits(suspect: Suspect, changes: Mapping[str, Callable[[LayerParameter], None]]) -> Iterator[Variation]:
    """A variation for each change of settings that the layer takes."""
    for what, change in changes.items():
        try:
            function = suspect.edited(change)
        except JaffeError:
            continue
        yield Variation(what, function)
