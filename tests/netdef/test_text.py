"""Prototxt: where layers begin, round trips, and hostile text."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaffe.netdef import NetParameter, SpecError, format_text, load, resolve, write_binary, write_text
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.netdef.text import layer_lines, parse_text, top_level_fields


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("layer {}\nlayer {}", [1, 2]),
        ("# layer {\nlayer { } layer {\n}\n", [2, 2]),
        ('name: "layer {"\n\nlayer {\n  name: "}"\n}', [3]),
        ("layer\n{\n}\nlayer: <>\n", [1, 4]),
        ("layer { transform_param { } # }\n }\nlayer {}", [1, 3]),
        ("\r\nlayer {\r\n}\r\nlayer {}\r\n", [2, 4]),
        ("state { stage: 'layer {' }\nlayer {}", [2]),
        ("layer [ {\n}, {\n},\n{} ] layer {}", [1, 2, 4, 4]),
        (r'name: "a\"layer {" ' + "\nlayer {}", [2]),
    ],
)
def test_layer_lines(text: str, lines: list[int]):
    assert layer_lines(text) == lines
    assert len(parse_text(text, NetParameter).layer) == len(lines)


def test_text_and_binary_round_trip(tmp_path):
    text = 'name: "n" layer { name: "l" type: "Mish" attribute { name: "beta" number: 1.5 } top: "y" }'
    net = load(text).net
    assert parse_text(format_text(net), NetParameter) == net
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    assert load(path).net == net


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "gone.prototxt", "cannot be read: No such file or directory"),
        (b"layer\x00", "net.prototxt", "is not text; a binary net ends in .caffemodel, .binaryproto or .pb"),
        (b"\xff\xfe\x00", "net.caffemodel", "is not a binary NetParameter (truncated, or text?)"),
        (b"", "net.caffemodel", "is not a net: it is empty"),
        (b"", "net.prototxt", "is not a net: it is empty"),
        (BlobProto(num=1, channels=3, height=5, width=7, data=[0] * 105).SerializeToString(), "mean.binaryproto",
         "is not a net: it holds no layers, but a mean, or another blob"),
        (NetParameter(name="n").SerializeToString(), "net.pb", "is not a net: it holds no layers"),
    ],
)
def test_unreadable_files(tmp_path, content, name, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {message}"


def test_devices_are_refused():
    with pytest.raises(SpecError) as caught:  # whose content has no end
        load("/dev/zero")
    assert str(caught.value) == "/dev/zero: is not a regular file"


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="a net is a path, prototxt, a NetParameter or a NetSpec; received int"):
        load(3)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='layer{}<>:"\'#\\\n input_dm0123456789-.type', max_size=80))
def test_any_text_is_read_or_refused(text: str):
    with contextlib.suppress(SpecError):
        resolve("\n" + text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.caffemodel"
        path.write_bytes(content)
        with contextlib.suppress(SpecError):
            resolve(path)


@pytest.mark.parametrize("text", ['"\\' * 50_000, "'\\" * 50_000, "\"'" * 50_000])
def test_strings_without_an_end_take_linear_time(text: str):
    """A quadratic search takes more than a minute."""
    began = time.process_time()
    assert top_level_fields(text) == layer_lines(text) == []
    assert time.process_time() - began < 5


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, write):
    path = tmp_path / "net.pb"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SpecError) as caught:
        write(NetParameter(name="n"), path)
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["net.pb"]


def test_replacing_keeps_links_and_permissions(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    write_text(NetParameter(name="été"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "file").net.name == "été"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    write_text(NetParameter(name="été"), "/dev/null")
    assert not Path("/dev/null").is_file()
