"""Eight iterations of each solver, parameter by parameter, against those recorded from Caffe 1.0 (tests/goldens)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import jaffe
from jaffe.netdef.text import read_solver
from jaffe.train.config import SOLVER_TYPES
from jaffe.train.data import Dataset
from jaffe.train.data.dataset import ArraySource

GOLDENS = Path(__file__).parents[1] / "goldens" / "solvers"
CASES = [p for p in sorted(GOLDENS.glob("*.npz")) if read_solver(str(np.load(p)["solver"])).type in SOLVER_TYPES]


def test_all_cases_of_known_types_are_run():
    assert len(CASES) == 21


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_parameters_after_each_iteration(path: Path):
    z = np.load(path)
    items = {"data": z["data"].reshape(-1, *z["data"].shape[2:]), "label": z["label"].reshape(-1)}
    solver = read_solver(str(z["solver"]))
    solver.ClearField("net")
    job = jaffe.Solver(
        solver,
        net=str(z["net"]),
        data={"train": Dataset(ArraySource(items, path.stem), shuffle=False, name=path.stem)},
        test_iter=[],
        max_iter=int(z["max_iter"]),
        iter_size=int(z["iter_size"]),
    )
    start: dict[str, list[np.ndarray]] = {}
    for key in (key for key in z.files if key.startswith("param0:")):
        start.setdefault(key.split(":")[1], []).append(z[key])
    job.load_weights(start)
    for i in range(int(z["max_iter"])):
        job.step(1)
        params = job.variables["params"]
        for key in (key for key in z.files if key.startswith("param:")):
            _, layer, index = key.split(":")
            found, expected = params[layer][("weight", "bias")[int(index)]], z[key][i]
            # 2e-6 of the largest value: float32, and eight steps that build on each other.
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max(), err_msg=key)
