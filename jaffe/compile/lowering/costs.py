"""What each way of a convolution costs on the CPU, by a model fitted to measurements."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from jaffe.compile.lowering.candidates import CANDIDATES, Problem, fitting


def cheapest(problem: Problem) -> str:
    """The candidate that the rules choose: by the model, but for the problems that were measured and where it is wrong.
    """
    candidates = fitting(problem)
    known = _costs()["known"].get(problem.key)
    return known if known in candidates else min(candidates, key=lambda name: predicted(problem, name))


def predicted(problem: Problem, name: str) -> float:
    """Milliseconds that a candidate takes on two CPU cores, by the cost model.

    ``t = a + b products + c operands + d moved``, with the coefficients of each candidate fitted to measurements
    (``costs.json``, made by ``python -m benchmarks.lowering``). A candidate without coefficients is never chosen before
    one that has them.
    """
    coefficients = _costs()["model"][problem.which].get(name)
    if coefficients is None:
        return float("inf")
    work = CANDIDATES[problem.which][name].work(problem)
    return coefficients[0] + sum(c * w for c, w in zip(coefficients[1:], work, strict=True))


@cache
def _costs() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("jaffe.compile.lowering").joinpath("costs.json").read_text())
