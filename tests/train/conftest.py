"""Small data sets for tests of the feed."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import stream
from tests.train.data_files import encoded, picture, raw, write_lmdb


@pytest.fixture
def pictures(tmp_path) -> tuple[str, list[np.ndarray]]:
    """An LMDB of encoded images of different sizes, and their pixels (C, H, W)."""
    pixels = [picture(height, width, seed=i) for i, (height, width) in
              enumerate([(7, 11), (9, 8), (13, 7), (7, 7), (10, 12)])]
    values = [Datum(data=encoded(image), encoded=True, label=i).SerializeToString() for i, image in enumerate(pixels)]
    write_lmdb(tmp_path / "db", values)
    return str(tmp_path / "db"), [image.transpose(2, 0, 1) for image in pixels]


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)


@pytest.fixture
def twenty(tmp_path) -> str:
    return write_lmdb(tmp_path / "twenty", [raw(i) for i in range(20)])


@pytest.fixture(params=["resident", "streamed"])
def where_held(request, monkeypatch):
    if request.param == "streamed":
        monkeypatch.setattr(stream, "RESIDENT_BYTES", 0)


@pytest.fixture
def damaged(tmp_path) -> str:
    """Ten records, of which 3, 4 and 9 are damaged: no Datum, a wrong size, another shape."""
    values = [raw(i) for i in range(10)]
    values[3] = b"\x0a\xff"
    values[4] = Datum(channels=1, height=2, width=3, data=b"12345").SerializeToString()
    values[9] = raw(9, (1, 3, 2))
    return write_lmdb(tmp_path / "damaged", values)
