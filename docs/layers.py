"""Writes docs/layers.md, the reference of the layer types, from the registry: `make layers`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import jaffe.compile.layers  # noqa: F401  registers the types
from jaffe.compile.layer import _REGISTRY, Layer
from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.netdef.schema import settings_fields

HERE = Path(__file__).parent

# The layer types that Caffe 1.0 registers; every other one comes from a fork.
CAFFE = """
    AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data
    Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss
    Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss
    PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence
    Slice Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData
"""

HEAD = """# Layer types

Made by `make layers` from the layers themselves. Shapes, fields and defaults are those of Caffe 1.0,
which has {own} of the types; {forks} come from its forks (marked *fork*).
`jaffe.register_layer` adds types of your own.
"""


def reference() -> str:
    """The whole page."""
    families: dict[str, list[type[Layer]]] = {}
    for name in sorted(_REGISTRY, key=str.lower):
        layer = _REGISTRY[name]
        if layer.__module__.startswith("jaffe.compile.layers."):
            families.setdefault(layer.__module__, []).append(layer)
    types = {layer.type for layers in families.values() for layer in layers}
    own = types.intersection(CAFFE.split())
    parts = [HEAD.format(own=len(own), forks=len(types - own))]
    for module, layers in sorted(families.items()):
        parts.append(f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}\n")
        parts += [_entry(layer) for layer in layers]
    return "\n".join(parts)


def _entry(layer: type[Layer]) -> str:
    mark = "" if layer.type in CAFFE.split() else " *fork*"
    lines = [f"### {layer.type}{mark}\n", f"{_count(layer.bottoms)} → {_count(layer.tops)}\n"]
    if fields := _fields(layer.type):
        lines.append(f"{fields}\n")
    return "\n".join([*lines, inspect.cleandoc(layer.__doc__ or ""), ""])


def _count(counts: tuple[int, int | None]) -> str:
    least, most = counts
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _fields(layer_type: str) -> str:
    described = []
    for name in settings_fields(layer_type):
        message = LayerParameter.DESCRIPTOR.fields_by_name[name].message_type
        fields = ", ".join(f"{field.name}{_default(field)}" for field in message.fields)
        described.append(f"`{name} {{ {fields} }}`")
    return " ".join(described)


def _default(field: Any) -> str:
    if field.is_repeated:
        return " ..."
    if not field.has_default_value:
        return ""
    if field.enum_type:
        return f": {field.enum_type.values_by_number[field.default_value].name}"
    if isinstance(field.default_value, bool):
        return f": {str(field.default_value).lower()}"
    return f": {field.default_value:g}" if isinstance(field.default_value, float) else f": {field.default_value!r}"


if __name__ == "__main__":
    (HERE / "layers.md").write_text(reference())
