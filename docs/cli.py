"""Writes docs/cli.md, the reference of the command line, from the commands themselves: `make cli`."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import typer

from jaffe.cli import app

HERE = Path(__file__).parent

HEAD = """# Command line

Made by `make cli` from the commands themselves. `jaffe COMMAND --help` prints the same.

A wrong net, file or setting ends with a message of one sentence and exit status 1, a wrong option with status 2.
`jaffe compare` and `jaffe diff` end with status 1 where something differs.
"""
PLACEHOLDERS = {int: "N", float: "X"}


def reference() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *_entries("jaffe", group, 2)])


def _entries(path: str, group: Any, level: int) -> list[str]:
    lines = []
    for name, command in group.commands.items():
        lines += [f"{'#' * level} {path} {name}\n", f"{_text(inspect.cleandoc(command.help))}\n"]
        if hasattr(command, "commands"):
            lines += _entries(f"{path} {name}", command, level + 1)
        else:
            lines += _entry(f"{path} {name}", command)
    return lines


def _entry(path: str, command: Any) -> list[str]:
    types = typing.get_type_hints(inspect.unwrap(command.callback))
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    words = [_usage(argument) for argument in arguments]
    lines = ["```text", " ".join([path, *words, *(["[OPTIONS]"] if options else [])]), "```\n"]
    if arguments or options:
        lines += ["| | default | |", "|---|---|---|"]
        lines += [f"| `{_metavar(one)}` | {_default(one)} | {_text(one.help)} |" for one in arguments]
        lines += [f"| {_names(one, types[one.name])} | {_default(one)} | {_text(one.help)} |" for one in options]
        lines.append("")
    return lines


def _metavar(argument: Any) -> str:
    return (argument.metavar or argument.name.upper()).removesuffix("...").strip("[]")


def _usage(argument: Any) -> str:
    word = _metavar(argument) + ("..." if argument.nargs == -1 or argument.multiple else "")
    return word if argument.required else f"[{word}]"


def _names(option: Any, annotation: Any) -> str:
    if option.is_flag:
        value = ""
    else:
        one = next((kind for kind in PLACEHOLDERS if kind in (annotation, *typing.get_args(annotation))), None)
        value = " " + (option.metavar or PLACEHOLDERS.get(one, "TEXT"))
    return ", ".join(f"`{name}{value}`" for name in option.opts)


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if isinstance(param.show_default, str):
        return _text(param.show_default)
    shown = param.show_default and param.default not in (None, "", False, [], ())
    return f"`{param.default}`" if shown else ""


def _text(text: str | None) -> str:
    """Markdown: pages are links, options are code."""
    linked = re.sub(r"\bdocs/([a-z-]+\.md)\b", r"[\1](\1)", text or "")
    return re.sub(r"(?<!\S)--[a-z-]+", r"`\g<0>`", linked).replace("|", "\\|")


if __name__ == "__main__":
    (HERE / "cli.md").write_text(reference())
