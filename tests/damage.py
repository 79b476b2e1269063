"""What each kind of damage to data gives: the table in docs/data.md.

    python -m tests.damage

Every case makes sound data of ten records, damages them, and reads them all. ``tests/train/test_damage.py`` holds that
each is refused with the message expected, goes on where it can, and that no file is changed by being read.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from benchmarks.table import replaced
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import Datum
from jaffe.train.data import Feed, open_dataset
from jaffe.train.data.convert import convert
from tests.train.data_files import encoded, picture, raw, write_images, write_lmdb

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
NET = """layer { name: "d" type: "MemoryData" top: "data" top: "label"
         memory_data_param { batch_size: 5 channels: 1 height: 2 width: 3 } }"""


@dataclass(frozen=True)
class Damage:
    """One kind.

    Attributes:
        title: in the table.
        make: writes the data to a folder and returns their name.
        message: part of what is said.
        goes_on: whether reading goes on with ``skip_damaged``.
    """

    title: str
    make: Callable[[Path], str]
    message: str
    goes_on: bool = False


def values(**other: bytes) -> list[bytes]:
    """Ten records, of which ``_3=...`` replaces the third."""
    return [other.get(f"_{i}", raw(i)) for i in range(10)]


def cut(path: Path, share: float) -> None:
    """Leave so much of a file."""
    os.truncate(path, int(path.stat().st_size * share))


def overwritten(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def images(folder: Path, content: bytes | None) -> str:
    """A list of ten images of which the third has this content, or is not there."""
    write_images(folder, [(2, 3)] * 10)
    (folder / "3.png").unlink()
    if content is not None:
        (folder / "3.png").write_bytes(content)
    (folder / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(10)))
    return f"images:{folder / 'list.txt'}?color=false"


def huge_png() -> bytes:
    """A PNG of 70 bytes that states 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def lmdb_cut(folder: Path) -> str:
    name = write_lmdb(folder / "db", [raw(i, (1, 60, 60)) for i in range(10)])
    cut(folder / "db" / "data.mdb", 0.6)
    return name


def lmdb_page(folder: Path) -> str:
    name = write_lmdb(folder / "db", [raw(i, (1, 20, 20)) for i in range(100)])
    path = folder / "db" / "data.mdb"
    overwritten(path, path.stat().st_size // 2 // 4096 * 4096, bytes(4096))
    return name


def leveldb(folder: Path, damage: Callable[[Path], None]) -> str:
    import plyvel  # no wheel for Python 3.13 and later

    with plyvel.DB(str(folder / "db"), create_if_missing=True) as db:
        for i in range(10):
            db.put(f"{i:08}".encode(), raw(i, (1, 60, 60)))
    damage(folder / "db")
    return f"leveldb:{folder / 'db'}"


def hdf5(folder: Path, damage: Callable[[Path], None] = lambda path: None, **other: np.ndarray) -> str:
    arrays = {"data": np.zeros((10, 1, 2, 3), "f4"), "label": np.arange(10), **other}
    with h5py.File(folder / "a.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(2, *array.shape[1:]), compression="gzip")
    damage(folder / "a.h5")
    return f"hdf5:{folder / 'a.h5'}"


def garbled(path: Path) -> None:
    """The first compressed rows are overwritten."""
    with h5py.File(path) as file:
        at = file["data"].id.get_chunk_info(0).byte_offset
    overwritten(path, at, b"\xff" * 8)


def records(folder: Path) -> str:
    data = {"data": np.zeros((10, 1, 2, 3), np.uint8), "label": np.arange(10)}
    convert(open_dataset(data), f"records:{folder / 'r'}")
    (part,) = (folder / "r").iterdir()
    cut(part, 0.5)
    return f"records:{folder / 'r'}"


def npz(folder: Path) -> str:
    np.savez(folder / "a.npz", data=np.zeros((10, 1, 2, 3)), label=np.arange(10))
    cut(folder / "a.npz", 0.5)
    return f"npz:{folder / 'a.npz'}"


def idx(folder: Path) -> str:
    (folder / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 10, 2, 3) + bytes(55))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 10) + bytes(10))
    return f"mnist:{folder}"


def cifar(folder: Path) -> str:
    (folder / "test_batch.bin").write_bytes(bytes(3073 * 10 - 1))
    return f"cifar10:{folder}"


def listing(folder: Path) -> str:
    name = images(folder, encoded(picture(2, 3)))
    with (folder / "list.txt").open("a") as file:
        file.write("my cat.png\n")
    return name


def pipe(folder: Path) -> str:
    name = images(folder, None)
    os.mkfifo(folder / "3.png")
    return name


JPEG = encoded(picture(200, 300), ".jpg")
DAMAGES = {
    "lmdb_cut": Damage("an LMDB that is cut off", lmdb_cut, "is cut off, expected a file of"),
    "lmdb_page": Damage("an LMDB with a page of zeros", lmdb_page, "is damaged: page"),
    "lmdb_not": Damage("a file that is no LMDB", lambda folder: not_lmdb(folder), "page 0 is no meta page of LMDB"),
    "empty": Damage("an LMDB without records", lambda folder: write_lmdb(folder / "db", []), "is empty"),
    "datum": Damage("a record that is no Datum", lambda folder: write_lmdb(folder / "db", values(_3=b"\x0a\xff")),
                    "record 3 (key 00000003)", goes_on=True),
    "short": Damage("a record with too few pixels", lambda folder: write_lmdb(folder / "db", values(
        _3=Datum(channels=1, height=2, width=3, data=b"12345").SerializeToString())),
        "record 3 (key 00000003): expected (1, 2, 3) values; found 5", goes_on=True),
    "shape": Damage("a record of another size", lambda folder: write_lmdb(folder / "db", values(_3=raw(3, (1, 3, 2)))),
                    "record 3 (00000003): data is uint8 (1, 3, 2); expected uint8 (1, 2, 3)", goes_on=True),
    "negative": Damage("a record of negative size", lambda folder: write_lmdb(folder / "db", values(
        _3=Datum(channels=-2, height=-3, width=1, data=b"123456").SerializeToString())),
        "record 3 (key 00000003): expected (-2, -3, 1) values; found 6", goes_on=True),
    "in_db": Damage("a record with a damaged JPEG", lambda folder: write_lmdb(folder / "db", values(
        _3=Datum(data=JPEG[:-500], encoded=True).SerializeToString())),
        "record 3 (key 00000003): is a JPEG that is cut off", goes_on=True),
    "leveldb_cut": Damage("a LevelDB whose log is cut off", lambda folder: leveldb(
        folder, lambda db: cut(next(db.glob("*.log")), 0.6)), "cannot be read: Corruption"),
    "leveldb_bytes": Damage("a LevelDB with other bytes in its log", lambda folder: leveldb(
        folder, lambda db: overwritten(next(db.glob("*.log")), 5000, b"other bytes")), "cannot be read: Corruption"),
    "leveldb_current": Damage("a LevelDB without CURRENT", lambda folder: leveldb(
        folder, lambda db: (db / "CURRENT").unlink()), "expected a folder with a file CURRENT; found none"),
    "hdf5_cut": Damage("an HDF5 file that is cut off", lambda folder: hdf5(folder, lambda path: cut(path, 0.7)),
                       "cannot be read as HDF5"),
    "hdf5_chunk": Damage("compressed rows of an HDF5 file that are garbled", lambda folder: hdf5(folder, garbled),
                         "data set 'data' cannot be read", goes_on=True),
    "hdf5_not": Damage("a text in place of an HDF5 file", lambda folder: not_hdf5(folder), "cannot be read as HDF5"),
    "hdf5_nothing": Damage("an HDF5 file without numbers", lambda folder: no_numbers(folder),
                           "expected data sets of numbers with at least one axis; found none"),
    "png_cut": Damage("a PNG that is cut off", lambda folder: images(folder, encoded(picture(200, 300))[:-500]),
                      "3.png: is not an image that OpenCV decodes, or is damaged", goes_on=True),
    "missing": Damage("an image that is not there", lambda folder: images(folder, None),
                      "3.png: cannot be read: No such file or directory", goes_on=True),
    "nothing": Damage("an image without a byte", lambda folder: images(folder, b""), "3.png: is empty", goes_on=True),
    "text": Damage("a text in place of an image", lambda folder: images(folder, b"<html>not found</html>"),
                   "3.png: is not an image", goes_on=True),
    "huge": Damage("an image that states 60,000 x 60,000 pixels", lambda folder: images(folder, huge_png()),
                   "states 60000 x 60000 pixels; expected at most 134,217,728", goes_on=True),
    "pipe": Damage("a pipe in place of an image", pipe, "3.png: cannot be read: is not a regular file", goes_on=True),
    "list": Damage("a line of a list without a label", listing, "list.txt:11: expected a path and a whole number"),
    "records": Damage("an array_record file that is cut off", records, "cannot be read"),
    "npz": Damage("an .npz file that is cut off", npz, "cannot be read: File is not a zip file"),
    "idx": Damage("an idx file that is cut off", idx, "expected 60 values of shape (10, 2, 3); found 55"),
    "cifar": Damage("a CIFAR file that is cut off", cifar, "test_batch.bin: expected records of 3,073 bytes; found"),
}


def not_lmdb(folder: Path) -> str:
    (folder / "db").mkdir()
    (folder / "db" / "data.mdb").write_bytes(b"nonsense" * 1000)
    return f"lmdb:{folder / 'db'}"


def not_hdf5(folder: Path) -> str:
    (folder / "a.h5").write_text("data")
    return f"hdf5:{folder / 'a.h5'}"


def no_numbers(folder: Path) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        file["names"] = ["a", "b"]
    return f"hdf5:{folder / 'a.h5'}"


def read(name: str, *, skip_damaged: bool = False) -> list[str]:
    """Read all records, twice as many as there are. Returns what is said of those that were skipped.

    Raises:
        JaffeError: they cannot be read.
    """
    feed = Feed(resolve(NET, NetState("TEST")), name, skip_damaged=skip_damaged)
    batches = feed.batches()
    for _ in range(4):
        next(batches)
    batches.close()
    return list(feed.damaged)


def said(damage: Damage, folder: Path) -> tuple[str, bool]:
    """The message that a kind of damage gives, and whether reading goes on without what is damaged."""
    name = damage.make(folder)
    message = ""
    try:
        read(name)
    except JaffeError as error:
        message = str(error)
    try:
        read(name, skip_damaged=True)
    except JaffeError:
        return message, False
    return message, True


def main() -> None:
    rows = []
    for damage in DAMAGES.values():
        with tempfile.TemporaryDirectory() as folder:
            message, goes_on = said(damage, Path(folder))
            text = " ".join(message.replace(f"{folder}/", "").split()).replace("|", "\\|").replace("<", "&lt;")
            rows.append(f"| {damage.title} | `{text}` | {'yes' if goes_on else 'no'} |\n")
    table = "| damage | what is said | goes on with `--skip-damaged` |\n|---|---|---|\n" + "".join(rows)
    PAGE.write_text(replaced(PAGE.read_text(), "damage", table))


if __name__ == "__main__":
    main()
