"""jaffe test"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import (
    Data,
    Device,
    Iterations,
    Model,
    PythonModules,
    SkipDamaged,
    Snapshot,
    WeightsFiles,
    read_model,
    use_device,
)

if TYPE_CHECKING:
    from jaffe.train.evaluate import Evaluation


def test(
    model: Model = "",
    weights: WeightsFiles = "",
    snapshot: Snapshot = "",
    data: Data = "",
    iterations: Iterations = "50",
    stage: Annotated[str, typer.Option(help="Stages that the net is in, separated by commas.",
                                       show_default=False)] = "",
    level: Annotated[int | None, typer.Option(help="Level that the net is in.", show_default="the net's own")] = None,
    report: Annotated[bool, typer.Option("--report", help="Print a confusion matrix, recall and precision of each "
                                         "class, and top-k. Implied by the options that follow.")] = False,
    output: Annotated[list[str], typer.Option(help="Write the report: .json, .csv, .png, .svg or .pdf; repeatable.",
                                              show_default=False)] = [],  # noqa: B006  typer copies it
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --output names.")] = False,
    top_k: Annotated[str, typer.Option(help="How many classes of highest score a label may be among.",
                                       show_default="1,5")] = "",
    scores: Annotated[str, typer.Option(help="The blob with the scores.",
                                        show_default="what the last Accuracy or loss reads")] = "",
    labels: Annotated[str, typer.Option(help="The blob with the labels.", show_default="as --scores")] = "",
    ignore_label: Annotated[int | None, typer.Option(help="A label to leave out.",
                                                     show_default="what that layer says")] = None,
    skip_damaged: SkipDamaged = False,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006
) -> None:
    """Run a net in phase TEST over data and print the mean of each output."""
    from jaffe.cli.files import check_target
    from jaffe.train.class_report import check_suffix

    check_weights(weights, snapshot)
    batches = number_of_batches(iterations)
    ks = [_number("--top-k", k) for k in top_k.split(",")] if top_k else []
    for path in output:
        check_suffix(path)
        check_target(path, force)
    wanted = report or bool(output or top_k or scores or labels) or ignore_label is not None
    use_device(device)
    use_cache()
    evaluation, variables = prepare(model, weights, snapshot, data, batches, stage, level, python_modules,
                                    skip_damaged)
    if not wanted:
        _show_means(evaluation, evaluation.run(variables))
        return
    found = evaluation.class_report(variables, scores=scores, labels=labels, top_k=ks, ignore_label=ignore_label)
    _show_means(evaluation, found.outputs)
    print(f"\n{found}")
    for path in output:
        found.save(path)
        print(f"written {path}")


def check_weights(weights: str, snapshot: str) -> None:
    """Raises JaffeError when not one of the two is given, or it is something else."""
    from jaffe.netdef.errors import JaffeError
    from jaffe.netdef.solverstate import is_solver_state

    if bool(weights) == bool(snapshot):
        raise JaffeError("expected --weights or --snapshot, one of them")
    if weights and Path(weights).is_dir():
        raise JaffeError(f"--weights {weights} is a folder: expected a file; --snapshot takes snapshots")
    if is_solver_state(snapshot):
        raise JaffeError(f"--snapshot {snapshot}: the weights are in the .caffemodel beside it: expected --weights")


def number_of_batches(iterations: str) -> int | None:
    """``--iterations``: a number, or ``None`` for all. Raises JaffeError for anything else."""
    return None if iterations == "all" else _number("--iterations", iterations)


def prepare(
    model: str, weights: str, snapshot: str, data: str, iterations: int | None = 50, stage: str = "",
    level: int | None = None, python_modules: Sequence[str] = (), skip_damaged: bool = False,
) -> tuple[Evaluation, dict[str, Any]]:
    """Compile the net, open its data and load its weights."""
    import jax

    from jaffe.compile import compile_net, load_weights
    from jaffe.netdef import NetState, load, resolve
    from jaffe.train.data import Feed
    from jaffe.train.evaluate import Evaluation
    from jaffe.train.snapshots import restore_variables
    from jaffe.zoo import RECIPES, recipe

    source = load(read_model(model))
    if not data and model in RECIPES:
        data = recipe(model).data
    stages = [name.strip() for name in stage.split(",") if name.strip()]
    own = source.net.state
    state = NetState("TEST", own.level if level is None else level, (*own.stage, *stages))
    feed = Feed(resolve(source, state), data or None, base=source.directory, skip_damaged=skip_damaged)
    net = compile_net(source, phase="TEST", inputs=feed.shapes, stages=stages, level=level,
                      python_modules=python_modules)
    fresh = net.init(jax.random.key(0))
    if weights:
        variables = load_weights(net, fresh, weights)
    else:
        variables = restore_variables(Path(snapshot), fresh, net.fresh_carry())
    return Evaluation(net, feed, iterations, jax.random.key(0)), variables


def _show_means(evaluation: Evaluation, means: Mapping[str, float | list[float]]) -> None:
    import numpy as np

    for name, value in means.items():
        print(f"{name} = {value:.6g}" if isinstance(value, float) else f"{name}: mean {np.mean(value):.6g}")
    for message in evaluation.feed.damaged:
        print(f"skipped: {message}", file=sys.stderr)
    if evaluation.repeats:
        print(f"{evaluation.iterations} batches of {evaluation.feed.images} took records more than once; "
              "--iterations all takes each once", file=sys.stderr)


def _number(option: str, text: str) -> int:
    """A positive whole number. Raises JaffeError for anything else."""
    from jaffe.netdef.errors import JaffeError

    if not text.strip().isdecimal() or not int(text):
        raise JaffeError(f"{option} {text}: expected numbers from 1 on" + ", or all" * (option == "--iterations"))
    return int(text)
