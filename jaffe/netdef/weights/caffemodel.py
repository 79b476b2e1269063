"""``.caffemodel``: a ``NetParameter`` in protobuf's wire format, of any of Caffe's three formats of layers.

Of the messages only these fields are looked at, so that files of forks read too:

    NetParameter       100 layer, 2 layers (V1)
    LayerParameter     1 name, 7 blobs
    V1LayerParameter   4 name, 6 blobs, 1 layer (V0)
    V0LayerParameter   1 name, 50 blobs
    BlobProto          see ``blob``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaffe.netdef.atomic import replacing
from jaffe.netdef.errors import SpecError
from jaffe.netdef.graph import Graph
from jaffe.netdef.jaffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter
from jaffe.netdef.weights.blob import MOST_BLOBS, Parsed, blob_parts, parse_blob, tag, varint
from jaffe.netdef.weights.wire import BYTES, Field, Wire, WireError

MOST_BYTES = 2**31 - 1  # what Caffe, and protobuf, read

_LAYER, _LAYERS = 100, 2
_NAME_BLOBS = {_LAYER: (1, 7), _LAYERS: (4, 6)}
_V0_NAME_BLOBS = (1, 50)


class Entry(NamedTuple):
    """A layer of a file: its name and blobs, and whether any has the four axes of old, and so perhaps no true shape.

    Of those, a weight of a convolution has its true shape; (1, 1, M, N) and (1, 1, 1, N) are another's, most likely.
    """

    name: str
    blobs: list[np.ndarray | None]
    four_axes: bool = False


def read(content: bytes, path: Path) -> list[Entry]:
    """The blobs of every layer in the order of the file.

    Raises:
        SpecError: the bytes are not a net, or a blob's data do not fit its shape.
    """
    entries: list[Entry] = []
    wire = Wire(content)
    try:
        layers = [field for field in wire.fields() if field.number in _NAME_BLOBS and field.kind == BYTES]
        if not layers:
            raise SpecError("is not a .caffemodel: it holds no layers", location=str(path))
        total = len(layers)
        for layer in layers:
            name, blobs = _layer(wire, layer, *_NAME_BLOBS[layer.number])
            total += len(blobs)
            if total > MOST_BLOBS:
                raise SpecError(f"has more than {MOST_BLOBS} layers and blobs", location=str(path))
            parsed = [_array(wire, blob, i, name, path) for i, blob in enumerate(blobs)]
            four_axes = any(one.legacy and one.array.shape[:2] == (1, 1) for one in parsed)
            entries.append(Entry(name, [one.array for one in parsed], four_axes))
    except WireError as error:
        raise SpecError(f"is not a .caffemodel, or only a part of one: {error}", location=str(path)) from None
    return entries


def _layer(wire: Wire, layer: Field, name_number: int, blobs_number: int) -> tuple[str, list[Field]]:
    """A layer's name and blobs."""
    name, blobs = "", []
    for field in wire.fields(layer.start, layer.stop):
        if field.kind != BYTES:
            continue
        if field.number == name_number:
            name = wire.text(field)
        elif field.number == blobs_number:
            blobs.append(field)
        elif field.number == 1 and layer.number == _LAYERS and blobs_number != _V0_NAME_BLOBS[1]:
            inner_name, inner_blobs = _layer(wire, field._replace(number=_LAYERS), *_V0_NAME_BLOBS)
            name, blobs = inner_name or name, [*blobs, *inner_blobs]
    return name, blobs


def _array(wire: Wire, blob: Field, index: int, layer: str, path: Path) -> Parsed:
    try:
        return parse_blob(wire, blob.start, blob.stop)
    except WireError:
        raise
    except ValueError as error:
        raise SpecError(f"blob {index} {error}", layer=layer, location=str(path)) from None


def write(path: Path, weights: Mapping[str, Sequence[np.ndarray]], graph: Graph | None) -> None:
    """Write blobs, float32, as Caffe 1.0 does: each layer of the net with its declaration.

    Args:
        weights: arrays by layer name. A parameter that layers share stands under each of them.
        graph: without it the file has names and blobs only, which is what Caffe reads.

    Raises:
        SpecError: the file would be larger than Caffe reads, or cannot be written.
    """
    size = sum(4 * np.size(array) for arrays in weights.values() for array in arrays)
    if size > MOST_BYTES - 2**20 * (1 + len(weights) // 64):  # the rest is for declarations and shapes
        raise SpecError(f"would hold {size} bytes of numbers; Caffe reads files of at most {MOST_BYTES} "
                        "(.safetensors has no limit)", location=str(path))
    layers = _declared(graph) if graph else [LayerParameter(name=name) for name in weights]
    pieces: list[bytes | memoryview] = [NetParameter(name=graph.name if graph else "").SerializeToString()]
    for layer in layers:
        body: list[bytes | memoryview] = [layer.SerializeToString()]
        for array in weights.get(layer.name, ()):
            head, data = blob_parts(array)
            body += [tag(7), varint(len(head) + len(data)), head, data]
        pieces += [tag(_LAYER), varint(sum(map(len, body))), *body]
    with replacing(path) as new, new.open("wb") as file:
        file.writelines(pieces)


def _declared(graph: Graph) -> list[LayerParameter]:
    """The net's layers, under the names that the graph gives them, without blobs."""
    layers = []
    for node in graph.nodes:
        layer = LayerParameter()
        layer.CopyFrom(node.proto)
        layer.ClearField("blobs")
        layer.name = node.name
        layer.phase = TRAIN if node.phase == "TRAIN" else TEST
        layers.append(layer)
    return layers
