"""jaffe train"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.options import Data, PythonModules, SkipDamaged, chosen_devices, parse_settings

if TYPE_CHECKING:
    from rich.console import Console

    from jaffe.train import Parallel, Solver

DEFAULT_RECIPE = "lenet"


def train(
    solver: Annotated[str, typer.Option(help="Solver prototxt.", show_default=False)] = "",
    recipe: Annotated[str, typer.Option(help="A zoo recipe; without --solver, lenet.", show_default=False)] = "",
    model: Annotated[str, typer.Option(help="Net prototxt, in place of the solver's.", show_default=False)] = "",
    data: Data = "",
    test_data: Annotated[str, typer.Option(help="The same for the test nets.", show_default="as --data")] = "",
    weights: Annotated[str, typer.Option(help="Fine-tune from .caffemodel files, separated by commas.",
                                         show_default=False)] = "",
    snapshot: Annotated[str, typer.Option(help="Go on from a snapshot: iter_N, best, a folder of them, or Caffe's "
                                               ".solverstate.", show_default=False)] = "",
    iterations: Annotated[int | None, typer.Option(min=1, help="Stop at this iteration, in place of max_iter.",
                                                   show_default=False)] = None,
    output: Annotated[str, typer.Option(help="Prefix of what is written, in place of snapshot_prefix.",
                                        show_default=False)] = "",
    settings: Annotated[list[str], typer.Option(
        "--set", help="A solver setting, as base_lr=0.01, type=AdamW, stepvalue=100,200; repeatable.",
        show_default=False)] = [],  # noqa: B006  typer copies it
    caffe_log: Annotated[str, typer.Option(help="Also write the lines that Caffe would, for scripts that parse them.",
                                           show_default=False)] = "",
    tensorboard: Annotated[str, typer.Option(help="Also write events for TensorBoard to this folder.",
                                             show_default=False)] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and decode data that do not stay on the "
                                         "device. 0: threads, enough but for data sources in Python.")] = 0,
    skip_damaged: SkipDamaged = False,
    device: Annotated[str, typer.Option("--device", "--gpu", help="cpu, gpu:1, a GPU's number, several separated by "
                                        "commas, or all.", show_default="JAX's default")] = "",
    devices: Annotated[int | None, typer.Option(min=1, help="Train on the first so many devices.",
                                                show_default=False)] = None,
    parallel: Annotated[str, typer.Option(help="How a step runs on several devices: pmap, or jit of a mesh; the "
                                          "numbers are the same.", show_default="pmap where it can")] = "",
    scaling: Annotated[str, typer.Option(help="weak: each device takes the net's batch, as in Caffe; strong: they "
                                         "divide it.")] = "weak",
    model_parallel: Annotated[int, typer.Option(min=1, help="So many devices share the weights of large layers: those "
                                                "with divide in the net, or as jaffe plan recommends.")] = 1,
    zero: Annotated[bool, typer.Option("--zero", help="Divide what the solver keeps (momentum) among the devices.")
                    ] = False,
    distributed: Annotated[bool, typer.Option("--distributed", help="This is one of several processes, as SLURM, "
                                              "mpirun or Kubernetes start them: examples/cluster.")] = False,
    coordinator: Annotated[str, typer.Option(help="HOST:PORT of process 0, where no such cluster says it.",
                                             show_default=False)] = "",
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes there are.",
                                                  show_default=False)] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Number of this one, from 0.", show_default=False)] = None,
    python_modules: PythonModules = [],  # noqa: B006
) -> None:
    """Train a net. Without options: LeNet on handwritten digits."""
    from jaffe.compile.lowering import onednn
    from jaffe.netdef.errors import JaffeError
    from jaffe.netdef.solverstate import is_solver_state
    from jaffe.train import Parallel
    from jaffe.train.processes import join, leave

    if solver and recipe:
        raise JaffeError("--solver excludes --recipe; use one")
    if weights and snapshot and not is_solver_state(snapshot):
        raise JaffeError("--weights begins a run and --snapshot goes on with one; use one")
    if not distributed and (coordinator or processes is not None or process is not None):
        raise JaffeError("--coordinator, --processes and --process go with --distributed")
    if distributed:
        join(coordinator, processes, process)
    try:
        chosen = chosen_devices(device, devices)
        spread = None
        if distributed or chosen is not None:
            how: dict[str, Any] = {"by": parallel or None, "scaling": scaling}  # Devices checks them
            spread = Parallel(chosen or "all", model_parallel=model_parallel, zero=zero, **how)
        elif parallel or scaling != "weak" or model_parallel > 1 or zero:
            raise JaffeError("--parallel, --scaling, --model-parallel and --zero are for several devices; expected "
                             "--devices N or --device all")
        if not onednn.available():  # XLA cannot store programs that call it
            use_cache()
        run(solver, recipe, model, data, test_data, weights, snapshot, iterations, output, settings, caffe_log,
            tensorboard, python_modules, workers, skip_damaged, spread)
    except BaseException as error:
        leave(error)
        raise
    leave()


def run(
    solver: str, recipe: str, model: str, data: str, test_data: str, weights: str, snapshot: str,
    iterations: int | None, output: str, set_options: Sequence[str], caffe_log: str, tensorboard: str,
    python_modules: Sequence[str], workers: int, skip_damaged: bool, parallel: Parallel | None,
) -> None:
    """Build the solver from the options, run it, and say what came of it."""
    import time

    from rich.console import Console

    from jaffe.train import CaffeLogReporter, ConsoleReporter, Reporter, Reporters, Solver, TensorBoardReporter
    from jaffe.train.processes import advise, first
    from jaffe.zoo import recipe as find_recipe

    console = Console(soft_wrap=True, highlight=False, markup=False, quiet=not first())
    settings: dict[str, Any] = parse_settings(set_options)
    if iterations:
        settings["max_iter"] = iterations
    spec: Any = solver
    default_data = ""
    if not solver:
        spec = found = find_recipe(recipe or DEFAULT_RECIPE)
        default_data = found.data
        settings["snapshot_prefix"] = output or f"runs/{found.name}/{found.name}"
        console.print(f"{found.name}: {found.about}")
    elif output:
        settings["snapshot_prefix"] = output
    by_phase = {"train": data or default_data, "test": test_data or data or default_data}
    reporters: list[Reporter] = []
    if first():  # of several processes
        reporters += [ConsoleReporter(console)]
        reporters += [CaffeLogReporter(Path(caffe_log))] if caffe_log else []
        reporters += [TensorBoardReporter(Path(tensorboard))] if tensorboard else []
    job = Solver(
        spec, net=model or None, data={split: source for split, source in by_phase.items() if source} or None,
        weights="" if snapshot else weights or None, reporter=Reporters(*reporters),
        python_modules=python_modules, workers=workers, skip_damaged=skip_damaged, parallel=parallel, **settings,
    )
    if job.snapshots is not None:
        folder = job.snapshots.directory
        advise(lambda: f"Its last snapshot: start again with --snapshot {shlex.quote(str(folder))}; fewer processes "
                       "will do" if folder.is_dir() else "It had saved no snapshot yet")
    if job.devices is not None:
        console.print(str(job.devices))
    console.print(f"net {job.net.name}: {job.net.cost().params:,} parameters; seed {job.seed}")
    if job.loaded is not None:
        console.print(f"weights: {job.loaded}")
    began = time.perf_counter()
    job.run(snapshot or None, weights or None if snapshot else None)
    chosen = {"solver": solver, "recipe": "" if solver else recipe or DEFAULT_RECIPE, "model": model,
              "data": data, "test-data": test_data, "output": output, "caffe-log": caffe_log,
              "tensorboard": tensorboard, "workers": str(workers or ""), **_stated(parallel)}
    options = [*chosen.items(), *(("set", one) for one in set_options),
               *(("python-module", module) for module in python_modules)]
    how = " ".join([*(f"--{option} {shlex.quote(value)}" for option, value in options if value),
                    *(["--skip-damaged"] if skip_damaged else []),
                    *(["--zero"] if parallel is not None and parallel.zero else []),
                    *(["--distributed"] if job.devices is not None and job.devices.here < job.devices.count else [])])
    _tell(console, job, time.perf_counter() - began, how)


def _stated(parallel: Parallel | None) -> dict[str, str]:
    """The options that say how a run is spread over devices."""
    import jax

    if parallel is None:
        return {}
    devices: Any = parallel.devices
    if jax.process_count() > 1:  # they are all, and the launcher says the rest
        which = {}
    elif isinstance(devices, int):
        which = {"devices": str(devices)}
    else:
        which = {"device": "all" if devices == "all" else ",".join(f"{one.platform}:{one.id}" for one in devices)}
    return {**which, "parallel": parallel.by or "", "scaling": "" if parallel.scaling == "weak" else parallel.scaling,
            "model-parallel": "" if parallel.model_parallel == 1 else str(parallel.model_parallel)}


def _tell(console: Console, job: Solver, seconds: float, how: str) -> None:
    """What the run came to, what was written, and what to try next."""
    from jaffe.train.console import final_table
    from jaffe.train.report import results

    rows = {"iterations": str(job.iteration), "time": f"{seconds:.1f} s"}
    training, tests = job.metrics.training(), job.metrics.tests()
    if training:
        rows["training loss"] = f"{training[-1]['loss']:.4g}"
    for row in tests[-len(job.tests):] if tests else []:
        for name, value in results(row).items():
            if isinstance(value, float):
                which = f"test {row['test']}" if row["test"] else "test"
                rows[f"{which} {name}"] = f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"
    if job.best is not None and job.best.value is not None:
        rows[f"best {job.proto.monitor}"] = f"{job.best.value:.4g} at iteration {job.best.iteration}"
    console.print()
    console.print(final_table(rows))
    if job.snapshots is None:
        return
    console.print("\nwritten")
    for path in job.files:
        console.print(f"  {path}")
    more = job.proto.max_iter if job.iteration < job.proto.max_iter else 2 * job.iteration
    command = "jaffe" if shutil.which("jaffe") else sys.argv[0]  # as it was called, where it is not on the path
    console.print(f"""
try next
  {command} train {how} --snapshot {shlex.quote(str(job.snapshots.directory))} --iterations {more}
  {command} summary --model lenet
  {command} train --recipe mlp""")
