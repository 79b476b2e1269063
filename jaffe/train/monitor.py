"""Watching an output of the test net: which iteration was the best, and whether there is still progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.jaffe_pb2 import SolverParameter
from jaffe.train.report import row_name


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        iteration, value: of the best test so far; ``None`` while there is none.
        since: tests after it.
    """

    iteration: int | None
    value: float | None
    since: int


class Monitor:
    """Reads the standing of a run off its metrics, so that a resumed run knows what the whole one would.

    Args:
        output: of the first test net: ``"accuracy"``, ``"loss"``, ``"total loss"``. What a loss layer puts out, or
            counts in the loss, is better when it is lower; anything else when it is higher; ``"-mse"`` and ``"+mse"``
            say so themselves, lower and higher. Of vectors the mean counts; NaN is never better.
        patience: tests without a better value before the run is to end; 0: never.

    Raises:
        JaffeError: the net has no such output.
    """

    def __init__(self, output: str, patience: int, net: CompiledNet, outputs: Sequence[str]):
        stated = {"-": -1, "+": 1}.get(output[:1]) if output not in outputs else None
        output = output[1:] if stated else output
        if output not in outputs:
            raise JaffeError(f"monitor {output!r} is no output of the test net{suggest(output, outputs)}; "
                             f"it has {', '.join(outputs)}")
        self.output = output
        self.patience = patience
        value = net.graph.blobs.get(output)
        makers = [node for node in net.graph.nodes if value in node.tops]
        is_loss = output == "total loss" or value in net.loss_tops or makers[-1].type.endswith("Loss")
        self.sign = stated or (-1 if is_loss else 1)

    @classmethod
    def of(cls, solver: SolverParameter, net: CompiledNet) -> Monitor:
        """As a solver asks for it, of its first test net."""
        outputs = [*net.outputs, *(["total loss"] if solver.test_compute_loss else [])]
        return cls(solver.monitor, solver.patience, net, outputs)

    def standing(self, rows: Sequence[Mapping[str, Any]]) -> Standing:
        """From the rows of the metrics. The earliest of equal values is the best."""
        best = Standing(None, None, 0)
        tests = {row["iteration"]: row for row in rows if row.get("test") == 0}  # one an iteration, the last
        for row in tests.values():
            found = row.get(row_name(self.output))
            value = np.nan if found is None else float(np.mean(np.array(found, np.float64)))
            if np.isfinite(value) and (best.value is None or self.sign * value > self.sign * best.value):
                best = Standing(row["iteration"], value, 0)
            else:
                best = Standing(best.iteration, best.value, best.since + 1)
        return best

    def verdict(self, standing: Standing) -> str:
        """Why the run is to end now, or nothing."""
        if not self.patience or standing.since < self.patience:
            return ""
        if standing.iteration is None:
            return f"{self.output} had no finite value in {standing.since} tests"
        return (f"{self.output} was not better in {standing.since} tests than {standing.value:.4g} at iteration "
                f"{standing.iteration}")
