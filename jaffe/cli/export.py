"""jaffe export"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Inputs, PythonModules, Weights

if TYPE_CHECKING:
    from jaffe.compile import CompiledNet


def export(
    model: Annotated[str, typer.Argument(metavar="NET",
                                         help="Net prototxt, or the name of a recipe or net of the zoo.")],
    weights: Weights = "",
    onnx: Annotated[str, typer.Option(help="ONNX file to write.", show_default=False)] = "",
    stablehlo: Annotated[str, typer.Option(help="StableHLO file to write, for jax.export.deserialize.",
                                           show_default=False)] = "",
    outputs: Annotated[list[str], typer.Option("--output", help="A blob to return, in place of the net's outputs; "
                                               "repeatable.", show_default=False)] = [],  # noqa: B006  typer copies it
    batch: Annotated[int, typer.Option(min=0, help="Items in a batch, in place of the first size of --input.",
                                       show_default="any number")] = 0,
    platforms: Annotated[str, typer.Option(help="What StableHLO is for, separated by commas.",
                                           show_default="cpu,cuda")] = "",
    inputs: Inputs = [],  # noqa: B006
    python_modules: PythonModules = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
) -> None:
    """Write a net and its weights as ONNX, or as StableHLO: the forward pass in phase TEST."""
    from jaffe.cli.files import check_target, write
    from jaffe.cli.options import parse_shapes, read_model
    from jaffe.netdef import JaffeError

    if not onnx and not stablehlo:
        raise JaffeError("expected --onnx or --stablehlo: the file to write")
    if platforms and not stablehlo:
        raise JaffeError("--platforms is for --stablehlo; an ONNX file has none")
    if onnx and stablehlo and os.path.realpath(onnx) == os.path.realpath(stablehlo):
        raise JaffeError(f"--onnx and --stablehlo name the same file, {stablehlo}")
    for target in filter(None, (onnx, stablehlo)):
        check_target(target, force)
    from jaffe.compile import compile_net
    from jaffe.compile.export import check_platforms

    names = [name.strip() for name in (platforms or "cpu,cuda").split(",")]
    check_platforms(names)
    use_cache()
    net = compile_net(read_model(model), phase="TEST", inputs=parse_shapes(inputs), python_modules=python_modules)
    variables = load(net, weights, outputs)
    choice: dict[str, Any] = {"outputs": outputs or None, "batch": batch or "polymorphic"}
    if onnx:
        proto = told(lambda: net.export_onnx(variables, **choice))
        content = proto.SerializeToString()
        write(onnx, content, force)
        print(f"{onnx}: ONNX, opset {proto.opset_import[0].version}, {len(content):,} bytes")
        for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
            for value in values:
                show(kind, value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
    if stablehlo:
        content = told(lambda: net.export(variables, platforms=names, **choice))
        write(stablehlo, content, force)
        print(f"{stablehlo}: StableHLO for {', '.join(names)}, {len(content):,} bytes")
        show_artefact(content)


def load(net: CompiledNet, weights: str, outputs: Sequence[str]) -> Any:
    """The net's variables, from a file of weights where one is named.

    Raises:
        JaffeError: the file has no weights for a layer that is exported.
    """
    import jax

    from jaffe.compile import load_weights, weights_report
    from jaffe.compile.exported import exported_part
    from jaffe.netdef import JaffeError

    fresh = net.init(jax.random.key(0))
    needed = {node.name for node in exported_part(net, outputs or None).graph.nodes}
    if not weights:
        if any(net.stored[node.name] and not node.proto.blobs for node in net.graph.nodes if node.name in needed):
            print("jaffe: no --weights; they are as the fillers start them", file=sys.stderr)
        return fresh
    variables = load_weights(net, fresh, weights)
    missing = [layer for layer in weights_report(net, weights).left if layer in needed]
    if missing:
        raise JaffeError(f"{weights} has no weights for {', '.join(missing)} of net {net.name!r}")
    return variables


def told(call: Any) -> Any:
    """The result of a call, its warnings printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = call()
    for warning in caught:
        print(f"jaffe: {warning.message}", file=sys.stderr)
    return result


def show_artefact(content: bytes) -> None:
    """Print the inputs and outputs of a StableHLO artefact."""
    import jax

    exported = jax.export.deserialize(bytearray(content))
    (inputs,), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    for kind, values in (("input", inputs), ("output", outputs)):
        for name, value in values.items():
            show(kind, name, value.shape)


def show(kind: str, name: str, shape: Sequence[Any]) -> None:
    """Print one line of an input or output."""
    print(f"  {kind:<7} {name}  ({', '.join(map(str, shape))})")
