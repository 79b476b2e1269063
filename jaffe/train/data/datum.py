"""Datum, the record of Caffe's databases."""

from __future__ import annotations

import numpy as np

from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data.dataset import Record
from jaffe.train.data.images import decode_image


def decode_datum(datum: Datum, color: bool | None = None) -> Record:
    """Pixels ``data`` (channels, height, width), uint8 or float32, and ``label``, int32.

    Args:
        color: an encoded image becomes three channels, or one; ``None``: as many as it has.

    Raises:
        ValueError: the number of values does not fit, or the image cannot be decoded.
    """
    label = np.array(datum.label, np.int32)
    if datum.encoded:
        return {"data": decode_image(datum.data, color), "label": label}
    pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) < 1 or pixels.size != np.prod(shape, dtype=object):
        raise ValueError(f"expected {shape} values; found {pixels.size}")
    return {"data": pixels.reshape(shape), "label": label}


def encode_datum(data: np.ndarray, label: int = 0) -> Datum:
    """A Datum of (C, H, W), or of a vector as (C, 1, 1): bytes where it is uint8, else floats.

    Raises:
        ValueError: it has more axes, or the label is not one of 32 bits.
    """
    if data.ndim > 3 or not data.size:
        raise ValueError(f"a Datum holds (channels, height, width); found shape {data.shape}")
    if not -(2**31) <= label < 2**31:
        raise ValueError(f"a Datum's label has 32 bits; found {label}")
    shape = (*data.shape, 1, 1, 1)[:3]
    datum = Datum(channels=shape[0], height=shape[1], width=shape[2], label=label)
    if data.dtype == np.uint8:
        datum.data = data.tobytes()
    else:
        datum.float_data.extend(data.astype(np.float32).ravel().tolist())
    return datum
