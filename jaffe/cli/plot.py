"""jaffe plot"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

METRICS = "_metrics.jsonl"  # what the solver adds to a run's prefix


def plot(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A metrics file, a run's prefix, a folder with "
                                              "metrics files, or a log of Caffe.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write: .png, .svg or .pdf.")] = "curves.png",
    x: Annotated[str, typer.Option("--x", help="iteration or seconds.")] = "iteration",
    y: Annotated[list[str], typer.Option("--y", help="loss, accuracy, lr, or any output of a net; may be repeated.",
                                         show_default="loss and accuracy")] = [],  # noqa: B006  typer copies it
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Draw the curves of one or several runs."""
    from pathlib import Path

    from jaffe.cli.files import check_target
    from jaffe.train.curves import plot_runs

    check_target(out, force)
    files = list(dict.fromkeys(file for run in runs for file in find(Path(run))))
    print(plot_runs(dict(zip(labels(files), map(read, files), strict=True)), Path(out), x=x, y=y))


def find(run: Path) -> list[Path]:
    """The files of a run, or of the runs in a folder.

    Raises:
        JaffeError: there are none.
    """
    from jaffe.netdef.errors import JaffeError

    of_prefix = run.parent / (run.name + METRICS)
    try:
        for file in (run, of_prefix):
            if file.is_file():
                return [file]
    except OSError as error:  # a name that is too long
        raise JaffeError(f"{run} cannot be read: {error.strerror}") from None
    inside = sorted(run.glob(f"*{METRICS}"))
    if not inside:
        where = f"a file *{METRICS} in it" if run.is_dir() else f"a metrics file, a log of Caffe, or {of_prefix}"
        raise JaffeError(f"{run} is no run: expected {where}; found none")
    return inside


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, or of a log of Caffe.

    Raises:
        JaffeError: it is neither, or a line is damaged, or there are no rows.
    """
    from jaffe.netdef.errors import JaffeError
    from jaffe.train.caffe_log import read_caffe_log
    from jaffe.train.report import read_metrics

    try:
        with path.open("rb") as file:
            json = path.suffix == ".jsonl" or file.read(1) == b"{"
    except OSError as error:
        raise JaffeError(f"{path} cannot be read: {error.strerror}") from None
    rows = read_metrics(path) if json else read_caffe_log(path)
    if not rows:
        raise JaffeError(f"{path} has no rows: nothing was displayed or tested yet")
    return rows


def labels(files: Sequence[Path]) -> list[str]:
    """A label for each file: its name, or as much of its path as tells it from the others."""
    full = [file.absolute() for file in files]
    stems = [file.with_name(file.name.removesuffix(METRICS).removesuffix(".log")) for file in full]
    parts = [(stem if stems.count(stem) == 1 else file).parts for stem, file in zip(stems, full, strict=True)]
    while len(parts) > 1 and len({own[-1] for own in parts}) == 1:  # a/run and b/run are a and b
        parts = [own[:-1] for own in parts]
    result = []
    for own in parts:
        others = [other for other in parts if other is not own]
        count = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        result.append("/".join(own[-count:]))
    return result
