"""Sound LMDBs pass the check of their pages; over damaged ones that pass it LMDB does not end the process."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import pytest

from jaffe.netdef.errors import JaffeError
from jaffe.train.data.lmdb_pages import check_pages
from tests.conftest import ROOT

PAGE = 4096
P_BRANCH, P_LEAF, P_OVERFLOW, P_META = 1, 2, 4, 8
MUTANTS = 200  # of each of SMALL
Steps = Iterable[tuple[int, int | None]]  # a record's number, and how long its new value is; None deletes it


def write(folder: Path, *transactions: Steps, key: str = "{:08}") -> Path:
    """The file of an LMDB after these transactions; values are random."""
    with lmdb.open(str(folder), map_size=2**28) as env:
        for steps in transactions:
            with env.begin(write=True) as transaction:
                for i, size in steps:
                    if size is None:
                        transaction.delete(key.format(i).encode())
                    else:
                        transaction.put(key.format(i).encode(), random.Random(i).randbytes(size))
    return folder / "data.mdb"


def records(numbers: Iterable[int], size: int | None) -> list[tuple[int, int | None]]:
    return [(i, size) for i in numbers]


def read(file: Path) -> list[tuple[bytes, bytes]]:
    """All records, each got by its key too. As jaffe opens it."""
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False) as env, env.begin() as reader:
        keys = list(reader.cursor().iternext(values=False))
        items = list(reader.cursor())
        assert [key for key, _ in items] == keys
        assert all(reader.get(key) == value for key, value in items)
        assert len(items) == env.stat()["entries"]
        return items


def of_page_size(file: Path, size: int) -> Path:
    """The database as machines with larger pages write it: what is at the end of a page stays there."""
    old = file.read_bytes()
    new = bytearray(len(old) // PAGE * size)
    page = 0
    while page < len(old) // PAGE:
        flags, lower, upper = struct.unpack_from("<HHH", old, page * PAGE + 10)
        run = struct.unpack_from("<I", old, page * PAGE + 12)[0] if flags == P_OVERFLOW else 1
        content = bytearray(old[page * PAGE : (page + run) * PAGE])
        if flags & P_META:
            struct.pack_into("<I", content, 40, size)
        elif flags & (P_BRANCH | P_LEAF):
            offsets = struct.unpack_from(f"<{(lower - 16) // 2}H", content, 16)
            struct.pack_into(f"<{len(offsets) + 1}H", content, 14, *(at + size - PAGE for at in (upper, *offsets)))
            content[lower:lower] = bytes(size - PAGE)
        new[page * size : page * size + len(content)] = content
        page += run
    file.write_bytes(new)
    return file


def put(file: Path, *changes: tuple[int, str, int]) -> Path:
    """Writes numbers of a struct format at places of a file."""
    content = bytearray(file.read_bytes())
    for at, form, number in changes:
        struct.pack_into(f"<{form}", content, at, number)
    file.write_bytes(content)
    return file


SOUND: dict[str, Callable[[Path], Path]] = {
    "no records": lambda path: write(path),
    "one record": lambda path: write(path, records([1], 5)),
    "raw": lambda path: write(path, records(range(1000), 800)),
    "no values": lambda path: write(path, records(range(40), 0)),
    "pages of their own": lambda path: write(path, records(range(40), 3000)),
    "runs of pages": lambda path: write(path, records(range(10), 200_000)),
    "of both kinds": lambda path: write(path, records(range(20), 100) + records(range(20, 60), 9000)),
    "all sizes about a page": lambda path: write(path, [(i, i) for i in range(4200)]),
    "long keys": lambda path: write(path, records(range(1500), 0), key="{:0511}"),
    "200,000 tiny records": lambda path: write(path, records(range(200_000), 4)),
    "some deleted": lambda path: write(path, records(range(1000), 300), records(range(100, 900), None)),
    "all deleted": lambda path: write(path, records(range(1000), 300), records(range(1000), None)),
    "written again": lambda path: write(path, records(range(100), 9000), records(range(0, 100, 2), None),
                                        records(range(90), 5000), records(range(90), 300)),
    "shorter in its old pages": lambda path: write(path, [*records(range(5), 20_000), *records(range(5), 10)]),
    "shorter than its last page": lambda path: write(path, [(0, 5000), (1, 9)], [(0, 10)], [(0, None)],
                                                     [(0, 100_000), (0, None)]),
    "longer than its last page": lambda path: padded(write(path, records(range(100), 300))),
    "pages of 8 KiB": lambda path: of_page_size(write(path, records(range(1000), 300)), 2 * PAGE),
    "pages of 32 KiB": lambda path: of_page_size(write(path, records(range(50), 300) + records(range(60), 9000)),
                                                 8 * PAGE),
}


def padded(file: Path) -> Path:
    file.write_bytes(file.read_bytes() + b"\xff" * 5000)
    return file


@pytest.mark.parametrize("name", SOUND)
def test_sound(tmp_path, name):
    file = SOUND[name](tmp_path / "db")
    before = file.read_bytes()
    check_pages(file)
    assert bool(read(file)) == (name not in ("no records", "all deleted"))
    assert file.read_bytes() == before


def test_sound_of_caffe(shared):
    for file in (shared / "data").glob("*_lmdb/data.mdb"):
        check_pages(file)


def test_the_ends_of_the_file_are_where_the_tests_say(tmp_path):
    """As LMDB writes it, a file may end before the last page that it states."""
    file = SOUND["shorter than its last page"](tmp_path / "db")
    with lmdb.open(str(file.parent)) as env:
        assert file.stat().st_size < (env.info()["last_pgno"] + 1) * PAGE
    file = SOUND["long keys"](tmp_path / "deep")
    with lmdb.open(str(file.parent)) as env:
        assert env.stat()["depth"] == 4


def test_while_it_is_read_and_written(tmp_path):
    file = write(tmp_path / "db", records(range(100), 3000))
    with lmdb.open(str(file.parent), map_size=2**28) as env, env.begin() as reader, env.begin(write=True) as writer:
        cursor = reader.cursor()
        assert cursor.first()
        for i in range(50):
            assert writer.put(b"%d" % i, bytes(5000))
        check_pages(file)
        assert cursor.next()


MAIN = 88  # where in a meta page the MDB_db of the records begins
FLAGS, DEPTH, ENTRIES, TOP, LAST = MAIN + 4, MAIN + 6, MAIN + 32, MAIN + 40, MAIN + 48


@pytest.mark.parametrize("flags", [2, 8])
def test_keys_in_another_order(tmp_path, flags):
    """Backward (MDB_REVERSEKEY), or as integers (MDB_INTEGERKEY)."""
    alike = tmp_path / "alike"
    with lmdb.open(str(alike)) as env, env.begin(write=True) as transaction:
        for i in range(100):
            transaction.put(bytes([i]) * 8, bytes(300))
    file = put(alike / "data.mdb", (FLAGS, "H", flags), (PAGE + FLAGS, "H", flags))
    check_pages(file)
    assert len(read(file)) == 100
    with pytest.raises(JaffeError, match="has a key out of order"):
        check_pages(put(write(tmp_path / "db", records(range(100), 9)), (PAGE + FLAGS, "H", flags)))


class Places:
    """Where things are in a database of two levels."""

    def __init__(self, file: Path):
        self.content = file.read_bytes()
        self.size = len(self.content)
        self.meta = PAGE  # transaction 1 writes meta page 1
        self.root = self.number(PAGE + TOP, "Q")
        self.branch = self.root * PAGE
        self.children = [self.number(self.node(self.branch, i), "I") for i in range(2)]
        self.leaf = self.children[0] * PAGE
        self.child = self.children[0]
        self.last = self.node(self.children[-1] * PAGE, -1)  # node, whose value has pages of its own
        self.long = self.number(self.last + 16, "Q")
        self.value = self.long * PAGE

    def number(self, at: int, form: str) -> int:
        return struct.unpack_from(f"<{form}", self.content, at)[0]

    def node(self, page: int, i: int) -> int:
        """Where node i of a page is."""
        nodes = (self.number(page + 12, "H") - 16) // 2
        return page + self.number(page + 16 + 2 * (i % nodes), "H")


Change = tuple[int, str, int]
DAMAGES: list[tuple[str, Callable[[Places], list[Change]], str]] = [
    ("magic", lambda at: [(16, "I", 7)],
     "page 0 is no meta page of LMDB 0.9, expected flags 8, magic 0xbeefc0de, version 1; found flags 8, magic 0x7, "
     "version 1"),
    ("version", lambda at: [(PAGE + 20, "I", 3)],
     "page 1 is no meta page of LMDB 0.9, expected flags 8, magic 0xbeefc0de, version 1; found flags 8, magic "
     "0xbeefc0de, version 3"),
    ("page size 0", lambda at: [(40, "I", 0)],
     "page 0 states a wrong page size, expected one of [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]; found 0"),
    ("two page sizes", lambda at: [(PAGE + 40, "I", 8192)],
     "page 1 states another page size, expected 4096; found 8192"),
    ("several values", lambda at: [(PAGE + FLAGS, "H", 4)],
     "page 1 states a kind of database that Caffe does not write, expected flags 0; found flags 4"),
    ("last page", lambda at: [(PAGE + LAST, "Q", 2**64 - 1)],
     f"page 1 states a wrong last page, expected one below {2**48}; found {2**64 - 1}"),
    ("depth", lambda at: [(PAGE + DEPTH, "H", 33)],
     "page 1 states a wrong depth, expected 1 to 32, or 0 without a root; found 33"),
    ("depth 0", lambda at: [(PAGE + DEPTH, "H", 0)],
     "page 1 states a wrong depth, expected 1 to 32, or 0 without a root; found 0"),
    ("too deep", lambda at: [(PAGE + DEPTH, "H", 3)],
     "page {at.child} is of another kind, expected flags 1; found 2"),
    ("entries", lambda at: [(PAGE + ENTRIES, "Q", 23)],
     "page 1 states another number of records, expected 23; found 24"),
    ("root", lambda at: [(PAGE + TOP, "Q", 1)], "page 1 does not exist, expected 2 to 10; found 1"),
    ("beyond", lambda at: [(at.node(at.branch, 0), "I", 11)], "page 11 does not exist, expected 2 to 10; found 11"),
    ("beyond the file", lambda at: [(at.node(at.branch, 0), "I", 99), (PAGE + LAST, "Q", 100)],
     "page 99 is cut off, expected a file of 409600 bytes or more; found {at.size}"),
    ("cycle", lambda at: [(at.node(at.branch, 1), "I", at.root)],
     "page {at.root} is in use twice, expected one use; found two"),
    ("number", lambda at: [(at.leaf, "Q", 77)],
     "page {at.child} has another number, expected {at.child}; found 77"),
    ("kind", lambda at: [(at.leaf + 10, "H", 18)],
     "page {at.child} is of another kind, expected flags 2; found 18"),
    ("no nodes", lambda at: [(at.leaf + 12, "H", 16)], "page {at.child} has a wrong lower, expected even, from 18; "
     "found 16"),
    ("a branch of one node", lambda at: [(at.branch + 12, "H", 18)],
     "page {at.root} has a wrong lower, expected even, from 20; found 18"),
    ("upper", lambda at: [(at.leaf + 14, "H", 4098)],
     "page {at.child} has a wrong upper, expected from lower to 4096; found 4098"),
    ("a node's place", lambda at: [(at.leaf + 18, "H", 4090)],
     "page {at.child} has a node at a wrong place, expected from upper to 4088; found 4090"),
    ("named database", lambda at: [(at.node(at.leaf, 1) + 4, "H", 2)],
     "page {at.child} holds a named database or several values for a key, expected neither, as in Caffe's; found 2"),
    ("node's flags", lambda at: [(at.node(at.leaf, 1) + 4, "H", 8)],
     "page {at.child} has a node of an unknown kind, expected flags 0 or 1; found 8"),
    ("no key", lambda at: [(at.node(at.leaf, 1) + 6, "H", 0)],
     "page {at.child} has a node without a key, expected 1 byte or more; found 0"),
    ("long value", lambda at: [(at.node(at.leaf, 0) + 2, "H", 1)],
     "page {at.child} has too few bytes for a node, expected 65836; found 300"),
    ("key", lambda at: [(at.node(at.leaf, 1) + 8, "B", 255)],
     "page {at.child} has a key out of order, expected ascending keys; found b'00000002'"),
    ("the level above", lambda at: [(at.node(at.branch, 1) + 15, "B", ord("0"))],
     "page {at.child} has a key out of order, expected ascending keys; found b'00000010'"),
    ("no value", lambda at: [(at.last + 16, "Q", 2**63)],
     f"page {2**63} does not exist, expected 2 to 10; found {2**63}"),
    ("overlap", lambda at: [(at.last + 16, "Q", at.long - 1)], "page 7 is in use twice, expected one use; found two"),
    ("value's kind", lambda at: [(at.value + 10, "H", 2)],
     "page {at.long} is of another kind, expected flags 4; found 2"),
    ("value's pages", lambda at: [(at.value + 12, "I", 2)],
     "page {at.long} begins too few pages for its value, expected 3; found 2"),
]


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_what_is_said(tmp_path, damage, message):
    file = write(tmp_path / "db", records(range(22), 300) + records([22, 23], 9000))
    check_pages(put(file))
    at = Places(file)
    put(file, *damage(at))
    with pytest.raises(JaffeError) as caught:
        check_pages(file)
    assert str(caught.value).startswith(f"LMDB {file} is damaged: " + message.format(at=at))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cannot be read: cannot mmap an empty file"),
    (b"x" * 151, "is damaged: page 0 is cut off, expected a file of 152 bytes or more; found 151"),
    (b"x" * 9000, "is damaged: page 0 is no meta page of LMDB 0.9, expected flags 8, magic 0xbeefc0de, version 1; "
                  "found flags 30840, magic 0x78787878, version 2021161080"),
    (None, "cannot be read: [Errno 2] No such file or directory"),
])
def test_other_files(tmp_path, content, message):
    file = tmp_path / "data.mdb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(JaffeError) as caught:
        check_pages(file)
    assert str(caught.value).startswith(f"LMDB {file} {message}")


@pytest.mark.parametrize("pages", [0.9, 1, 1.5, 2, 3, 9.9])
def test_cut_off(tmp_path, pages):
    file = write(tmp_path / "db", records(range(22), 300) + records([22, 23], 9000))
    file.write_bytes(file.read_bytes()[: int(pages * PAGE)])
    with pytest.raises(JaffeError, match=r"page \d+ is cut off, expected a file of \d+ bytes or more; found \d+$"):
        check_pages(file)


def test_named_databases(tmp_path):
    with lmdb.open(str(tmp_path), max_dbs=2) as env:
        env.open_db(b"a", dupsort=True)
    with pytest.raises(JaffeError, match="page 2 holds a named database or several values for a key, expected neither"):
        check_pages(tmp_path / "data.mdb")


SMALL: list[Callable[[Path], Path]] = [
    lambda path: write(path, records(range(60), 300)),
    lambda path: write(path, records(range(8), 9000)),
    lambda path: write(path, records(range(300), 1), key="{:0511}"),
    lambda path: write(path, records(range(40), 500) + records(range(40, 50), 3000), records(range(5, 30), None),
                       records(range(28, 45), 700)),
    lambda path: of_page_size(write(path, records(range(99), 300) + records([99], 9000)), 2 * PAGE),
]


def damage(content: bytearray, size: int, rng: random.Random) -> None:
    """Damages a database of pages of that size in one way, in place."""
    page, other = (size * rng.randrange(len(content) // size) for _ in range(2))
    lower, upper = struct.unpack_from("<HH", content, page + 12)
    pointers = range(page + 16, page + max(18, min(lower, size - 16)), 2)
    node = page + struct.unpack_from("<H", content, rng.choice(pointers))[0] % (size - 32)
    meta = rng.choice((0, size))
    begin, end = rng.choice([(0, len(content)), (page, page + 16), (meta, meta + 152), (meta + MAIN, meta + 152),
                             (page + 16, pointers[-1] + 2), (node, node + 8), (node, node + 32)])
    match rng.randrange(8):
        case 0:
            content[page : page + size] = bytes(size)
        case 1:
            content[page : page + size] = rng.randbytes(size)
        case 2:
            content[page : page + size], content[other : other + size] = (
                content[other : other + size], content[page : page + size])
        case 3:  # but for its number
            content[page + 8 : page + size] = content[other + 8 : other + size]
        case 4:
            one, two = rng.choice(pointers), rng.choice(pointers)
            content[one : one + 2], content[two : two + 2] = content[two : two + 2], content[one : one + 2]
        case 5:
            number = rng.choice((0, 1, 2, 15, 16, 17, 18, lower, upper, upper + 2, size - 8, size, size + 2, 0xFFFF))
            struct.pack_into("<H", content, begin + rng.randrange(end - begin - 1) // 2 * 2, number)
        case _:
            for _ in range(rng.choice((1, 1, 2, 5))):
                at = rng.randrange(begin, end)
                content[at] = rng.choice((rng.randrange(256), content[at] ^ 1 << rng.randrange(8)))


def survive(folder: Path, count: int, seed: int) -> None:
    """Checks so many mutants of each database, and reads those that pass; tells of each before and after."""
    for number, make in enumerate(SMALL):
        file = make(folder / f"{number}")
        sound, size = file.read_bytes(), PAGE * (2 if number == len(SMALL) - 1 else 1)
        for i in range(count):
            rng = random.Random(f"{seed} {number} {i}")
            content = bytearray(sound)
            for _ in range(rng.choice((1, 1, 1, 2))):
                damage(content, size, rng)
            if rng.random() < 0.1:
                del content[rng.randrange(len(content)) :]
            file.write_bytes(content)
            print(f"database {number}, mutant {i}:", end=" ", flush=True)
            print(fate(file), flush=True)


def fate(file: Path) -> str:
    try:
        check_pages(file)
    except JaffeError:
        return "refused"
    try:
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as env:
            env.begin().abort()
    except lmdb.Error:  # as jaffe's reader expects it
        return "not opened"
    read(file)
    return "read"


def test_mutants(tmp_path):
    """In a process of their own, since LMDB may end it."""
    code = f"from tests.train.test_lmdb_pages import *; survive(Path({str(tmp_path)!r}), {MUTANTS}, 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    told = done.stdout.splitlines()
    assert done.returncode == 0, f"{told[-1]} {done.returncode}\n{done.stderr}"
    fates = Counter(line.rpartition(" ")[2] for line in told)
    assert sum(fates.values()) == MUTANTS * len(SMALL)
    assert fates["refused"] > sum(fates.values()) / 3
    assert fates["read"] > sum(fates.values()) / 10  # bytes of values, and of pages that are free
