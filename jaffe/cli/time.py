"""jaffe time"""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Device, Inputs, Model, Phase, PythonModules, parse_shapes, read_model, use_device


def time(
    model: Model = "",
    phase: Phase = "TRAIN",
    inputs: Inputs = [],  # noqa: B006  typer copies it
    iterations: Annotated[int, typer.Option(min=1, help="Runs of each; the median is shown.")] = 50,
    out: Annotated[str, typer.Option("-o", "--out", help="Draw the times as bars: .png, .svg or .pdf.",
                                     show_default=False)] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006
) -> None:
    """Time a net, whole and layer by layer, forward and backward, on random input."""
    from pathlib import Path

    from rich.console import Console

    from jaffe.cli.files import check_target
    from jaffe.compile import compile_net
    from jaffe.compile.lowering import onednn
    from jaffe.train.timing import time_layers, time_net, timing_table
    from jaffe.train.timing_picture import draw_timing, picture_kind

    if out:
        picture_kind(Path(out))
        check_target(out, force)
    use_device(device)
    if not onednn.available():  # XLA cannot store programs that call it
        use_cache()
    shapes = parse_shapes(inputs)
    net = compile_net(read_model(model), phase=phase, inputs=shapes, python_modules=python_modules)
    whole = time_net(net, iterations)
    console = Console(markup=False)  # names may hold what rich takes for markup
    layers = time_layers(net, iterations)
    console.print(timing_table(layers, whole))
    console.print(f"The whole net: traced in {whole.trace_seconds:.1f} s, compiled in {whole.compilation}.")
    console.print("Layers are timed one by one, each in a program of its own; the whole net is one program, "
                  "in which XLA joins layers and leaves out what no gradient needs.")
    if whole.profile is None:
        console.print("The profiler says nothing of single operations on this device.")
    else:
        console.print("In the net: the time of each layer's operations in that program, from the profiler. Operations "
                      "that run at the same time add up. A fused one counts for the layer of its result, layers that "
                      "the compiler made one for the first of them.")
    if out:
        console.print(f"written {draw_timing(layers, whole, Path(out))}")
