"""jaffe report"""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Device, PythonModules, use_device


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="What jaffe train wrote: a run's folder, its prefix, or its "
                                       "metrics file.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write.",
                                     show_default="PREFIX_report.html, beside the run")] = "",
    snapshot: Annotated[str, typer.Option(help="The snapshot to show.",
                                          show_default="the best one, else the latest")] = "",
    data: Annotated[str, typer.Option(help="What to test on: tfds:NAME, or a path, as lmdb:PATH (docs/data.md has all "
                                      "kinds).", show_default="what the run was tested on")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006  typer copies it
) -> None:
    """Write a run as one HTML page: net, curves, classes, worst mistakes, filters, weights."""
    from jaffe.cli.files import check_target
    from jaffe.report import write
    from jaffe.report.run import METRICS, find_metrics

    metrics = find_metrics(run)
    target = out or str(metrics).removesuffix(METRICS) + "_report.html"
    check_target(target, force)
    use_device(device)
    use_cache()
    write(metrics, target, snapshot=snapshot or None, data=data or None, python_modules=python_modules)
    print(target)
