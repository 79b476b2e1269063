"""jaffe diff"""

from __future__ import annotations

from typing import Annotated

import typer


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A file of weights, in any format.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Compare the numbers of two files of weights. Exit status 1 when they differ."""
    from rich.console import Console
    from rich.table import Table

    from jaffe.netdef.weights import differences, read_weights

    left, right = read_weights(a), read_weights(b)
    found = differences(left, right)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    layers = [layer for layer in left if layer in right]
    if not found:
        blobs = sum(len(left[layer]) for layer in layers)
        console.print(f"equal: {len(layers)} layers, {blobs} blobs")
        return
    table = Table("layer", "blob", "", "numbers", "max absolute", "max relative")
    for one in found:
        numbers = [str(one.count), f"{one.absolute:.3g}", f"{one.relative:.3g}"] if not one.problem else []
        table.add_row(one.layer, "" if one.blob is None else str(one.blob), one.problem, *numbers)
    console.print(table)
    same = len(layers) - len({one.layer for one in found if one.layer in layers})
    console.print(f"A is {a}, B is {b}; {same} of {len(layers)} layers in both are equal")
    raise typer.Exit(1)
