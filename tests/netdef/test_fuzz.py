"""Any bytes and any mutation of a real file are read, or refused with a JaffeError; ``tests.fuzz`` does more."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("h5py")
pytest.importorskip("safetensors")

from jaffe.netdef import read_weights
from tests.fuzz import mutate, outcome, seeds

SEEDS = seeds()
GOOD = ("read", "refused")
PREFIXES = (b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\xa2\x06\x20", b"layer {")


def check(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        assert outcome(path) in GOOD


def test_the_seeds_are_read(tmp_path):
    for suffix, contents in SEEDS.items():
        for content in contents:
            path = tmp_path / f"file{suffix}"
            path.write_bytes(content)
            if suffix == ".caffemodel":  # of which some hold nets that are not complete
                assert read_weights(path)
            else:
                assert outcome(path) == "read", content[:200]


@pytest.mark.parametrize("suffix", SEEDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(prefix=st.sampled_from(PREFIXES), content=st.binary(max_size=200))
def test_any_bytes(suffix: str, prefix: bytes, content: bytes):
    check(suffix, prefix + content)


@pytest.mark.parametrize("suffix", SEEDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_mutated_files(suffix: str, seed: int):
    rng = random.Random(seed)
    text = suffix in (".prototxt", ".solver")
    check(suffix, mutate(rng.choice(SEEDS[suffix]), SEEDS[suffix], text, rng))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".prototxt", b"layer {" * 100_000),
        (".prototxt", b"state { " * 100_000 + b"} " * 100_000),
        (".prototxt", b"layer <" * 5000 + b">" * 5000),
        (".prototxt", b"net_param { a: [" * 5000),
        (".prototxt", b'name: "' + b"\\a" * 100_000),
        (".prototxt", b'name: "' + b'\\"' * 100_000),
        (".prototxt", b"# " + b'"' * 100_000 + b"\nlayer { name: 'a' type: 'Input' top: 'a' }"),
        (".prototxt", b"input_dim: " + b"9" * 100_000),
        (".solver", b"net_param { layer { python_param { " * 1000),
        (".caffemodel", b"\xa2\x06\x80\x80\x80\x80\x08" * 100_000),
        (".caffemodel", b"\x0b" * 100_000),
        (".caffemodel", b"\x12\xff\xff\xff\xff\x07" * 100_000),
    ],
    ids=range(12),
)
def test_deep_and_long_files(tmp_path, suffix, content):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    began = time.process_time()
    assert outcome(path) in GOOD
    assert time.process_time() - began < 5
