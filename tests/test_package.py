"""The package as a whole: what imports what, and the examples of README and docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import jaffe
from tests.conftest import ROOT

# Arrows point one way: each stage may import those before it.
STAGES = ("netdef", "compile", "inspect", "parity", "plan", "train", "pycaffe", "zoo", "report", "cli")
ALLOWED = {
    "netdef": {"netdef"},
    "compile": {"netdef", "compile"},
    "inspect": {"netdef", "compile", "inspect"},
    "parity": {"netdef", "compile", "parity"},
    "plan": {"netdef", "compile", "plan"},
    "train": {"netdef", "compile", "plan", "train"},
    "pycaffe": {"netdef", "compile", "train", "pycaffe"},
    "zoo": {"netdef", "compile", "zoo"},
    "report": {"netdef", "compile", "inspect", "train", "report"},
    "cli": {"netdef", "compile", "parity", "train", "plan", "zoo", "report", "cli"},
}
FILES = [path for stage in STAGES for path in sorted((ROOT / "jaffe" / stage).rglob("*.py"))]


def imports(path) -> set[str]:
    """Stages that a file imports from, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "jaffe":
                names |= {f"jaffe.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("jaffe.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "jaffe")))
def test_imports_point_one_way(path):
    stage = path.relative_to(ROOT / "jaffe").parts[0]
    assert imports(path) & set(STAGES) <= ALLOWED[stage]


@pytest.mark.parametrize("module", ["jaffe", "jaffe.netdef", "jaffe.zoo", "jaffe.cli"])
def test_no_jax_where_none_is_needed(module):
    code = f"import {module}, sys; assert not {{'jax', 'flax', 'optax', 'orbax'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("module", ["jaffe.compile", "jaffe.inspect", "jaffe.train", "jaffe.pycaffe"])
def test_optional_parts_are_loaded_late(module):
    late = "{'grain', 'tensorflow_datasets', 'lmdb', 'matplotlib', 'sklearn', 'tensorboardX'}"
    code = f"import {module}, sys; assert not {late} & set(sys.modules), {late} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names():
    for name in jaffe.__all__:
        assert getattr(jaffe, name) is not None
    assert set(jaffe.__all__) <= set(dir(jaffe))
    with pytest.raises(AttributeError, match="module 'jaffe' has no attribute 'compile_nett'"):
        _ = jaffe.compile_nett


MODULES = [m.name for m in pkgutil.walk_packages(jaffe.__path__, "jaffe.") if "_pb2" not in m.name]


def test_docstring_examples():
    from jaffe.compile import temporary_layers

    for name in MODULES:
        with temporary_layers():
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def test_every_module_and_public_function_is_documented():
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
        for key, value in vars(module).items():
            if not key.startswith("_") and callable(value) and getattr(value, "__module__", "") == name:
                assert value.__doc__, f"{name}.{key}"


def test_readme_examples():
    """The Python blocks of README.md run, in order, as one program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, timeout=300)


def test_files_are_short():
    for path in [*FILES, *(ROOT / "tests").rglob("*.py")]:
        if "_pb2" not in path.name:
            assert len(path.read_text().splitlines()) <= 500, path
