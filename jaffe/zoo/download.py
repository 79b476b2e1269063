"""Files from the network, kept: fetched once, resumed when cut off, believed when their digest is right."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shlex
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from jaffe.folders import cache_folder
from jaffe.netdef.errors import JaffeError

LARGEST = 4 * 2**30  # bytes, of a file whose size nobody stated
CHUNK = 2**20
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 3  # at a connection that is cut
LONGEST = 200  # bytes, of a file's name; most file systems have 255, and what is received has a longer one
DIGESTS = {"sha256": 64, "sha1": 40, "git": 40}  # kinds, and their hexadecimal digits; git: of a blob

_URL = "%/:=&?~#+!$,;'@()*[]"  # characters of URLs that stay as they are


class _Cut(Exception):
    """The connection ended before the file did."""


def fetch(url: str, digest: str, *, file: str = "", size: int | None = None, folder: Path | None = None) -> Path:
    """The path of a file that was published at a URL, downloaded if it is not there yet.

    What was received of a download that was cut off stays, as ``FILE.partial``, and the next one goes on from there.
    The file appears under its name only when it is whole and its digest is right. Several processes may ask for the
    same file: one downloads, the others wait.

    Args:
        url: ``http``, ``https`` or ``file``.
        digest: ``"sha256:..."``, ``"sha1:..."`` or ``"git:..."`` (the name of a git blob with that content).
        file: its name here; by default the last part of the URL.
        size: bytes, where they are known.
        folder: by default ``weights`` in jaffe's cache: ``$XDG_CACHE_HOME/jaffe``, else ``~/.cache/jaffe``.

    Raises:
        JaffeError: it cannot be had; the message says where to put it by hand.
    """
    kind, _, expected = digest.partition(":")
    if kind not in DIGESTS or not re.fullmatch(f"[0-9a-f]{{{DIGESTS[kind]}}}", expected):
        raise JaffeError(f"digest of {url}: expected sha256:, sha1: or git: and hexadecimal digits; found {digest!r}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise JaffeError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https", "file"):
        raise JaffeError(f"{url}: expected a URL of http, https or file")
    path = (folder or _folder()) / expected[:12] / _file_name(file or unquote(parts.path).rpartition("/")[2])
    download = _Download(quote(url, safe=_URL), digest, path, size)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path):
                if not path.exists():
                    download.run()
                    return path
        if (found := digest_of(path, kind)) != expected:
            raise JaffeError(f"{path} is not {url}: its {kind} is {found}, expected {expected}; remove the file "
                             "and it is fetched again")
    except OSError as error:
        raise JaffeError(f"{path}: cannot be written: {error.strerror or error}; set XDG_CACHE_HOME to a folder that "
                         "can be") from None
    return path


def digest_of(path: Path, kind: str) -> str:
    """The digest of a file, in hexadecimal; ``kind`` is one of ``DIGESTS``."""
    with path.open("rb") as opened:
        total = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
        if kind == "git":
            total.update(b"blob %d\0" % path.stat().st_size)
        while chunk := opened.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _file_name(name: str) -> str:
    """The name, if a file in this folder can have it; else another."""
    good = name.isprintable() and "/" not in name and name not in ("", ".", "..") and len(name.encode()) <= LONGEST
    return name if good else "weights"


def _folder() -> Path:
    try:
        return cache_folder() / "weights"
    except RuntimeError:
        raise JaffeError("no folder to keep downloads in: set XDG_CACHE_HOME") from None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process downloads this file. The system lets go of the lock of a process that died."""
    import fcntl

    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Download:
    def __init__(self, url: str, digest: str, path: Path, size: int | None):
        self.url = url
        self.kind, _, self.expected = digest.partition(":")
        self.path = path
        self.size = size
        self.partial = path.with_name(f"{path.name}.partial")
        self.version = path.with_name(f"{path.name}.version")  # what the server called the state of the file

    def run(self) -> None:
        """Receive the file, check it and give it its name."""
        resumed = self.partial.exists()
        self._receive()
        if (found := digest_of(self.partial, self.kind)) != self.expected and resumed:
            self._drop()  # the part from before was of another file
            self._receive()
            found = digest_of(self.partial, self.kind)
        if found != self.expected:
            received = self.partial.stat().st_size
            self._drop()
            raise JaffeError(f"{self.url} is not the file that was published: its {self.kind} is {found} "
                             f"({received:,} bytes), expected {self.expected}. It was changed since, or the network "
                             f"gave a page of its own in its place; nothing was kept.{self._by_hand()}")
        os.replace(self.partial, self.path)
        self._drop()

    def _receive(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._once()
                return
            except _Cut as error:
                if attempt == ATTEMPTS:
                    raise JaffeError(f"{self.url}: {error}; what was received is kept, and the next try goes on from "
                                     f"there.{self._by_hand()}") from None

    def _once(self) -> None:
        have = self.partial.stat().st_size if self.partial.exists() else 0
        request = urllib.request.Request(self.url, headers={"User-Agent": "jaffe", "Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            if self.version.exists():
                request.add_header("If-Range", self.version.read_text())
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                self._take(response, have)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:  # there is nothing behind what is here, or the file is shorter now
                if self.size is None or have != self.size:
                    self._drop()
                    self._once()
                return
            raise JaffeError(f"{self.url}: the server answers {error.code} {error.reason}.{self._by_hand()}") from None
        except JaffeError:
            raise
        except (http.client.InvalidURL, ValueError) as error:  # of a URL that the server sends to
            raise JaffeError(f"{self.url} cannot be reached: {error}.{self._by_hand()}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(error, urllib.error.URLError) and not isinstance(reason, TimeoutError | ConnectionResetError):
                raise JaffeError(f"{self.url} cannot be reached: {reason}.{self._by_hand()}") from None
            raise _Cut(f"the connection was cut ({reason or type(error).__name__})") from None

    def _take(self, response: Any, have: int) -> None:
        if (coding := response.headers.get("Content-Encoding") or "identity") != "identity":
            raise JaffeError(f"{self.url}: the server sends it in another coding ({coding}), which it was asked not to "
                             f"do.{self._by_hand()}")
        length = response.headers.get("Content-Length", "")
        length = int(length) if length.isdecimal() else None
        goes_on = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if not goes_on:
            have = 0  # the whole file comes
        total = None if length is None else have + length
        if self.size is not None and total is not None and total != self.size:
            raise JaffeError(f"{self.url} has {total:,} bytes, expected {self.size:,}: it is not the file that was "
                             f"published.{self._by_hand()}")
        most = self.size or LARGEST
        if total is not None and (total > most or total - have > shutil.disk_usage(self.path.parent).free):
            raise JaffeError(f"{self.url} has {total:,} bytes: more than "
                             + ("are expected" if total > most else f"are free at {self.path.parent}"))
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version and not version.startswith("W/"):
            self.version.write_text(version)
        else:
            self.version.unlink(missing_ok=True)
        with self.partial.open("ab" if goes_on else "wb") as opened, _progress(self.path.name, have, total) as tell:
            while chunk := response.read1(CHUNK):  # what is there: a connection that is cut loses no part of a chunk
                have += len(chunk)
                if have > most:
                    self._drop()
                    raise JaffeError(f"{self.url} has more bytes than the {most:,} that are expected")
                opened.write(chunk)
                tell(len(chunk))
        total = self.size if total is None else total
        if total is not None and have < total:
            raise _Cut(f"the connection was cut after {have:,} of {total:,} bytes")

    def _drop(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _by_hand(self) -> str:
        return ("\nTo do it by hand, where there is a network:\n"
                f"  curl -L -o {shlex.quote(str(self.path))} {shlex.quote(self.url)}")


@contextlib.contextmanager
def _progress(name: str, have: int, total: int | None) -> Iterator[Any]:
    """A bar on standard error, if that is a terminal; it takes how many bytes came."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=have)
        yield lambda count: progress.advance(task, count)
