"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jaffe.netdef import JaffeError, SolverParameter, Spec
from jaffe.netdef.errors import suggest

Model = Annotated[str, typer.Option("--model", help="Net prototxt, or the name of a recipe or net of the zoo.",
                                    show_default=False)]
Weights = Annotated[str, typer.Option(help="Weights to copy by layer name: .caffemodel, .h5, .safetensors or .npz.",
                                      show_default=False)]
Device = Annotated[str, typer.Option("--device", "--gpu", help="cpu, gpu, gpu:1, ... or a GPU's number.",
                                     show_default="JAX's default")]
Inputs = Annotated[list[str], typer.Option("--input", help="Shape of an input, as data=64,1,28,28; repeatable.",
                                           show_default=False)]
PythonModules = Annotated[list[str], typer.Option(
    "--python-module", help="A module whose code the net's Python layers may run; repeatable.", show_default=False)]
# Of commands that run a trained net over data.
WeightsFiles = Annotated[str, typer.Option(help="Weights to copy by layer name: .caffemodel, .h5, .safetensors or "
                                           ".npz; several separated by commas.", show_default=False)]
Snapshot = Annotated[str, typer.Option(help="A snapshot of jaffe train to take weights from.", show_default=False)]
Iterations = Annotated[str, typer.Option(help="Batches to run; or all: the whole data set, each record once.")]
Data = Annotated[str, typer.Option(help="What to read in place of the data layers' files: tfds:NAME, or a path, as "
                                        "lmdb:PATH (docs/data.md has all kinds).", show_default=False)]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Go on where a record cannot be read, with the next "
                                           "one in its place.")]
Phase = Annotated[str, typer.Option(help="TRAIN or TEST.")]


def use_device(name: str) -> None:
    """Make this device JAX's default. Raises JaffeError when it is not there."""
    if not name:
        return
    import jax

    if "," in name or name == "all":
        raise JaffeError(f"--device {name}: this command uses one device; jaffe train uses several")
    jax.config.update("jax_default_device", _device(name))


def _device(name: str) -> Any:
    """A JAX device by its name: cpu, gpu:1, or a GPU's number. Raises JaffeError when it is not there."""
    import jax

    if not name:
        raise JaffeError("--device: expected names separated by commas, as gpu:0,gpu:1; found an empty one")
    platform, _, number = (f"gpu:{name}" if name.isdigit() else name).partition(":")
    try:
        return dict(enumerate(jax.devices(platform)))[int(number or 0)]
    except (RuntimeError, ValueError, KeyError):
        there = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise JaffeError(f"--device {name} is not there; found {there}") from None


def chosen_devices(name: str, count: int | None) -> Any:
    """What ``--device`` and ``--devices`` of a command that uses several say: as ``jaffe.Parallel`` has it, or None
    where they name one at most, which becomes JAX's default. Raises JaffeError when they are not there."""
    if name == "all" or (count is None and "," in name):
        return "all" if name == "all" and count is None else [_device(one) for one in name.split(",")]
    if count is not None and name:
        raise JaffeError(f"--devices {count} excludes --device {name}; use one")
    use_device(name)
    return count


def parse_shapes(inputs: list[str], option: str = "--input") -> dict[str, tuple[int, ...]]:
    """``["data=64,1,28,28"]`` as shapes. Raises JaffeError for anything else."""
    shapes = {}
    for text in inputs:
        name, _, sizes = text.partition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.replace("x", ",").split(","))
        except ValueError:
            raise JaffeError(f"{option} {text}: expected name=sizes, such as data=64,1,28,28") from None
    return shapes


def read_model(model: str) -> Spec:
    """A net from a prototxt path, or the name of a recipe or of a net of the zoo; data layers without shapes are left
    to ``--input``. Raises JaffeError, with the nearest name, when it is none of them."""
    from jaffe.zoo import RECIPES, create, recipe
    from jaffe.zoo.cards import CARDS

    if not model:
        raise JaffeError("expected --model: a net prototxt, or the name of a recipe or net, which jaffe zoo lists")
    if model in RECIPES:
        return recipe(model).net
    if model in CARDS:
        return create(model)
    if re.fullmatch(r"[\w-]+", model) and not os.path.exists(model):
        raise JaffeError(f"{model} is no file, and no recipe or net of the zoo{suggest(model, {*RECIPES, *CARDS})}; "
                         "jaffe zoo lists them")
    return model


def parse_settings(options: Sequence[str]) -> dict[str, Any]:
    """``["base_lr=0.1", "stepvalue=10,20", "test_initialization=false"]`` as ``jaffe.Solver`` takes settings.

    Raises:
        JaffeError: one is not ``NAME=VALUE``, or the value does not fit the setting.
    """
    settings: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        field = SolverParameter.DESCRIPTOR.fields_by_name.get(name.strip())
        if not equals:
            raise JaffeError(f"--set {option}: expected NAME=VALUE, such as base_lr=0.01")
        if name.strip() in ("net", "weights"):
            raise JaffeError(f"--set {option}: expected --{'model' if name.strip() == 'net' else 'weights'} for that")
        if field is None or field.message_type is not None:
            known = [field.name for field in SolverParameter.DESCRIPTOR.fields if field.message_type is None]
            raise JaffeError(f"--set {option}: expected a solver setting, such as base_lr=0.01"
                             f"{suggest(name.strip(), known)}")
        parts = text.split(",") if field.is_repeated else [text]
        try:
            values = [_value(field, part.strip()) for part in parts]
        except ValueError:
            kind = "a whole number" if field.cpp_type != field.CPPTYPE_FLOAT else "a number"
            kind = "true or false" if field.cpp_type == field.CPPTYPE_BOOL else kind
            raise JaffeError(f"--set {option}: {field.name} is {kind}; found {text!r}") from None
        settings[field.name] = values if field.is_repeated else values[0]
    return settings


def _value(field: Any, text: str) -> Any:
    """A value of the schema's field from text. Raises ValueError. Names of an enum are checked by ``assign``."""
    if field.cpp_type == field.CPPTYPE_BOOL:
        return ("false", "0", "true", "1").index(text.lower()) >= 2
    if field.cpp_type == field.CPPTYPE_FLOAT:
        return float(text)
    return text if field.cpp_type in (field.CPPTYPE_STRING, field.CPPTYPE_ENUM) else int(text)
