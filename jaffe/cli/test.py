"""jaffe test"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jaffe.cli.options import Device, Model, PythonModules, Weights, read_model, use_device


def test(
    model: Model = "",
    weights: Weights = "",
    snapshot: Annotated[str, typer.Option(help="A snapshot of jaffe train to take weights from.",
                                          show_default=False)] = "",
    data: Annotated[str, typer.Option(help="tfds:NAME, lmdb:PATH or npz:PATH, in place of the data layers' files.",
                                      show_default=False)] = "",
    iterations: Annotated[int, typer.Option(min=1, help="Batches to run.")] = 50,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006  typer copies it
) -> None:
    """Run a net in phase TEST over data and print the mean of each output."""
    from jaffe.netdef.errors import JaffeError

    if bool(weights) == bool(snapshot):
        raise JaffeError("expected --weights or --snapshot, one of them")
    use_device(device)
    run(model, weights, snapshot, data, iterations, python_modules)


def run(
    model: str, weights: str, snapshot: str, data: str, iterations: int, python_modules: Sequence[str] = ()
) -> None:
    """Compile, load weights, evaluate, print."""
    from pathlib import Path

    import jax
    import numpy as np

    from jaffe.compile import compile_net, load_weights
    from jaffe.netdef import NetState, load, resolve
    from jaffe.train.data import Feed
    from jaffe.train.evaluate import Evaluation
    from jaffe.train.snapshots import restore_variables
    from jaffe.zoo import RECIPES, recipe

    source = load(read_model(model))
    if not data and model in RECIPES:
        data = recipe(model).data
    feed = Feed(resolve(source, NetState("TEST")), data or None, base=source.directory)
    net = compile_net(source, phase="TEST", inputs=feed.shapes, python_modules=python_modules)
    fresh = net.init(jax.random.key(0))
    if weights:
        variables = load_weights(net, fresh, weights)
    else:
        variables = restore_variables(Path(snapshot), fresh, net.fresh_carry())
    results = Evaluation(net, feed, iterations, jax.random.key(0)).run(variables)
    for name, value in results.items():
        print(f"{name} = {value:.6g}" if isinstance(value, float) else f"{name}: mean {np.mean(value):.6g}")
