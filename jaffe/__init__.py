"""jaffe: a network is data; compile it to pure JAX functions.

The public names, loaded when first used, so that ``import jaffe.netdef`` and the command line need no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaffe import heap as _heap

if TYPE_CHECKING:
    from jaffe.compile import CompiledNet as CompiledNet
    from jaffe.compile import Context as Context
    from jaffe.compile import Layer as Layer
    from jaffe.compile import Partition as Partition
    from jaffe.compile import PythonLayer as PythonLayer
    from jaffe.compile import Weight as Weight
    from jaffe.compile import compile_net as compile_net
    from jaffe.compile import load_weights as load_weights
    from jaffe.compile import register_layer as register_layer
    from jaffe.compile import save_weights as save_weights
    from jaffe.compile import weights_report as weights_report
    from jaffe.netdef import Graph as Graph
    from jaffe.netdef import JaffeError as JaffeError
    from jaffe.netdef import L as L
    from jaffe.netdef import NetSpec as NetSpec
    from jaffe.netdef import P as P
    from jaffe.netdef import SpecError as SpecError
    from jaffe.netdef import cells as cells
    from jaffe.netdef import unroll as unroll
    from jaffe.parity import Comparison as Comparison
    from jaffe.parity import compare as compare
    from jaffe.pycaffe import Classifier as Classifier
    from jaffe.pycaffe import FeatureExtractor as FeatureExtractor
    from jaffe.pycaffe import Net as Net
    from jaffe.train import Parallel as Parallel
    from jaffe.train import Solver as Solver

__version__ = "0.1.0"

_heap.keep()

_HOME = {
    "compile": (
        "CompiledNet", "Context", "Layer", "Partition", "PythonLayer", "Weight", "compile_net", "load_weights",
        "register_layer", "save_weights", "weights_report",
    ),
    "netdef": ("Graph", "JaffeError", "L", "NetSpec", "P", "SpecError", "cells", "unroll"),
    "parity": ("Comparison", "compare"),
    "pycaffe": ("Classifier", "FeatureExtractor", "Net"),
    "train": ("Parallel", "Solver"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in ("compile", "inspect", "netdef", "parity", "pycaffe", "report", "train", "zoo"):
        return importlib.import_module(f"jaffe.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'jaffe' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaffe.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
