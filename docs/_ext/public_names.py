"""The directive ``public-names``: documents what a module exports, in its order, so that no list of names is kept."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def exports(module: str) -> list[str]:
    """The names that the module's file exports (``from ... import X as X``), but for modules and those of ``jaffe``."""
    found = importlib.import_module(module)
    path = found.__file__
    assert path is not None
    names = [
        alias.name
        for statement in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.name == alias.asname
    ]
    above = set() if module == "jaffe" else set(exports(module.rpartition(".")[0])) | set(exports("jaffe"))
    return [name for name in dict.fromkeys(names) if name not in above and not inspect.ismodule(getattr(found, name))]


class PublicNames(SphinxDirective):
    """``.. public-names:: jaffe.zoo``"""

    required_arguments = 1

    def run(self) -> list[Node]:
        module = self.arguments[0]
        lines = [f".. py:currentmodule:: {module}", ""]
        for name in exports(module):
            lines += _directive(getattr(importlib.import_module(module), name), f"{module}.{name}")
        return self.parse_text_to_nodes("\n".join(lines))


def _directive(value: Any, name: str) -> list[str]:
    if hasattr(value, "DESCRIPTOR"):
        return [f".. py:class:: {name.rpartition('.')[2]}", ""]  # a message of protobuf: its fields are in the schema
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        return [f".. auto{kind}:: {name}", "   :members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {name}", ""]
    return [f".. py:data:: {name.rpartition('.')[2]}", ""]  # the page itself says what it is


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
