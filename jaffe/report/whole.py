"""The page of a run, put together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaffe import __version__
from jaffe.netdef.atomic import write_file
from jaffe.report import classes, sections
from jaffe.report.page import page
from jaffe.report.results import results_of
from jaffe.report.run import evaluation_of, read_run


def report(
    run: str | os.PathLike[str], *, snapshot: str | os.PathLike[str] | None = None, data: str | None = None,
    python_modules: Sequence[str] = (),
) -> str:
    """A run as one HTML page, which fetches nothing and runs no script.

    What does not apply, as classes of a net that is no classifier, is left out; what is missing is said in its last
    section.

    Args:
        run: what ``jaffe train`` wrote: a folder with one run, its prefix (``runs/lenet/lenet``), or its metrics file.
        snapshot: whose weights to show; by default ``best`` where the run has such, else the latest.
        data: to test on, as ``Solver`` takes it by name; by default what the run was tested on.
        python_modules: names of the modules whose code Python layers may run.

    Raises:
        JaffeError: there is no such run or snapshot, or it is damaged; or ``data`` cannot be read.
    """
    found = read_run(run, snapshot, python_modules)
    evaluation = evaluation_of(found, data, python_modules)
    results = None if evaluation is None else results_of(found, evaluation)
    parts = {
        "Run": sections.facts(found),
        "Curves": sections.curves(found),
        "Net": sections.net(found),
    }
    if results is not None:
        parts |= {
            "Classes": classes.classes(results),
            "Confusion": classes.confusion(results),
            "Worst mistakes": classes.worst(results),
        }
    parts |= {
        "Filters": sections.first_filters(found),
        "Weights": sections.weights(found),
        "Settings": sections.settings(found),
    }
    return page(found.name, f"A run of training, reported by jaffe {__version__}.", parts, found.notes)


def write(
    run: str | os.PathLike[str], path: str | os.PathLike[str], *, snapshot: str | os.PathLike[str] | None = None,
    data: str | None = None, python_modules: Sequence[str] = (),
) -> None:
    """Write ``report(run, ...)`` to a file; it is there whole or not at all.

    Raises:
        JaffeError: as ``report``; or the file cannot be written, and what was there stays.
    """
    text = report(run, snapshot=snapshot, data=data, python_modules=python_modules)
    write_file(Path(path), text.encode("utf-8", "replace"))
