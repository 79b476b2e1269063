"""jaffe convert"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Inputs, Phase, PythonModules, parse_shapes, read_model

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file of weights, or a snapshot of jaffe train.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="File to write: .caffemodel, .caffemodel.h5, .h5, "
                                       ".safetensors or .npz; iter_N, a snapshot (orbax); or .solverstate(.h5), from "
                                       "a snapshot, for Caffe to go on.")],
    net: Annotated[str, typer.Option(help="The net that the weights are of: prototxt, or the name of a recipe or net "
                                     "of the zoo. Needed for snapshots, in or out; with it .caffemodel holds the "
                                     "declaration too.",
                                     show_default=False)] = "",
    phase: Phase = "TEST",
    inputs: Inputs = [],  # noqa: B006  typer copies it
    python_modules: PythonModules = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
) -> None:
    """Write weights in another format, named by its suffix."""
    from pathlib import Path

    from jaffe.netdef import JaffeError
    from jaffe.netdef.solverstate import is_solver_state
    from jaffe.netdef.weights import check_suffix

    target = Path(out)
    if not is_snapshot(target) and not is_solver_state(target):
        check_suffix(target)
    if target.exists() and not force:
        raise JaffeError(f"{out} is there already; --force overwrites it")
    if net:
        use_cache()
    if is_solver_state(target):
        for_caffe(source, target, net, inputs, python_modules)
    elif net:
        with_net(source, target, net, phase, inputs, python_modules)
    else:
        without_net(source, target)
    size = sum(file.stat().st_size for file in [target, *target.rglob("*")] if file.is_file())
    print(f"{out}: {size:,} bytes")


def is_snapshot(target: Path) -> bool:
    """Whether the name is that of a snapshot: ``iter_100``, but not ``iter_100.npz``."""
    return target.name.startswith("iter_") and not target.suffix


def for_caffe(source: str, target: Path, model: str, inputs: list[str], python_modules: Sequence[str]) -> None:
    """Write a snapshot's state for Caffe, with the weights beside it."""
    from pathlib import Path

    import jax

    from jaffe.compile import compile_net
    from jaffe.netdef import JaffeError
    from jaffe.netdef.text import read_solver
    from jaffe.train import make_optimizer
    from jaffe.train.caffe_state import write_caffe_state
    from jaffe.train.snapshots import read_about, restore
    from jaffe.train.step import begin

    if not model or not Path(source).is_dir():
        raise JaffeError(f"{target}: expected a snapshot and --net, the net that was trained")
    about = read_about(Path(source))
    solver = read_solver(about.get("solver", ""))
    if about.get("type") != solver.type:
        raise JaffeError(f"{source} is of a run with an optimizer of its own, or holds weights only; Caffe's files "
                         "hold the state of its own solvers")
    net = compile_net(read_model(model), phase="TRAIN", inputs=parse_shapes(inputs), python_modules=python_modules)
    key = jax.random.key(0)
    fresh = begin(net.init(key), make_optimizer(solver, net), key, averaged=about["ema"])
    state, _ = restore(Path(source), fresh)
    weights = write_caffe_state(target, net, solver, state)
    print(f"{weights}: the weights that it names")


def with_net(
    source: str, target: Path, model: str, phase: str, inputs: list[str], python_modules: Sequence[str]
) -> None:
    """Load the weights into the net, and save them as the net has them."""
    from pathlib import Path

    import jax

    from jaffe.compile import compile_net, load_weights, save_weights, weights_report
    from jaffe.netdef import JaffeError

    shapes = parse_shapes(inputs)
    net = compile_net(read_model(model), phase=phase, inputs=shapes, python_modules=python_modules)
    fresh = net.init(jax.random.key(0))
    if Path(source).is_dir():
        from jaffe.train.snapshots import restore_variables

        variables = restore_variables(Path(source), fresh, net.fresh_carry())
    else:
        variables = load_weights(net, fresh, source)
        report = weights_report(net, source)
        if report.left:
            raise JaffeError(f"{source} has no weights for {', '.join(report.left)} of net {net.name!r}")
        if report.ignored:
            print(f"left out, for the net has no such layers: {', '.join(report.ignored)}")
    if is_snapshot(target):
        from jaffe.train.snapshots import save_variables

        save_variables(target, variables, net.fresh_carry())
    else:
        save_weights(net, variables, target)


def without_net(source: str, target: Path) -> None:
    """Write the blobs as the file has them."""
    from pathlib import Path

    from jaffe.netdef import JaffeError
    from jaffe.netdef.weights import by_name, read_entries, write_weights

    if Path(source).is_dir():
        raise JaffeError(f"{source} is a folder: expected --net, the net whose snapshot it is")
    if is_snapshot(target):
        raise JaffeError(f"{target}: a snapshot has a net's own names: expected --net")
    entries = read_entries(source)
    weights = by_name(entries, Path(source))
    if target.suffix not in (".safetensors", ".npz"):
        if _four_axes(weights) or any(entry.four_axes for entry in entries):
            raise JaffeError(f"{source} has blobs of four axes, as in files of 2014: expected --net, for the shapes "
                             "that Caffe's later formats have")
        shared = next((name for name, blobs in weights.items() if any(blob is None for blob in blobs)), None)
        if shared and target.suffix == ".caffemodel":
            raise JaffeError(f"{source} leaves out blobs of layer {shared!r}, which shares them with an earlier one: "
                             "expected --net, which says with which")
    write_weights(target, weights)


def _four_axes(weights: Mapping[str, Sequence[np.ndarray | None]]) -> bool:
    """Whether the blobs have Caffe's old shapes, (1, 1, 1, N) for biases, in a format that does not say so."""
    shapes = [blob.shape for blobs in weights.values() for blob in blobs if blob is not None]
    return all(len(shape) == 4 for shape in shapes) and any(shape[:3] == (1, 1, 1) for shape in shapes)
