"""jaffe summary"""

from __future__ import annotations

from jaffe.cli.options import Inputs, Model, Phase, parse_shapes, read_model


def summary(model: Model = "", phase: Phase = "TEST", inputs: Inputs = []) -> None:  # noqa: B006  typer copies it
    """Print a net as a table: layers, shapes, parameters, FLOPs."""
    from jaffe.compile import compile_net

    print(compile_net(read_model(model), phase=phase, inputs=parse_shapes(inputs)).summary())
