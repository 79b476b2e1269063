"""Writes docs/models.md, the published models that jaffe was compared on: `make models`. Needs ../shared/models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaffe import Comparison, compare, compile_net, load_weights
from jaffe.parity import Reference

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
TOLERANCE = 1e-5  # of a blob's largest value

HEAD = f"""# Published models

Made by `make models`. Nets and weights of {{count}} published models, as their authors put them out, are read by jaffe
and compared, in phase TEST, with what another program computes: BVLC Caffe 1.0 on the CPU, on a seeded random input; or
OpenCV 4's importer, on a real image, where a net has layers of Caffe's forks. Compared are the outputs and the inner
values that were recorded; the error is the largest difference as a part of the largest value of its blob, rounded up to
one digit. A model is *equal* when that is at most {TOLERANCE:.0e}. The files are not part of this repository;
`jaffe compare` does the same for any net.
"""
ORACLES = {"caffe": "Caffe 1.0", "opencv": "OpenCV 4.14"}


@dataclass(frozen=True)
class Model:
    """A published model: a row of the index, where its files are, and its recording."""

    row: Mapping[str, str]
    folder: Path

    @property
    def name(self) -> str:
        """The file of weights."""
        return Path(self.row["weights"]).name

    @property
    def id(self) -> str:
        """The file of the recording, without its suffix."""
        return self.row["out"].removesuffix(".npz")

    def compared(self) -> tuple[Any, Comparison]:
        """The net, compiled for the recorded input, and the comparison. All of its weights come from the file."""
        recorded = Reference.of(self.folder / "expected" / self.row["out"])
        shapes = {name: array.shape for name, array in recorded.inputs.items()}
        net = compile_net(self.folder / "files" / self.row["proto"], phase="TEST", inputs=shapes)
        empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(net.init, jax.random.key(0)))
        variables = load_weights(net, empty, self.folder / "files" / self.row["weights"])
        return net, compare(net, variables, recorded, tolerance=TOLERANCE)


def models(shared: Path = SHARED) -> list[Model]:
    """All published models; none where the files are not."""
    index = shared / "models" / "index.json"
    return [Model(row, index.parent) for row in json.loads(index.read_text())] if index.exists() else []


def line(model: Model, net: Any, comparison: Comparison) -> str:
    """A row of the table."""
    compared = sum(row.difference is not None for row in comparison.rows)
    cost = net.cost()
    cells = (
        f"`{model.name}`", model.row["repo"] or model.row["set"], len(net.graph.nodes), f"{cost.params + cost.state:,}",
        ORACLES[model.row["oracle"]], compared, f"{up(comparison.error):.0e}",
        "equal" if comparison.agrees else "differs",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def up(error: float) -> float:
    """Rounded up to one significant digit."""
    if error == 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(error))
    return math.ceil(error / power - 1e-9) * power


def page(lines: list[str]) -> str:
    """The whole page."""
    table = ["| weights | origin | layers | parameters | recorded by | values | error | verdict |",
             "|---|---|---:|---:|---|---:|---:|---|", *lines]
    return HEAD.format(count=len(lines)) + "\n" + "\n".join(table) + "\n"


if __name__ == "__main__":
    found = models()
    if not found:
        raise SystemExit(f"{SHARED / 'models'} is not here: nothing to compare")
    (HERE / "models.md").write_text(page([line(model, *model.compared()) for model in found]))
