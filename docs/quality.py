"""Trains recipes with three seeds each, and keeps how good they become: `python -m docs.quality [NAME...]`.

Writes docs/quality.json, of which docs/zoo.py makes a table; without names, of all recipes whose data are here. Each
run is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "quality.json"
SEEDS = (1, 2, 3)
# Data that cannot be downloaded where the table is made, and where they lie there; paths are relative to this checkout.
ELSEWHERE = {"tfds:mnist": "../shared/data/mnist"}


def measured(name: str, seed: int) -> dict[str, Any]:
    """What a recipe reaches with a seed, and how long it takes, compiling included."""
    import jaffe
    from jaffe import zoo

    recipe = zoo.recipe(name)
    local = ELSEWHERE.get(recipe.data)
    began = time.perf_counter()
    solver = jaffe.Solver(recipe, random_seed=seed, display=0, snapshot=0, snapshot_after_train=False,
                          **({"data": local} if local else {}))
    solver.run()
    seconds = time.perf_counter() - began
    measure, share, value = quality(recipe, solver)
    return {"measure": measure, "share": share, "value": value, "seconds": round(seconds, 1)}


def quality(recipe: Any, solver: Any) -> tuple[str, bool, float]:
    """What says how good a trained net is, and whether that is a share: of detectors the mean average precision, of
    nets that name the class of each pixel the mean intersection over union, else what the recipe names."""
    from jaffe.train import evaluate_detection
    from jaffe.train.confusion import find_head

    types = {layer.type for layer in recipe.net.to_proto().layer}
    if "MultiBoxLoss" in types:
        return "mean average precision", True, float(evaluate_detection(recipe.net, solver.variables, recipe.data).mean)
    if "Accuracy" in types and find_head(solver.tests[0].net).spatial(solver.tests[0].net):
        report = solver.tests[0].class_report(solver.variables, solver.net)
        return "mean intersection over union", True, float(report.iou.mean())
    return recipe.measure.replace("_", " "), recipe.higher, float(solver.metrics.tests()[-1][recipe.measure])


def main(names: Iterable[str]) -> None:
    """Run recipes and enter their results."""
    from jaffe.zoo import RECIPES

    for name in names or RECIPES:
        runs = []
        for seed in SEEDS:
            command = [sys.executable, "-m", "docs.quality", "--one", name, str(seed)]
            done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines() or [f"ended with {done.returncode}"]
                print(f"{name}: {said[-1]}", file=sys.stderr)
                break
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            results[name] = runs
            RESULTS.write_text(json.dumps({key: results[key] for key in sorted(results)}, indent=1) + "\n")
            print(name, runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2], int(sys.argv[3]))))
    else:
        main(sys.argv[1:])
