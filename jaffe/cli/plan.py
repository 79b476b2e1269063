"""jaffe plan"""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.cli.options import Inputs, Model, PythonModules, parse_shapes, read_model


def plan(
    model: Model = "",
    devices: Annotated[int, typer.Option(min=1, help="How many train together.")] = 8,
    batch: Annotated[int | None, typer.Option(min=1, help="First axis of every input.",
                                              show_default="the declared one")] = None,
    inputs: Inputs = [],  # noqa: B006  typer copies it
    machine: Annotated[str, typer.Option(help="h100 or a100: nodes of eight.")] = "h100",
    scaling: Annotated[str, typer.Option(help="weak: each device has the batch; strong: all share it.")] = "weak",
    model_parallel: Annotated[int | None, typer.Option(
        min=1, help="Divide layers over so many devices (1: none).", show_default="what is fastest")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    python_modules: PythonModules = [],  # noqa: B006
) -> None:
    """Predict a training step on several devices, and say which layers to divide.

    Of each layer: parameters, operations, bytes that a device sends if the layer is data parallel and if it is divided,
    and milliseconds, by the data sheet of the machine: docs/scaling.md.
    """
    from jaffe.compile import compile_net
    from jaffe.plan import machine_of
    from jaffe.plan import plan as make

    found = machine_of(machine)
    net = compile_net(read_model(model), phase="TRAIN", inputs=parse_shapes(inputs), batch=batch, precision=precision,
                      python_modules=python_modules)
    print(make(net, devices, machine=found, scaling=scaling, model_parallel=model_parallel))  # type: ignore[arg-type]
