"""What each way of a convolution costs on the CPU, by a model fitted to measurements."""

from __future__ import annotations

import json
import math
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


CACHED = 2**16  # floats of a weight that stay in a core's cache


def within_nets(problem: Problem, name: str) -> float:
    """How many times as long a candidate for a forward pass takes within a net as alone, roughly, against oneDNN's own
    convolution.

    Alone the cache still holds the patches of several taps, and the weight, turned round for XLA's products: with
    single images GoogLeNet, ResNet-18 and CaffeNet lost 3 to 11 % by what was faster alone. With batches, GoogLeNet and
    SqueezeNet lost 2 to 4 % by products in place of convolutions of one tap.
    """
    if problem.which != "forward" or problem.geometry.group > 1 or name == "onednn":
        return 1.0
    if problem.taps == 1:
        return 1.2 if problem.x[0] > 1 else 1.0
    turned = math.prod(problem.weight) > CACHED and "onednn" not in name
    return 1.25 if turned or any(one in name for one in ("im2col", "rows", "shifted")) else 1.0


@cache
def _costs() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("jaffe.compile.lowering").joinpath("costs.json").read_text())
