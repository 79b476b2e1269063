"""Images, blobs and records as NumPy arrays: ``caffe.io`` of pycaffe."""

from __future__ import annotations

import io as _io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from jaffe.netdef import jaffe_pb2 as caffe_pb2  # noqa: F401  scripts say caffe.io.caffe_pb2
from jaffe.netdef.errors import JaffeError, SpecError
from jaffe.netdef.jaffe_pb2 import BlobProto, BlobProtoVector, Datum
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights import array_to_blob, blob_shape, blob_to_array
from jaffe.pycaffe.transformer import Transformer as Transformer
from jaffe.pycaffe.transformer import resize_image as resize_image

_GREY = np.array([0.2125, 0.7154, 0.0721], np.float32)  # of scikit-image, which pycaffe reads with


def blobproto_to_array(blob: BlobProto, return_diff: bool = False) -> np.ndarray:
    """The values of a blob, or its gradients, with its shape (four axes in files of 2014 and before).

    Raises:
        JaffeError: there are fewer or more values than the shape says.
    """
    if not return_diff:
        try:
            return blob_to_array(blob)
        except ValueError as error:
            raise JaffeError(f"the blob {error}") from None
    values = np.array(blob.double_diff, np.float64) if blob.double_diff else np.array(blob.diff, np.float32)
    if values.size != np.prod(blob_shape(blob), dtype=object):
        raise JaffeError(f"the blob of shape {blob_shape(blob)} has {values.size} gradients")
    return values.reshape(blob_shape(blob))


def array_to_blobproto(arr: Any, diff: Any = None) -> BlobProto:
    """A blob with these values, and these gradients of the same shape; float32."""
    blob = array_to_blob(np.asarray(arr))
    if diff is not None:
        if np.shape(diff) != np.shape(arr):
            raise JaffeError(f"gradients have the shape of the values, {np.shape(arr)}; received {np.shape(diff)}")
        blob.diff.extend(np.asarray(diff, np.float32).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Any]) -> bytes:
    """Arrays as the bytes of a ``BlobProtoVector``."""
    return BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(string: bytes) -> list[np.ndarray]:
    """The arrays in the bytes of a ``BlobProtoVector``. Raises JaffeError when they are none."""
    try:
        vector = BlobProtoVector.FromString(string)
    except (DecodeError, TypeError):
        raise JaffeError("these bytes are no BlobProtoVector") from None
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Any, label: int | None = None) -> Datum:
    """A record of a database: an array (channels, height, width), bytes where it is uint8, and a label.

    Raises:
        JaffeError: the array has not three axes.
    """
    array = np.asarray(arr)
    if array.ndim != 3:
        raise JaffeError(f"a Datum is (channels, height, width); received shape {array.shape}")
    datum = Datum(channels=array.shape[0], height=array.shape[1], width=array.shape[2])
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).ravel().tolist())
    if label is not None:
        datum.label = int(label)
    return datum


def datum_to_array(datum: Datum) -> np.ndarray:
    """The array (channels, height, width) of a record: uint8, or float64 where it holds floats.

    Raises:
        JaffeError: it holds an encoded image (``load_image`` reads such), or its size is not the one it states.
    """
    if datum.encoded:
        raise JaffeError("the Datum holds an encoded image, a JPEG or PNG: caffe.io.load_image(io.BytesIO(datum.data)) "
                         "reads it")
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float64)
    if values.size != np.prod(shape, dtype=object):
        raise JaffeError(f"the Datum of shape {shape} has {values.size} values")
    return values.reshape(shape).copy()


def load_image(filename: str | os.PathLike[str] | _io.BytesIO, color: bool = True) -> np.ndarray:
    """An image as float32 in [0, 1], (H, W, 3) in RGB order, or (H, W, 1) with ``color=False``.

    Grey images become three equal channels, transparency is dropped, and colours become grey by 0.2125 R + 0.7154 G +
    0.0721 B.

    Raises:
        SpecError: the file is missing, or no image that Pillow reads.
    """
    from PIL import Image, UnidentifiedImageError

    where = "the image" if isinstance(filename, _io.BytesIO) else os.fspath(filename)
    file = filename if isinstance(filename, _io.BytesIO) else _io.BytesIO(read_bytes(Path(filename)))
    try:
        with Image.open(file) as image:
            wide = image.mode.startswith("I")  # 16 bits
            mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
            pixels = np.asarray(image if wide else image.convert(mode))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SpecError(f"is not an image that can be read: {error}", location=where) from None
    array = pixels.astype(np.float32) / np.float32(65535 if wide else 255)
    if array.ndim == 3 and not color:
        array = array @ _GREY
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3 if color else 1, axis=2)
    return array


def oversample(images: Sequence[Any], crop_dims: Any) -> np.ndarray:
    """Ten crops of each image: top left, top right, bottom left, bottom right, middle; then these five mirrored.

    Args:
        images: (H, W, K) each, all of one shape.
        crop_dims: height and width of the crops.

    Returns:
        (10 N, height, width, K), float32, the ten crops of an image one after another.

    Raises:
        JaffeError: the images differ in shape, or are smaller than the crops.
    """
    shapes = {np.shape(image) for image in images}
    height, width = (int(size) for size in np.asarray(crop_dims).ravel())
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 3:
        raise JaffeError(f"oversample takes images (H, W, K) of one shape; received {sorted(shapes) or 'none'}")
    if height > shape[0] or width > shape[1]:
        raise JaffeError(f"crops of {(height, width)} do not fit into images of {shape[:2]}")
    corners = [(top, left) for top in (0, shape[0] - height) for left in (0, shape[1] - width)]
    corners.append((int(shape[0] / 2 - height / 2), int(shape[1] / 2 - width / 2)))
    stack = np.stack([np.asarray(image, np.float32) for image in images])
    crops = np.stack([stack[:, top : top + height, left : left + width] for top, left in corners], axis=1)
    return np.concatenate([crops, crops[:, :, :, ::-1]], axis=1).reshape(-1, height, width, shape[2])
