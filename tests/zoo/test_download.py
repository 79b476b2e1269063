"""Downloads from a server that misbehaves in every way that servers do."""

from __future__ import annotations

import gc
import gzip
import hashlib
import multiprocessing
import shlex
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from jaffe.netdef.errors import JaffeError
from jaffe.zoo import download

CONTENT = np.random.default_rng(0).bytes(3 * download.CHUNK + 17)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
NAME = f"{DIGEST[7:19]}/net.caffemodel"


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any path, and remembers the ranges that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.version = '"one"'
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.cuts: list[int] = []  # after how many bytes each of the next answers ends
        self.ranged = True  # whether it can answer with a part
        self.status = 200
        self.length: int | None = None  # what it says in place of the truth
        self.headers = True  # whether it says how long the file is
        self.coding = ""
        self.stalls: list[int] = []  # after how many bytes each of the next answers comes to a halt
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/net.caffemodel"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        if self.path in ("/moved", "/nowhere", "/circle"):
            self.send_response(302)
            self.send_header("Location", {"/moved": server.url, "/nowhere": "http://["}.get(self.path, self.path))
            self.end_headers()
            return
        server.ranges.append(asked)
        server.paths.append(self.path)
        if server.status != 200:
            self.send_error(server.status)
            return
        begin = 0
        if asked and server.ranged and self.headers.get("If-Range", server.version) == server.version:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(server.content):
                self.send_error(416)
                return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.headers:
            self.send_header("Content-Length", str(server.length or len(body)))
        if server.coding:
            self.send_header("Content-Encoding", server.coding)
        if server.version:
            self.send_header("ETag", server.version)
        self.end_headers()
        if server.stalls:
            self.wfile.write(body[:server.stalls.pop(0)])
            server.released.wait(30)
        else:
            self.wfile.write(body[:server.cuts.pop(0)] if server.cuts else body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def refused(problem: Callable[[], object], *parts: str) -> None:
    with pytest.raises(JaffeError) as found:
        problem()
    for part in parts:
        assert part in str(found.value)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
            if not path.name.endswith(".lock")}


def test_is_fetched_once(server: Server, tmp_path: Path):
    path = download.fetch(server.url, DIGEST, folder=tmp_path)
    assert path == tmp_path / NAME
    assert path.read_bytes() == CONTENT
    assert download.fetch(server.url, DIGEST, folder=tmp_path) == path
    assert server.ranges == [None]
    assert files(tmp_path) == {NAME}


def test_redirects_are_followed_and_files_named(server: Server, tmp_path: Path):
    moved = f"http://127.0.0.1:{server.server_port}/moved"
    path = download.fetch(moved, DIGEST, file="mine.caffemodel", folder=tmp_path)
    assert (path.name, path.read_bytes()) == ("mine.caffemodel", CONTENT)


@pytest.mark.parametrize(("kind", "text"), [
    ("sha1", hashlib.sha1(CONTENT).hexdigest()),
    ("git", hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()),
])
def test_kinds_of_digests(server: Server, tmp_path: Path, kind: str, text: str):
    assert download.fetch(server.url, f"{kind}:{text}", folder=tmp_path).read_bytes() == CONTENT


def test_file_urls(tmp_path: Path):
    (tmp_path / "here").write_bytes(CONTENT)
    path = download.fetch((tmp_path / "here").as_uri(), DIGEST, folder=tmp_path / "cache")
    assert path.read_bytes() == CONTENT


def test_a_connection_that_is_cut_goes_on(server: Server, tmp_path: Path):
    server.cuts = [download.CHUNK + 5, 7]
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={download.CHUNK + 5}-", f"bytes={download.CHUNK + 12}-"]


def test_what_came_is_kept_for_the_next_run(server: Server, tmp_path: Path):
    server.cuts = [100, 100, 100]
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "cut after 300 of", "goes on from there",
            f"curl -L -o {tmp_path / NAME} {server.url}")
    assert files(tmp_path) == {f"{NAME}.partial", f"{NAME}.version"}
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300-"
    assert files(tmp_path) == {NAME}


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path):
    server.cuts, server.ranged = [100], False
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-"]


@pytest.mark.parametrize("versions", [('"one"', '"two"'), ("", "")], ids=["told", "untold"])
def test_a_file_that_changed_is_not_spliced(server: Server, tmp_path: Path, versions: tuple[str, str]):
    server.content, server.version, server.cuts = b"x" * len(CONTENT), versions[0], [100] * 3
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "cut")
    server.content, server.version = CONTENT, versions[1]
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file(server: Server, tmp_path: Path):
    partial = tmp_path / f"{NAME}.partial"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT + b"more")
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT


def test_another_file_is_not_kept(server: Server, tmp_path: Path):
    server.content = b"<html>please log in</html>"
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "is not the file that was published",
            "26 bytes", DIGEST[7:], "nothing was kept")
    assert files(tmp_path) == set()


def test_a_file_that_was_put_there_is_checked(server: Server, tmp_path: Path):
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(b"another")
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "its sha256 is", "remove the file")
    (tmp_path / NAME).write_bytes(CONTENT)
    assert download.fetch(server.url, DIGEST, folder=tmp_path) == tmp_path / NAME
    assert server.ranges == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusals_say_what_to_do(server: Server, tmp_path: Path, status: int):
    server.status = status
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), f"the server answers {status}", "curl -L")


def test_sizes_are_held_against_what_is_known(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused(lambda: download.fetch(server.url, DIGEST, size=99, folder=tmp_path),
            f"{server.url} has {len(CONTENT):,} bytes, expected 99")
    monkeypatch.setattr(download, "LARGEST", 1000)
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "more than are expected")
    assert files(tmp_path) == set()
    server.length = 999  # and sends more
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "is not the file that was published",
            "999 bytes")


def test_without_a_network(tmp_path: Path):
    with Server() as gone:
        url = gone.url
    refused(lambda: download.fetch(url, DIGEST, folder=tmp_path), "cannot be reached", "refused",
            f"curl -L -o {tmp_path / NAME} ")


def test_where_nothing_can_be_written(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path / "file"), "cannot be written", "XDG_CACHE_HOME")


@pytest.mark.parametrize(("url", "digest", "message"), [
    ("ftp://a/b", DIGEST, "expected a URL of http, https or file"),
    ("http://[::1/b", DIGEST, "is no URL"),
    ("http://a:b/c", DIGEST, "is no URL"),
    ("http://a:99999/c", DIGEST, "is no URL"),
    ("http://a/b", "sha256:12", "expected sha256:, sha1: or git:"),
    ("http://a/b", "md5:" + "0" * 32, "expected sha256:, sha1: or git:"),
])
def test_what_is_asked_for_is_checked(tmp_path: Path, url: str, digest: str, message: str):
    refused(lambda: download.fetch(url, digest, folder=tmp_path), message)


@pytest.mark.parametrize(("path", "asked", "name"), [
    ("a b.caffemodel", "a%20b.caffemodel", "a b.caffemodel"),
    ("netz-ü.caffemodel", "netz-%C3%BC.caffemodel", "netz-ü.caffemodel"),
    ("a%20b?x=[1]&y=%2F", "a%20b?x=[1]&y=%2F", "a b"),
    ("it's.caffemodel", "it's.caffemodel", "it's.caffemodel"),
    ("%2e%2e", "%2e%2e", "weights"),
    ("a%2f..%2f..%2f..", "a%2f..%2f..%2f..", "weights"),
    ("a%00b", "a%00b", "weights"),
    ("a%0ab", "a%0ab", "weights"),
    ("x" * 300, "x" * 300, "weights"),
    ("", "", "weights"),
])
def test_names_of_every_kind_stay_in_their_folder(server: Server, tmp_path: Path, path: str, asked: str, name: str):
    base = server.url.removesuffix("net.caffemodel")
    found = download.fetch(base + path, DIGEST, folder=tmp_path / "cache")
    assert (found.parent, found.name) == (tmp_path / "cache" / DIGEST[7:19], name)
    assert found.read_bytes() == CONTENT
    assert server.paths == [f"/files/{asked}"]
    assert files(tmp_path) == {str(found.relative_to(tmp_path))}


def test_names_that_are_given_stay_in_their_folder(server: Server, tmp_path: Path):
    found = download.fetch(server.url, DIGEST, file="../../net", folder=tmp_path / "cache")
    assert found == tmp_path / "cache" / DIGEST[7:19] / "weights"


def test_commands_can_be_pasted(server: Server, tmp_path: Path):
    server.status = 404
    url = server.url + "?a='b'&c"
    with pytest.raises(JaffeError) as found:
        download.fetch(url, DIGEST, file="it's", folder=tmp_path)
    command = str(found.value).splitlines()[-1]
    assert shlex.split(command) == ["curl", "-L", "-o", str(tmp_path / DIGEST[7:19] / "it's"), url]


def test_redirects_in_a_circle(server: Server, tmp_path: Path):
    circle = f"http://127.0.0.1:{server.server_port}/circle"
    refused(lambda: download.fetch(circle, DIGEST, folder=tmp_path), "the server answers 302", "curl -L")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # urllib leaves the connection open
def test_redirects_to_nowhere(server: Server, tmp_path: Path):
    nowhere = f"http://127.0.0.1:{server.server_port}/nowhere"
    refused(lambda: download.fetch(nowhere, DIGEST, folder=tmp_path), "cannot be reached", "curl -L")
    gc.collect()  # so that it is closed here


def test_a_connection_that_is_cut_where_no_length_was_said(server: Server, tmp_path: Path):
    server.headers, server.cuts = False, [100]
    path = download.fetch(server.url, DIGEST, size=len(CONTENT), folder=tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-"]


def test_a_connection_that_stalls_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.stalls = [100, 100]
    assert download.fetch(server.url, DIGEST, folder=tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100-", "bytes=200-"]


def test_what_is_coded_is_refused(server: Server, tmp_path: Path):
    server.content, server.coding = gzip.compress(CONTENT), "gzip"
    refused(lambda: download.fetch(server.url, DIGEST, folder=tmp_path), "another coding (gzip)")
    assert files(tmp_path) == set()


def test_more_than_is_expected_is_not_kept(server: Server, tmp_path: Path):
    server.headers = False
    refused(lambda: download.fetch(server.url, DIGEST, size=99, folder=tmp_path), "more bytes than the 99")
    assert files(tmp_path) == set()


def test_a_file_that_is_there_needs_no_lock(server: Server, tmp_path: Path):
    """Else a cache that can only be read was of no use; who is root may write everywhere, but to no folder."""
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(CONTENT)
    (tmp_path / NAME).with_name(".net.caffemodel.lock").mkdir()
    assert download.fetch(server.url, DIGEST, folder=tmp_path) == tmp_path / NAME
    assert server.ranges == []


def test_several_processes_download_once(server: Server, tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    asking = [spawn.Process(target=download.fetch, args=(server.url, DIGEST), kwargs={"folder": tmp_path})
              for _ in range(3)]
    for process in asking:
        process.start()
    for process in asking:
        process.join(60)
    assert [process.exitcode for process in asking] == [0, 0, 0]
    assert server.ranges == [None]
    assert (tmp_path / NAME).read_bytes() == CONTENT
