"""Every notebook runs from top to bottom, and is committed without outputs."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHARED = ROOT.parent / "shared"
SECONDS_PER_CELL = 300

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_is_committed_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    left = [cell["id"] for cell in notebook["cells"]
            if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"] is not None)]
    assert not left, "clear the outputs of these cells"


@each_notebook
def test_begins_with_its_title(path: Path) -> None:
    first, *_, last = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert first["cell_type"] == "markdown"
    assert first["source"][0].startswith("# ")
    assert "## What next\n" in last["source"]


@each_notebook
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if path.stem in NEED_FILES:
        request.getfixturevalue("shared")
    if SHARED.is_dir():
        for name, files in FILES.get(path.stem, {}).items():
            monkeypatch.setenv(name, os.pathsep.join(str(SHARED / file) for file in files))
    cells = _execute(path, tmp_path, monkeypatch)
    assert "".join(_texts(cells, "stderr")) == ""
    pictures, figures = CHECKS[path.stem]
    for cell in pictures:
        assert PICTURES & _formats(cells[cell]), f"expected a picture of {cell!r}"
    printed = "".join(_texts(cells, "stdout"))
    for pattern, least, most in figures:
        found = re.search(pattern, printed, re.MULTILINE)
        assert found, f"expected a line like {pattern!r}"
        assert least <= float(found[1].replace(",", "")) <= most, found[0]


def test_every_notebook_has_its_checks() -> None:
    assert set(CHECKS) == {path.stem for path in NOTEBOOKS}


# Environment variables that name files, which are not part of the repository. Without them a part is left out, but for
# notebooks that need them.
FILES = {
    "02-classification": {
        "JAFFE_SQUEEZENET": ("models/files/squeezenet_v1.0_deepcompression",),
        "JAFFE_PHOTOS": ("data/imgs",),
    },
    "11-old-project": {
        "JAFFE_OLD_NET": (
            "models/files/lenet_cifar_v1_2014/examples/mnist/lenet.prototxt",
            "models/files/lenet_cifar_v1_2014/examples/mnist/lenet_iter_10000.caffemodel",
            "models/expected/lenet_cifar_v1_2014__lenet_iter_10000.caffemodel__lenet.prototxt.npz",
        ),
    },
}
NEED_FILES = {"02-classification"}
PICTURES = {"image/png", "image/svg+xml", "text/markdown"}  # Mermaid is text
# Cells that make pictures; and numbers that are printed: a pattern, the least and the most. Accuracies are some
# hundredths below, and ways that must fail above, what was measured.
CHECKS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, float, float], ...]]] = {
    "01-compiler": (
        ("draw", "plane", "vmap", "vmap-mean"),
        ((r"^loss .* -> (\d\.\d+)$", 0, 0.02), (r"exported net, accuracy: (\S+)", 0.99, 1)),
    ),
    "02-classification": (
        ("answer", "filters", "maps", "why", "ideal"),
        ((r"^([\d,]+) parameters", 1_248_424, 1_248_424), (r"^cat .*kit fox (\d+)%", 25, 50),
         (r"^flower .*sea urchin (\d+)%", 40, 70)),
    ),
    "03-lenet": (
        ("picture", "curve", "examples", "filters", "maps", "confusion"),
        ((r"([\d,]+) parameters", 431_080, 431_080), (r"^test accuracy: (\S+)$", 0.95, 1)),
    ),
    "04-fine-tuning": (
        ("data", "curves", "moved", "features"),
        ((r"^accuracy on digits: (\S+)$", 0.95, 1), (r"^from scratch test accuracy: (\S+)", 0.7, 0.88),
         (r"^fine-tuned   test accuracy: (\S+)", 0.88, 1), (r"^frozen       test accuracy: (\S+)", 0.88, 1)),
    ),
    "05-net-surgery": (
        ("filter", "patches", "declaration", "heat", "find"),
        ((r"^accuracy on patches: (\S+)$", 0.93, 1), (r"^20 digits on the page; (\d+) found", 18, 25),
         (r"(\d+) of them read correctly$", 16, 20)),
    ),
    "06-custom-layer": (
        ("gradient-picture", "gradient-train"),
        ((r"^Mish     test accuracy: (\S+)$", 0.95, 1), (r"^Sign     test accuracy: (\S+)$", 0.92, 1),
         (r"^TrueSign test accuracy: (\S+)$", 0.5, 0.9)),
    ),
    "07-losses-siamese": (
        ("tasks", "train-three", "siamese", "pairs", "space"),
        ((r"^weight 0.3: which: (\d\.\d+)", 0.94, 1), (r"^weight 0.3: .* odd: (\d\.\d+)", 0.93, 1),
         (r"^weight  10: which: (\d\.\d+)", 0, 0.6), (r"digits 0 to 6: accuracy (\S+)$", 0.94, 1),
         (r"digits 7 to 9: accuracy (\S+) ", 0.55, 1)),
    ),
    "08-recurrent": (
        ("drawn", "rows-picture"),
        ((r"^accuracy after row 1: (\S+)$", 0.15, 0.5), (r"^accuracy after row 8: (\S+)$", 0.88, 1),
         (r"^ 1000 steps:  4004 layers, (\S+) s$", 0, 30)),
    ),
    "09-segmentation": (
        ("data", "net", "train", "pictures", "any"),
        ((r"^coarse     mean IoU: (\S+)", 0.65, 0.84), (r"^with_skips mean IoU: (\S+)", 0.8, 1),
         (r"pixels, (\S+)% of them right$", 95, 100)),
    ),
    "10-many-devices": (
        ("curves", "norm", "plan"),
        ((r"^largest difference, strong against one: (\S+)$", 0, 1e-4),
         (r"^largest difference from one device: (\S+)$", 0, 1e-4)),
    ),
    "11-old-project": (
        ("look", "curves", "predictions"),
        ((r"^accuracy of the revived net: (\S+)$", 0.94, 1),),
    ),
}


def _execute(path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The outputs of each code cell by its id, from a run in this interpreter's environment.

    No installed kernel is looked for, so that ``python3`` is the one of ``sys.executable``; its working folder is
    ``scratch``, and so are the settings of IPython.
    """
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient: pip install 'jaffe[notebook]'")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel: pip install 'jaffe[notebook]'")
    import nbformat
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    kernels = KernelSpecManager(kernel_dirs=[])
    assert kernels.get_kernel_spec("python3").argv[0] == sys.executable

    class ThisInterpreter(AsyncKernelManager):
        def _kernel_spec_manager_default(self) -> KernelSpecManager:
            return kernels

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(scratch / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS_PER_CELL, kernel_manager_class=ThisInterpreter,
        resources={"metadata": {"path": str(scratch)}},
    )
    failure = ""
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        failure = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # the traceback comes in colours
    if failure:
        pytest.fail(f"{path.name}: {failure}", pytrace=False)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def _texts(cells: dict[str, list[Any]], stream: str) -> list[str]:
    return [output.text for outputs in cells.values() for output in outputs if output.get("name") == stream]


def _formats(outputs: list[Any]) -> set[str]:
    return {name for output in outputs for name in output.get("data", {})}
