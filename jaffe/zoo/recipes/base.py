"""What a recipe is, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaffe.netdef import NetSpec, SolverParameter
from jaffe.netdef.builder import assign


@dataclass(frozen=True)
class Recipe:
    """How to train a net.

    Attributes:
        name: as ``jaffe train --recipe`` takes it.
        net: the declaration.
        solver: fields of ``SolverParameter``.
        data: as ``--data`` takes it.
        about: one line: what to expect.
        measure: the output of the test net that says how good the result is.
        higher: whether more of it is better.
    """

    name: str
    net: NetSpec
    solver: dict[str, Any]
    data: str
    about: str
    measure: str = "accuracy"
    higher: bool = True

    def solver_proto(self) -> SolverParameter:
        """The solver with the net in it: all that ``jaffe.Solver`` needs beside the data."""
        proto = SolverParameter(net_param=self.net.to_proto())
        for key, value in self.solver.items():
            assign(proto, key, value)
        return proto


RECIPES: dict[str, Callable[[], Recipe]] = {}


def entered(build: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Enter a function that returns a recipe under its own name, without the underscore; it is the recipe's too."""
    name = build.__name__.removeprefix("_")
    assert name not in RECIPES, name
    RECIPES[name] = build
    return build
