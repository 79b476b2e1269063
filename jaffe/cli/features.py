"""jaffe features"""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.cli.cache import use_cache
from jaffe.cli.data import Force, progress, say
from jaffe.cli.options import (
    Data,
    Device,
    Iterations,
    Model,
    PythonModules,
    SkipDamaged,
    Snapshot,
    WeightsFiles,
    use_device,
)


def features(
    target: Annotated[str, typer.Argument(metavar="[TARGET]", help="hdf5:PATH, npz:PATH, lmdb:PATH or records:PATH; of "
                                          "several blobs the last two hold a database each, PATH/BLOB.")] = "",
    model: Model = "",
    weights: WeightsFiles = "",
    snapshot: Snapshot = "",
    blobs: Annotated[str, typer.Option(help="Names of blobs, separated by commas.",
                                       show_default="what the net's HDF5Output layers name")] = "",
    data: Data = "",
    iterations: Iterations = "all",
    force: Force = False,
    skip_damaged: SkipDamaged = False,
    device: Device = "",
    python_modules: PythonModules = [],  # noqa: B006  typer copies it
) -> None:
    """Write what blobs of a net are over a data set, as Caffe's extract_features did."""
    from jaffe.cli.test import check_weights, number_of_batches, prepare
    from jaffe.netdef.errors import JaffeError
    from jaffe.train.features import write_features, write_outputs

    check_weights(weights, snapshot)
    names = [name.strip() for name in blobs.split(",") if name.strip()]
    if bool(names) != bool(target):
        raise JaffeError("expected both TARGET and --blobs, or neither for what HDF5Output layers name")
    batches = number_of_batches(iterations)
    use_device(device)
    use_cache()
    evaluation, variables = prepare(model, weights, snapshot, data, batches, python_modules=python_modules,
                                    skip_damaged=skip_damaged)
    records = sum(items for items, _ in evaluation.feed.sizes) if batches is None else batches * evaluation.feed.images
    with progress("running", records) as advance:
        if names:
            written = write_features(evaluation, variables, names, target, force=force, advance=advance)
        else:
            written = write_outputs(evaluation, variables, force=force, advance=advance)
    for path in written:
        say(f"written {path}: {records:,} records")
