"""jaffe compare"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Device, Phase, PythonModules, read_model, use_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from jaffe.compile import CompiledNet
    from jaffe.compile.net import Variables
    from jaffe.parity import Reference


def compare(
    net: Annotated[str, typer.Argument(help="Net prototxt, or the name of a recipe or net of the zoo.")],
    weights: Annotated[str, typer.Argument(help="Its weights; without, they are filled as the net declares.",
                                           show_default=False)] = "",
    against: Annotated[str, typer.Option(help="An .npz of blobs, an .onnx model, opencv, float64, or another prototxt.",
                                         show_default=False)] = "",
    against_weights: Annotated[str, typer.Option(help="Weights of the other net or of opencv's, in place of the net's.",
                                                 show_default=False)] = "",
    inputs: Annotated[list[str], typer.Option("--input", help="Values of an input, as data=file.npy, or its shape, "
                                              "as data=1,3,224,224; repeatable.", show_default=False)] = [],  # noqa: B006
    tolerance: Annotated[float, typer.Option(min=0, help="Largest error, as a part of a blob's largest value.")] = 1e-4,
    phase: Phase = "TEST",
    seed: Annotated[int, typer.Option(help="Of inputs that nothing gives: they are random.")] = 0,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006  typer copies it
) -> None:
    """Say where a net's values differ from a reference's, and why: the first wrong layer. Exit status 1 if any."""
    from jaffe.netdef.errors import JaffeError

    if not against:
        raise JaffeError("expected --against: an .npz of blobs, an .onnx model, opencv, float64, or another prototxt")
    use_device(device)
    use_cache()
    if not run(net, weights, against, against_weights, inputs, tolerance, phase, seed, python_modules):
        raise typer.Exit(1)


def run(
    net: str, weights: str, against: str, against_weights: str, inputs: list[str], tolerance: float, phase: str,
    seed: int, python_modules: Sequence[str],
) -> bool:
    """Make the reference, compare, print; whether they agree."""
    from rich.console import Console

    from jaffe.compile import compile_net
    from jaffe.parity import Reference, random_inputs
    from jaffe.parity import compare as compare_net

    arrays, shapes = read_inputs(inputs)
    source = read_model(net)
    recorded = Reference.of(against) if against.endswith(".npz") else None
    if recorded is not None:
        arrays = {**recorded.inputs, **arrays}
    shapes |= {name: array.shape for name, array in arrays.items()}
    compiled = compile_net(source, phase=phase, inputs=shapes, python_modules=python_modules)
    if recorded is not None:
        arrays = {**{name: recorded.blobs[name] for name in compiled.inputs if name in recorded.blobs}, **arrays}
    else:
        arrays = {**random_inputs(compiled, seed), **arrays}
    variables = load(compiled, weights)
    reference = recorded or make_reference(compiled, variables, net, weights, against, against_weights, arrays,
                                           python_modules)
    result = compare_net(compiled, variables, reference, inputs=arrays, tolerance=tolerance,
                         rng=_key() if phase == "TRAIN" else None)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(result.table())
    console.print(result.verdict())
    return result.agrees


def read_inputs(given: Sequence[str]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """``["data=x.npy", "label=2,1"]`` as arrays and shapes. Raises JaffeError for anything else."""
    import numpy as np

    from jaffe.cli.options import parse_shapes
    from jaffe.netdef.errors import JaffeError

    files = [text for text in given if text.endswith(".npy")]
    arrays: dict[str, Any] = {}
    for text in files:
        name, _, path = text.partition("=")
        try:
            arrays[name] = np.load(path)
        except (OSError, ValueError) as error:
            raise JaffeError(f"--input {text}: cannot be read: {error}") from None
    return arrays, parse_shapes([text for text in given if text not in files])


def load(net: CompiledNet, weights: str) -> Variables:
    """Variables of a net, from a file of weights where there is one."""
    from jaffe.compile import load_weights

    fresh = net.init(_key())
    return load_weights(net, fresh, weights) if weights else fresh


def make_reference(
    net: CompiledNet, variables: Variables, prototxt: str, weights: str, against: str, against_weights: str,
    inputs: Mapping[str, Any], python_modules: Sequence[str],
) -> Reference:
    """What ``--against`` names, computed on the inputs."""
    from jaffe.compile import compile_net
    from jaffe.parity import in_float64, run_net, run_onnx, run_opencv

    shapes = {name: array.shape for name, array in inputs.items()}
    rng = _key() if net.phase == "TRAIN" else None
    if against == "float64":
        import jax
        import numpy as np

        exact = jax.tree.map(np.asarray, variables)
        return in_float64(lambda dtype: (
            compile_net(read_model(prototxt), phase=net.phase, inputs=shapes, dtype=dtype,
                        python_modules=python_modules), exact), inputs)
    if against == "opencv":
        return run_opencv(net, prototxt, against_weights or weights, inputs)
    if against.endswith(".onnx"):
        return run_onnx(against, inputs)
    other = compile_net(read_model(against), phase=net.phase, inputs=shapes, python_modules=python_modules)
    return run_net(other, load(other, against_weights or weights), inputs, rng, name=against)


def _key() -> Any:
    import jax

    return jax.random.key(0)
