"""jaffe deploy"""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.cli.options import parse_shapes


def deploy(
    source: Annotated[str, typer.Argument(metavar="TRAIN_VAL",
                                          help="Net prototxt, or the name of a recipe or net of the zoo.")],
    out: Annotated[str, typer.Option("-o", "--out", help="File to write.", show_default="print it")] = "",
    shapes: Annotated[list[str], typer.Option("--shape", "--input", help="Shape of an input that the net does not "
                                              "state, as data=1,3,227,227; repeatable.", show_default=False)] = [],  # noqa: B006
    outputs: Annotated[list[str], typer.Option("--output", help="A blob to keep, in place of the predictions that are "
                                               "found; repeatable.", show_default=False)] = [],  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="First axis of inputs that stand for data layers.")] = 1,
    stages: Annotated[list[str], typer.Option("--stage", help="Stage of the net; repeatable.",
                                              show_default=False)] = [],  # noqa: B006
    fillers: Annotated[bool, typer.Option("--fillers", help="Keep the settings of fillers.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Make the deploy net of a net for training: inputs for data layers, no losses. Weights load by name."""
    import sys

    from jaffe.cli.files import show, write
    from jaffe.cli.options import read_model
    from jaffe.netdef import deploy as deploy_net
    from jaffe.netdef import format_text, resolve

    net = deploy_net(read_model(source), parse_shapes(shapes, "--shape"), outputs=outputs or None, batch=batch,
                     stages=stages, fillers=fillers)
    if out:
        write(out, format_text(net), force)
    else:
        show(format_text(net))
    fed = [
        f"{layer.top[0]} ({', '.join(map(str, layer.input_param.shape[0].dim)) if layer.input_param.shape else '?'})"
        for layer in net.layer if layer.type == "Input"
    ]
    print(f"{source}: reads {', '.join(fed) or 'nothing'}; gives {', '.join(resolve(net).outputs)}", file=sys.stderr)
