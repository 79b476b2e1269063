"""jaffe data: look at data sets, and make others of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jaffe.train.data import Dataset

data = typer.Typer(no_args_is_help=True, help="Look at data sets, and make others of them.", rich_markup_mode=None)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A path, or tfds:NAME, lmdb:PATH, "
                                       "images:LIST?size=64x80, ...: docs/data.md has all kinds.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="lmdb:PATH, hdf5:PATH, records:PATH (array_record) or "
                                       "npz:PATH.")]
Split = Annotated[str, typer.Option(help="train or test, of sources that have both.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a data set of that kind, or a file.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn.")]
Encode = Annotated[str, typer.Option(help="jpg or png: store images so, in lmdb: and records:.",
                                     show_default="pixels")]
Skip = Annotated[bool, typer.Option("--skip-damaged", help="Leave out records that cannot be read.")]


@data.command()
def inspect(
    source: Source,
    split: Split = "train",
    sheet: Annotated[str, typer.Option(help="Draw 64 of the images to this .png, .svg or .pdf.",
                                       show_default=False)] = "",
    whole: Annotated[bool, typer.Option("--all", help="Read every record, not 1,000 evenly spread ones. Exit status 1 "
                                        "when one is damaged.")] = False,
) -> None:
    """Say what is in a data set: how many records, their fields, their classes."""
    from jaffe.train.data.survey import contact_sheet, survey

    dataset = _open(source, split)
    count = len(dataset.records)
    with progress("reading", count if whole else min(count, 1000)) as advance:
        found = survey(dataset, most=None if whole else 1000, advance=advance)
    say(str(found))
    if sheet:
        drawn = contact_sheet(dataset, Path(sheet))
        say(f"written {sheet}: {drawn} images")
    if found.damaged:
        raise typer.Exit(1)


@data.command()
def convert(
    source: Source,
    target: Target,
    split: Split = "train",
    encode: Encode = "",
    shuffle: Annotated[int | None, typer.Option(min=0, metavar="SEED", help="Store the records in another order.",
                                                show_default="as they are")] = None,
    skip_damaged: Skip = False,
    force: Force = False,
) -> None:
    """Write a data set anew, as Caffe's convert_imageset, convert_mnist_data and convert_cifar_data did.

    What was interrupted goes on when the command is given again.
    """
    from jaffe.train.data.convert import shuffled

    dataset = _open(source, split)
    _write(dataset if shuffle is None else shuffled(dataset, shuffle), target, encode, skip_damaged, force)


@data.command()
def mean(
    source: Source,
    target: Annotated[str, typer.Argument(metavar="[FILE]", help="A .binaryproto or .npy to write.")] = "",
    split: Split = "train",
    force: Force = False,
) -> None:
    """Compute the mean image, as Caffe's compute_image_mean, and the mean of each channel."""
    from jaffe.train.data.convert import mean_image, write_mean
    from jaffe.train.data.writers import Writer, check_path

    if target:
        check_path(target, Writer, force=force)
    dataset = _open(source, split)
    with progress("adding up", len(dataset.records)) as advance:
        image = mean_image(dataset, advance=advance)
    if target:
        write_mean(image, Path(target))
        print(f"written {target}: {image.shape}", file=sys.stderr)
    print(f"Number of channels: {len(image)}")
    for channel, value in enumerate(image.reshape(len(image), -1).mean(1, dtype="float64")):
        print(f"mean_value channel [{channel}]: {value:.6g}")


@data.command("split")
def split_(
    source: Source,
    targets: Annotated[list[str], typer.Argument(metavar="TARGET=SHARE...",
                                                 help="Such as lmdb:train=0.9 lmdb:test=0.1")],
    by_class: Annotated[bool, typer.Option("--by-class", help="Split each class so.")] = False,
    seed: Seed = 0,
    split: Split = "train",
    encode: Encode = "",
    skip_damaged: Skip = False,
    force: Force = False,
) -> None:
    """Divide a data set at random, each record into one part."""
    from jaffe.netdef.errors import JaffeError
    from jaffe.train.data.convert import check_targets
    from jaffe.train.data.convert import split as divide

    names, shares = [], []
    for one in targets:
        name, _, share = one.rpartition("=")
        try:
            shares.append(float(share))
            names.append(name)
        except ValueError:
            raise JaffeError(f"{one}: expected TARGET=SHARE, such as lmdb:train=0.9") from None
    check_targets(names, encode=encode, force=force)  # of all, before the first is written
    for name, part in zip(names, divide(_open(source, split), shares, seed=seed, by_class=by_class), strict=True):
        _write(part, name, encode, skip_damaged, force)


@data.command()
def sample(
    source: Source,
    target: Target,
    count: Annotated[int, typer.Argument(min=1, help="How many records.")],
    seed: Seed = 0,
    split: Split = "train",
    encode: Encode = "",
    skip_damaged: Skip = False,
    force: Force = False,
) -> None:
    """Take some of the records, at random."""
    from jaffe.train.data.convert import sample as draw

    _write(draw(_open(source, split), count, seed=seed), target, encode, skip_damaged, force)


def _open(source: str, split: str) -> Dataset:
    from jaffe.train.data import open_dataset

    return open_dataset(source, split)


def _write(dataset: Dataset, target: str, encode: str, skip_damaged: bool, force: bool) -> None:
    from jaffe.train.data.convert import convert as write

    with progress("writing", len(dataset.records)) as advance:
        made = write(dataset, target, encode=encode, skip_damaged=skip_damaged, force=force, advance=advance)
    for message in made.damaged:
        print(f"left out: {message}", file=sys.stderr)
    on = f"; went on behind record {made.begun - 1:,}" if made.begun else ""
    out = f", {len(made.damaged):,} of them left out" if made.damaged else ""
    say(f"written {target}: {made.records:,} records{out}{on}")


def say(text: str) -> None:
    """Print to standard output, names of files too that are not in its encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda records: bar.advance(task, records)
