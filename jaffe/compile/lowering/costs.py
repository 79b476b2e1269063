"""What each way of a convolution costs on the CPU, by a model fitted to measurements."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from jaffe.compile.lowering.candidates import Problem, fitting


def predicted(problem: Problem, name: str) -> float:
    """Milliseconds that a candidate takes on two CPU cores, by the cost model.

    ``t = a + b products + c operands + d moved``, with the coefficients of each candidate fitted to measurements
    (``costs.json``, made by ``python -m benchmarks.lowering``). A candidate without coefficients is never chosen before
    one that has them.
    """
    coefficients = _costs()[problem.which].get(name)
    if coefficients is None:
        return float("inf")
    work = fitting(problem)[name].work(problem)
    return coefficients[0] + sum(c * w for c, w in zip(coefficients[1:], work, strict=True))


@cache
def _costs() -> dict[str, dict[str, list[float]]]:
    return json.loads(resources.files("jaffe.compile.lowering").joinpath("costs.json").read_text())
