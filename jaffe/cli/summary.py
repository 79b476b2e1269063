"""jaffe summary"""

from __future__ import annotations

from jaffe.cli.options import Inputs, Model, Phase, PythonModules, parse_shapes, read_model


def summary(
    model: Model = "",
    phase: Phase = "TEST",
    inputs: Inputs = [],  # noqa: B006  typer copies it
    python_modules: PythonModules = [],  # noqa: B006
) -> None:
    """Print a net as a table: layers, shapes, parameters, FLOPs forward and backward."""
    from jaffe.compile import compile_net

    shapes = parse_shapes(inputs)
    print(compile_net(read_model(model), phase=phase, inputs=shapes, python_modules=python_modules).summary())
