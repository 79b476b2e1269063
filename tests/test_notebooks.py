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
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = _execute(path, tmp_path, monkeypatch)
    assert "".join(_texts(cells, "stderr")) == ""
    if path.stem in CHECKS:
        CHECKS[path.stem](cells)


def test_checks_name_notebooks() -> None:
    assert set(CHECKS) <= {path.stem for path in NOTEBOOKS}


def _check_lenet(cells: dict[str, list[Any]]) -> None:
    found = re.findall(r"^test accuracy: (\d\.\d+)$", "".join(_texts(cells, "stdout")), re.MULTILINE)
    assert found, "expected a line 'test accuracy: 0.9...'"
    assert float(found[-1]) >= 0.95
    assert "431,080" in "".join(_texts(cells, "stdout"))
    assert {"image/svg+xml", "text/markdown"} & _formats(cells["picture"])
    for cell in ("curve", "examples", "filters", "maps", "confusion"):
        assert "image/png" in _formats(cells[cell]), cell


CHECKS = {"01-lenet": _check_lenet}


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
