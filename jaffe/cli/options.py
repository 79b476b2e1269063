"""Options that several commands share, and what they mean."""

from __future__ import annotations

from typing import Annotated

import typer

from jaffe.netdef import JaffeError, Spec

Model = Annotated[str, typer.Option("--model", help="Net prototxt, or the name of a zoo recipe.", show_default=False)]
Weights = Annotated[str, typer.Option(help="Weights to copy by layer name: .caffemodel, .h5, .safetensors or .npz.",
                                      show_default=False)]
Device = Annotated[str, typer.Option("--device", "--gpu", help="cpu, gpu, gpu:1, ... or a GPU's number.",
                                     show_default="JAX's default")]
Inputs = Annotated[list[str], typer.Option("--input", help="Shape of an input, as data=64,1,28,28; repeatable.",
                                           show_default=False)]
PythonModules = Annotated[list[str], typer.Option(
    "--python-module", help="A module whose code the net's Python layers may run; repeatable.", show_default=False)]
Phase = Annotated[str, typer.Option(help="TRAIN or TEST.")]


def use_device(name: str) -> None:
    """Make this device JAX's default. Raises JaffeError when it is not there."""
    if not name:
        return
    import jax

    if "," in name or name == "all":
        raise JaffeError(f"--device {name}: this command uses one device; examples/train_multi_gpu.py uses several")
    platform, _, number = (f"gpu:{name}" if name.isdigit() else name).partition(":")
    try:
        by_number = dict(enumerate(jax.devices(platform)))
        jax.config.update("jax_default_device", by_number[int(number or 0)])
    except (RuntimeError, ValueError, KeyError):
        there = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise JaffeError(f"--device {name} is not there; found {there}") from None


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
    """A net from a prototxt path or a recipe's name; data layers without shapes are left to ``--input``."""
    from jaffe.zoo import RECIPES, recipe

    if not model:
        raise JaffeError("expected --model: a net prototxt, or one of the recipes " + ", ".join(RECIPES))
    return recipe(model).net if model in RECIPES else model
