"""LMDB's pages, walked before LMDB reads them: over a damaged one it ends the process (SIGABRT, SIGBUS, SIGSEGV).

The walk goes down the B+ tree of the records, all pages of a level at once. It checks what a reader of LMDB follows
or asserts, and the order by which LMDB finds keys; it reads no values, and not the tree of free pages.
Source: LMDB 0.9, mdb.c, on 64-bit little-endian machines. Structures, fields and constants have their names there.
"""

from __future__ import annotations

import mmap
from operator import le, lt
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaffe.netdef.errors import JaffeError

MDB_PAGE = np.dtype([("pgno", "<u8"), ("pad", "<u2"), ("flags", "<u2"), ("lower", "<u2"), ("upper", "<u2")])
MDB_OVERFLOW = np.dtype([("pgno", "<u8"), ("pad", "<u2"), ("flags", "<u2"), ("pages", "<u4")])  # MDB_page's other form
MDB_NODE = np.dtype([("lo", "<u2"), ("hi", "<u2"), ("flags", "<u2"), ("ksize", "<u2")])
MDB_DB = np.dtype([("pad", "<u4"), ("flags", "<u2"), ("depth", "<u2"), ("branch_pages", "<u8"), ("leaf_pages", "<u8"),
                   ("overflow_pages", "<u8"), ("entries", "<u8"), ("root", "<u8")])
MDB_META = np.dtype([("page", MDB_PAGE), ("magic", "<u4"), ("version", "<u4"), ("address", "<u8"), ("mapsize", "<u8"),
                     ("free", MDB_DB), ("main", MDB_DB), ("last_pg", "<u8"), ("txnid", "<u8")])

MAGIC, VERSION = 0xBEEFC0DE, 1
SIZES = [2**i for i in range(8, 16)]  # of a page: from what holds an MDB_meta to MAX_PAGESIZE
P_BRANCH, P_LEAF, P_OVERFLOW, P_META = 1, 2, 4, 8
P_INVALID = 2**64 - 1  # the root of a tree without pages
F_BIGDATA, F_SUBDATA, F_DUPDATA = 1, 2, 4  # the value has pages of its own; is a named database; is several values
MDB_REVERSEKEY, MDB_INTEGERKEY = 2, 8
CURSOR_STACK = 32  # the deepest tree that LMDB walks
MOST_PAGES = 2**48  # NODEPGNO: branches have 48 bits for a page
MOST_HEADERS = 100_000  # of values that are looked at


def check_pages(file: Path) -> None:
    """Checks a ``data.mdb``, so that LMDB can read its records without ending the process.

    Looks once at each page of the tree, and at the header of each value that has pages of its own, up to 100,000 of
    these: each is a page to fetch from the disk, and LMDB itself does not go by them.

    Raises:
        JaffeError: a page is damaged or cut off; the file cannot be opened, or is none of LMDB 0.9; or it holds named
            databases or several values for a key, which Caffe's do not.
    """
    try:
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: no bytes at all
        raise JaffeError(f"LMDB {file} cannot be read: {error}") from None
    _Tree(file, content).check()


class _Tree:
    """The tree of the records, as the newer of the two meta pages has it."""

    def __init__(self, file: Path, content: mmap.mmap):
        self._file, self._content, self._bytes = file, content, np.frombuffer(content, np.uint8)
        first = self._read_meta(0, 0)
        self._size = int(first["free"]["pad"])  # mm_psize
        if self._size not in SIZES:
            self._wrong(0, "states a wrong page size", f"one of {SIZES}", self._size)
        second = self._read_meta(1, self._size)
        if second["free"]["pad"] != self._size:  # LMDB goes by the newer
            self._wrong(1, "states another page size", self._size, second["free"]["pad"])
        self._newer = int(first["txnid"] < second["txnid"])
        meta = second if self._newer else first
        self._main, self._count = meta["main"], int(meta["last_pg"]) + 1
        self._used = np.empty((0, 2), np.int64)  # runs of pages: the first, and the one after the last

    def check(self) -> None:
        """Walks from the root to the records."""
        root, depth, entries, flags = (int(self._main[name]) for name in ("root", "depth", "entries", "flags"))
        if flags & ~(MDB_REVERSEKEY | MDB_INTEGERKEY):
            self._wrong(self._newer, "states a kind of database that Caffe does not write", "flags 0", f"flags {flags}")
        if self._count > MOST_PAGES:
            self._wrong(self._newer, "states a wrong last page", f"one below {MOST_PAGES}", self._count - 1)
        if depth > CURSOR_STACK or (depth == 0) != (root == P_INVALID):
            self._wrong(self._newer, "states a wrong depth", f"1 to {CURSOR_STACK}, or 0 without a root", depth)
        pages, least, found = np.array([root], np.uint64), [b""], 0
        for level in range(depth - 1, -1, -1):
            pages, least, found = self._check_level(pages, least, P_BRANCH if level else P_LEAF)
        if found != entries:
            self._wrong(self._newer, "states another number of records", entries, found)

    def _check_level(self, pages: np.ndarray, least: list[bytes], kind: int) -> tuple[np.ndarray, list[bytes], int]:
        """Checks the pages of a level, given the least key that each may hold.

        Returns:
            The pages below with their least keys, and how many nodes this level has.
        """
        owners, firsts, at = self._find_nodes(pages, kind)
        nodes = self._read(at, MDB_NODE)
        flags, sizes = nodes["flags"], nodes["ksize"]
        lengths = nodes["lo"] | nodes["hi"].astype(np.int64) << 16  # of values; in a branch the page, without its top
        if kind == P_LEAF:
            self._expect(flags & (F_SUBDATA | F_DUPDATA) == 0, owners,
                         "holds a named database or several values for a key", "neither, as in Caffe's", flags)
            self._expect(flags <= F_BIGDATA, owners, "has a node of an unknown kind", "flags 0 or 1", flags)
            self._expect(sizes > 0, owners, "has a node without a key", "1 byte or more", sizes)
        ends = at + MDB_NODE.itemsize + sizes  # of keys
        need = np.where(flags == F_BIGDATA, 8, lengths) if kind == P_LEAF else np.zeros_like(lengths)
        room = (owners + 1) * self._size - ends
        self._expect(need <= room, owners, "has too few bytes for a node", need, room)
        keys = [self._content[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
        if self._main["flags"]:
            keys = [key[::-1] for key in keys]  # in LMDB's order; integers are little-endian
        if kind == P_BRANCH:
            for first, low in zip(firsts.tolist(), least, strict=True):
                keys[first] = low  # LMDB takes the first key of a branch for less than any
        self._check_order(keys, firsts.tolist(), least, owners)
        if kind == P_LEAF:
            self._check_values(self._read(ends[flags == F_BIGDATA], np.dtype("<u8")), lengths[flags == F_BIGDATA])
        return lengths.astype(np.uint64) | flags.astype(np.uint64) << np.uint64(32), keys, len(nodes)  # NODEPGNO

    def _find_nodes(self, pages: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nodes of some pages: the page of each, which ones are the first of a page, and where each begins."""
        heads = self._read_pages(pages, np.ones(len(pages), np.int64), kind, MDB_PAGE)
        lower, upper = heads["lower"].astype(np.int64), heads["upper"].astype(np.int64)
        fewest = MDB_PAGE.itemsize + (4 if kind == P_BRANCH else 2)  # LMDB aborts over a branch of one node
        self._expect((lower >= fewest) & (lower % 2 == 0), pages, "has a wrong lower", f"even, from {fewest}", lower)
        self._expect((lower <= upper) & (upper <= self._size), pages, "has a wrong upper",
                     f"from lower to {self._size}", upper)
        counts = (lower - MDB_PAGE.itemsize) // 2
        firsts = np.cumsum(counts) - counts
        owners = np.repeat(pages.astype(np.int64), counts)
        pointers = MDB_PAGE.itemsize + 2 * (np.arange(len(owners)) - np.repeat(firsts, counts))
        offsets = self._read(owners * self._size + pointers, np.dtype("<u2")).astype(np.int64)
        last = self._size - MDB_NODE.itemsize
        self._expect((offsets >= np.repeat(upper, counts)) & (offsets <= last), owners, "has a node at a wrong place",
                     f"from upper to {last}", offsets)
        return owners, firsts, owners * self._size + offsets

    def _check_order(self, keys: list[bytes], firsts: list[int], least: list[bytes], owners: np.ndarray) -> None:
        """Keys ascend, and those of a page lie from its least key to that of the next: LMDB finds no others."""
        begins, stops = [keys[i] for i in firsts], [keys[i - 1] for i in firsts[1:]]
        for good, pages, found in ((map(lt, keys, keys[1:]), owners[1:], keys[1:]),
                                   (map(le, least, begins), owners[firsts], begins),
                                   (map(lt, stops, least[1:]), owners[firsts], stops)):
            self._expect(np.fromiter(good, bool), pages, "has a key out of order", "ascending keys", found)

    def _check_values(self, pages: np.ndarray, lengths: np.ndarray) -> None:
        """Checks the headers of values that have pages of their own."""
        runs = (MDB_OVERFLOW.itemsize + lengths - 1) // self._size + 1  # OVPAGES; more where a shorter value came after
        if len(pages) > MOST_HEADERS:
            self._take(pages, runs)
            return
        heads = self._read_pages(pages, runs, P_OVERFLOW, MDB_OVERFLOW)
        self._expect(heads["pages"] >= runs, pages, "begins too few pages for its value", runs, heads["pages"])

    def _read_pages(self, pages: np.ndarray, runs: np.ndarray, kind: int, dtype: np.dtype) -> np.ndarray:
        """The headers of pages that begin runs of so many, of which nothing else has one."""
        self._take(pages, runs)
        heads = self._read(pages.astype(np.int64) * self._size, dtype)
        self._expect(heads["pgno"] == pages, pages, "has another number", pages, heads["pgno"])
        self._expect(heads["flags"] == kind, pages, "is of another kind", f"flags {kind}", heads["flags"])
        return heads

    def _take(self, pages: np.ndarray, runs: np.ndarray) -> None:
        """Checks that pages which begin runs of so many are in the file, and that nothing else has one."""
        self._expect((pages > 1) & (pages < self._count), pages, "does not exist", f"2 to {self._count - 1}", pages)
        starts = pages.astype(np.int64)
        stops = starts + runs
        if stops.max(initial=0) > len(self._bytes) // self._size:  # the file may lack free pages up to last_pg
            self._wrong(pages[stops.argmax()], "is cut off", f"a file of {int(stops.max()) * self._size} bytes or more",
                        len(self._bytes))
        self._used = np.concatenate([self._used, np.stack([starts, stops], 1)])
        self._used = self._used[self._used[:, 0].argsort(kind="stable")]
        firsts = self._used[1:, 0]
        self._expect(self._used[:-1, 1] <= firsts, firsts, "is in use twice", "one use", ["two"] * len(firsts))

    def _read_meta(self, page: int, at: int) -> np.void:
        if at + MDB_META.itemsize > len(self._bytes):
            self._wrong(page, "is cut off", f"a file of {at + MDB_META.itemsize} bytes or more", len(self._bytes))
        meta = self._read(np.array([at]), MDB_META)[0]
        if not meta["page"]["flags"] & P_META or meta["magic"] != MAGIC or meta["version"] != VERSION:
            self._wrong(page, "is no meta page of LMDB 0.9", f"flags {P_META}, magic {MAGIC:#x}, version {VERSION}",
                        f"flags {meta['page']['flags']}, magic {meta['magic']:#x}, version {meta['version']}")
        return meta

    def _read(self, at: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The structures that begin at these bytes of the file."""
        windows = np.lib.stride_tricks.sliding_window_view(self._bytes, dtype.itemsize)
        return np.ascontiguousarray(windows[at]).view(dtype)[:, 0]

    def _expect(self, good: np.ndarray, pages: np.ndarray, what: str, expected: object, found: Any) -> None:
        """Raises JaffeError about the first page where it does not hold."""
        if not good.all():
            i = int(good.argmin())
            self._wrong(pages[i], what, expected[i] if isinstance(expected, np.ndarray) else expected, found[i])

    def _wrong(self, page: int, what: str, expected: object, found: object) -> NoReturn:
        raise JaffeError(f"LMDB {self._file} is damaged: page {page} {what}, expected {expected}; found {found!s:.60}")
