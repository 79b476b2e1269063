"""Weights in Caffe's files, as NumPy arrays by layer name."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from jaffe.netdef.errors import SpecError
from jaffe.netdef.jaffe_pb2 import BlobProto, LayerParameter, NetParameter, V1LayerParameter
from jaffe.netdef.source import read_bytes


def read_weights(path: str | os.PathLike[str]) -> dict[str, list[np.ndarray]]:
    """The blobs of every layer of a binary ``.caffemodel``, in Caffe's order (weight, bias).

    Where two layers have one name the first counts, as in Caffe. Layers without blobs are left out.

    Raises:
        SpecError: the file is missing, truncated, not a net, or a blob's data do not fit its shape.
    """
    path = Path(path)
    try:
        net = NetParameter.FromString(read_bytes(path))
    except DecodeError:
        raise SpecError("is not a .caffemodel (truncated, or another format?)", location=str(path)) from None
    weights: dict[str, list[np.ndarray]] = {}
    layers: list[LayerParameter | V1LayerParameter] = [*net.layer, *net.layers]
    for layer in layers:
        if layer.blobs and layer.name not in weights:
            try:
                weights[layer.name] = [blob_to_array(blob) for blob in layer.blobs]
            except ValueError as error:
                raise SpecError(str(error), layer=layer.name, location=str(path)) from None
    return weights


def blob_to_array(blob: BlobProto) -> np.ndarray:
    """A blob as a float32 array, with the shape it states (four axes in files of 2014 and before).

    Raises:
        ValueError: the number of values is not the product of the shape.
    """
    shape = blob_shape(blob)
    if any(size < 0 for size in shape):
        raise ValueError(f"a blob has the shape {shape}; expected sizes of 0 and above")
    data = np.array(blob.double_data if blob.double_data else blob.data, np.float32)
    if data.size != math.prod(shape):
        raise ValueError(f"a blob of shape {shape} has {data.size} values; expected {math.prod(shape)}")
    return data.reshape(shape)


def blob_shape(blob: BlobProto) -> tuple[int, ...]:
    """The blob's shape: num, channels, height, width when any of them is present, else ``shape``."""
    legacy = ("num", "channels", "height", "width")
    if any(blob.HasField(name) for name in legacy):
        return tuple(getattr(blob, name) for name in legacy)
    return tuple(blob.shape.dim)


def array_to_blob(array: np.ndarray) -> BlobProto:
    """An array as a blob, shape in the current format."""
    blob = BlobProto()
    blob.shape.dim.extend(array.shape)
    blob.data.extend(np.asarray(array, np.float32).ravel())
    return blob
