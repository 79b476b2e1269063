"""Damaged files, in bulk: ``python -m tests.fuzz --minutes 10`` mutates real ones and counts what the readers say.

Only two outcomes are right: the file is read, or it is refused with a ``JaffeError``. Anything else, and whatever
takes longer than ``SLOW`` seconds, is a failure, whose input is kept. ``test_fuzz.py`` runs a few of the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from jaffe.netdef import JaffeError, read_weights, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto, BlobProtoVector, NetParameter
from jaffe.netdef.means import read_blobs, read_mean
from jaffe.netdef.solverstate import SolverState, read_solver_state, write_solver_state
from jaffe.netdef.source import decode, from_file
from jaffe.netdef.text import read_solver
from jaffe.netdef.weights import array_to_blob, write_weights
from tests.conftest import ROOT

SLOW = 5.0  # seconds for one file of a few kilobytes
MEMORY = 4 * 2**30  # bytes of address space that a run may take beyond its start

SOLVER = """
net: "net.prototxt" test_iter: 10 test_interval: 100 base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005
lr_policy: "multistep" stepvalue: 10 stepvalue: 20 snapshot_prefix: "a/b" solver_mode: CPU type: "SGD"
net_param { layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } }
"""
OLD_NET = """
name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 7 input_dim: 5
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
         convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { layer { name: "p" type: "padding" pad: 2 } bottom: "c" top: "p" }
"""


def seeds() -> dict[str, list[bytes]]:
    """Real small files of each kind, by suffix."""
    rng = np.random.default_rng(0)
    weights = {
        "conv1": [rng.normal(size=(2, 3, 3, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)],
        "relu/1": [rng.normal(size=())],
        "ip": [rng.normal(size=(3, 5)), rng.normal(size=3)],
    }
    flat = {"conv1": weights["conv1"], "ip": weights["ip"]}
    mean = rng.uniform(0, 255, (1, 3, 5, 7)).astype(np.float32)
    goldens = sorted((ROOT / "tests" / "goldens" / "layers").glob("*.npz"))
    texts = [str(np.load(path)["prototxt"]) for path in goldens]
    old = BlobProto(num=1, channels=1, height=3, width=5, data=range(15), diff=range(15), double_data=range(15))
    net = NetParameter(name="v1")
    net.layers.add(name="a", type=4, bottom=["x"], top=["y"]).blobs.append(old)
    net.layers.add().layer.name = "b"
    net.layers[1].layer.blobs.append(BlobProto(raw_data_type=2, raw_data=b"\0" * 6, shape={"dim": [3]}))
    result: dict[str, list[bytes]] = {".prototxt": [text.encode() for text in [*texts, OLD_NET]]}
    result[".solver"] = [SOLVER.encode()]
    result[".caffemodel"] = [net.SerializeToString()]
    result[".binaryproto"] = [
        BlobProto(num=1, channels=3, height=5, width=7, data=mean.ravel()).SerializeToString(),
        array_to_blob(mean[0]).SerializeToString(),
    ]
    result[".vector"] = [BlobProtoVector(blobs=[array_to_blob(mean), old]).SerializeToString()]
    with tempfile.TemporaryDirectory() as folder:
        small = resolve('layer { name: "conv1" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
                        'layer { name: "ip" type: "ReLU" bottom: "x" top: "y" }')
        for suffix in (".caffemodel", ".h5", ".npz", ".safetensors"):
            path = Path(folder) / f"w{suffix}"
            write_weights(path, flat, small)
            result.setdefault(suffix, []).append(path.read_bytes())
        packed = Path(folder) / "packed.h5"
        with h5py.File(packed, "w", libver="latest") as file:
            file.create_dataset("data/conv1/0", data=weights["conv1"][0], compression="gzip", chunks=(1, 3, 3, 2))
            file.create_dataset("data/ip/1", data=weights["ip"][1], shuffle=True, fletcher32=True)
        result[".h5"].append(packed.read_bytes())
        np.savez_compressed(Path(folder) / "packed.npz", **{"ip/0": weights["ip"][0]})
        result[".npz"].append((Path(folder) / "packed.npz").read_bytes())
        state = SolverState(7, "a.caffemodel", tuple(weights["conv1"]), 1)
        for suffix in (".solverstate", ".solverstate.h5"):
            path = Path(folder) / f"s{suffix}"
            write_solver_state(path, state)
            result[suffix] = [path.read_bytes()]
        np.save(Path(folder) / "mean.npy", mean)
        result[".npy"] = [(Path(folder) / "mean.npy").read_bytes()]
    return result


def read(path: Path) -> None:
    """Everything that jaffe does with a file of that suffix before it computes."""
    match "".join(path.suffixes):
        case ".solverstate" | ".solverstate.h5":
            read_solver_state(path)
        case ".prototxt":
            resolve(from_file(path))
        case ".solver":
            read_solver(decode(path.read_bytes(), path), path.name)
        case ".caffemodel":
            try:
                read_weights(path)
            finally:
                resolve(from_file(path))
        case ".binaryproto" | ".npy":
            read_mean(path)
        case ".vector":
            read_blobs(path)
        case _:
            read_weights(path)


NUMBERS = (b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x00", b"\x7f", b"\xff" * 8,
           b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\x00" * 8)
WORDS = ("{", "}", "[", "]", "<", ">", ":",
         '"', "'", "\\", "#", "\n", "-1", "0", "1e999", "nan", "99999999999999999999",
         "4294967296", "layer {", "layers {", "shape { dim: 0 }", "dim: -1", 'param { name: "w" }', "phase: TRAIN", "é",
         "include { phase: TEST }", 'top: "x"', 'bottom: "x"', 'type: "Input"', "$(NAME)", "\x00", "blobs { data: 1 }")

LITERALS = (b"0", b"-1", b"1", b"7", b"4294967295", b"4294967296", b"-2147483649", b"1e39")
_NAME = rb'"[^"]*"|[A-Z]\w+'


def mutate(content: bytes, others: list[bytes], text: bool, rng: random.Random) -> bytes:
    """The content with a few random changes."""
    if text and rng.random() < 0.5:
        return mutate_lines(content, others, rng)
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 32))):
        at = rng.randrange(len(result) + 1)
        end = min(len(result), at + rng.choice((1, 2, 4, 8, rng.randrange(1, 200))))
        match rng.randrange(9):
            case 0 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at:end] = rng.randbytes(end - at)
            case 2:
                del result[at:end]
            case 3:
                result[at:at] = result[at:end] * rng.choice((1, 2, 50))
            case 4:
                result[at : at + rng.randrange(9)] = rng.choice(NUMBERS)
            case 5:
                del result[at:]
            case 6:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                result[at:end] = other[begin : begin + rng.randrange(1, 200)]
            case 7 if text:
                result[at:at] = f" {rng.choice(WORDS)} ".encode() * rng.choice((1, 1, 1, 2, 100))
            case 8 if text:  # deep
                word = rng.choice(("layer {", "net_param { layer {", "<", "[", "{", "include {", "shape <"))
                result[at:at] = word.encode() * rng.choice((1, 10, 1000))
            case 7 | 8:  # a small number, as lengths and tags are
                result[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(result[: 2**20])


def mutate_lines(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Lines moved, left out, repeated or taken from elsewhere, and other numbers and names; often still a net."""
    lines = content.splitlines() or [b""]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            case 1:
                lines.insert(rng.randrange(len(lines)), lines.pop(at))
            case 2:
                lines.insert(at, rng.choice(rng.choice(others).splitlines()))
            case 3:
                lines[at] = _replace(rb"-?\d+", lines[at], LITERALS, rng)
            case 4:
                lines[at] = _replace(_NAME, lines[at], re.findall(_NAME, content), rng)
    return b"\n".join(lines)


def _replace(pattern: bytes, line: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The line with about half of what the pattern finds replaced by other things."""
    return re.sub(pattern, lambda found: rng.choice((found[0], rng.choice(others))), line) if others else line


def outcome(path: Path, reader: Callable[[Path], None] = read) -> str:
    """``"read"`` or ``"refused"``; anything else is a failure, in a few words."""
    began = time.perf_counter()
    try:
        reader(path)
        result = "read"
    except JaffeError as error:
        result = "refused" if str(error) else "refused without a word"
    except Exception as error:
        result = f"{type(error).__name__}: {str(error)[:100]}"
    seconds = time.perf_counter() - began
    return f"slow: {seconds:.1f} s" if seconds > SLOW else result


def main() -> int:
    """Mutate and read for as long as asked; print the counts. Exit status 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for inputs that failed")
    options = parser.parse_args()
    faulthandler.enable()
    by_suffix = seeds()
    rng = random.Random(options.seed)
    counts: dict[str, Counter[str]] = {suffix: Counter() for suffix in by_suffix}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    began, slowest, failures = time.monotonic(), 0.0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        print(f"mutating {sum(map(len, by_suffix.values()))} files in {folder}, seed {options.seed}", flush=True)
        while time.monotonic() - began < 60 * options.minutes:
            suffix = rng.choice(list(by_suffix))
            path = Path(folder) / f"file{suffix}"
            text = suffix in (".prototxt", ".solver")
            path.write_bytes(mutate(rng.choice(by_suffix[suffix]), by_suffix[suffix], text, rng))
            start = time.perf_counter()
            found = outcome(path)
            slowest = max(slowest, time.perf_counter() - start)
            counts[suffix][found if found in ("read", "refused") else "failed"] += 1
            if found not in ("read", "refused"):
                failures += 1
                options.keep.mkdir(exist_ok=True)
                (options.keep / f"{options.seed}-{failures}{suffix}").write_bytes(path.read_bytes())
                print(f"{options.keep}/{options.seed}-{failures}{suffix}: {found}", flush=True)
    for suffix, count in counts.items():
        print(f"{suffix:13} read {count['read']:8,}  refused {count['refused']:8,}  failed {count['failed']:4,}")
    total = sum(sum(count.values()) for count in counts.values())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(f"{total:,} files in {(time.monotonic() - began) / 60:.1f} minutes; the slowest took {slowest:.2f} s; "
          f"memory grew by {grown:.0f} MiB; {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
