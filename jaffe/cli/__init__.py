"""The ``jaffe`` command. Modules here import nothing heavy at the top: ``jaffe --help`` answers at once."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from jaffe import __version__
from jaffe.cli.compare import compare
from jaffe.cli.convert import convert
from jaffe.cli.data import data
from jaffe.cli.deploy import deploy
from jaffe.cli.devices import devices
from jaffe.cli.diff import diff
from jaffe.cli.export import export
from jaffe.cli.features import features
from jaffe.cli.plan import plan
from jaffe.cli.plot import plot
from jaffe.cli.report import report
from jaffe.cli.summary import summary
from jaffe.cli.test import test
from jaffe.cli.time import time
from jaffe.cli.train import train
from jaffe.cli.upgrade import upgrade
from jaffe.cli.zoo import zoo
from jaffe.netdef.errors import JaffeError, of_callbacks

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """A network is data: train, test, time and look at nets declared in Caffe's prototxt."""
    if version:
        print(__version__)
        raise typer.Exit


for command in (
    train, test, plot, report, summary, plan, time, upgrade, deploy, convert, diff, compare, export, features, devices,
    zoo,
):
    app.command()(command)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; a wrong net, file or setting ends with its message and exit status 1."""
    logging.getLogger("jax._src.callback").disabled = True  # the traceback of what is said here in one line
    try:
        with of_callbacks():
            app()
    except JaffeError as error:
        print(f"jaffe: {error}", file=sys.stderr)
        sys.exit(1)
