"""Collectives of a compiled XLA program, read from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from jaffe.netdef.errors import JaffeError
from jaffe.plan.machine import COLLECTIVES, Collective, bytes_sent

_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0}  # others have their bits in their names: f32, bf16, s4, f8e4m3
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")
_CALLED = re.compile(r"\b(?:to_apply|calls|condition|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:[^()]|\([^()]*\))*\))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']*)'(?::\(\d+\)(\d+))?")  # one of a mesh, or a part of it: 'x', 'x':(1)2


@dataclass(frozen=True)
class Found:
    """A collective of a program.

    Attributes:
        name: of the instruction.
        kind: without ``-start``.
        size: bytes of the whole buffer on one device, of all arrays that are sent together: see ``bytes_sent``.
        members: devices of a group.
        times: how often it runs: the iterations of the loops around it, where the program states them, else once.
    """

    name: str
    kind: Collective
    size: int
    members: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, all times together."""
        return self.times * bytes_sent(self.kind, self.size, self.members)


def collectives(program: str) -> list[Found]:
    """What devices send to each other in a compiled program, in the order of its text.

    Args:
        program: of all devices, as ``jax.jit(f).lower(...).compile().as_text()`` gives it. A loop whose iterations XLA
            could not count counts as one; of a conditional every branch counts.

    Raises:
        JaffeError: the text is not such a program, or has a collective that cannot be read.
    """
    if not program.startswith("HloModule"):
        raise JaffeError("expected the text of a compiled program, which begins with HloModule; "
                         f"found {program[:40]!r}")
    header = program.partition("\n")[0]
    devices = math.prod(int(count) for count in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header))
    computations = _computations(program)
    times = _times(computations)
    found = []
    for computation, instructions in computations.items():
        for name, opcode, shape, rest in instructions:
            kind = opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                found.append(_collective(name, opcode, shape, rest, devices, times.get(computation, 0)))
    return [one for one in found if one.times]


def _computations(program: str) -> dict[str, list[tuple[str, str, str, str]]]:
    """Of each computation its instructions: name, opcode, shape, and the rest of the line. The entry's is ``""``."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    inside = None
    for line in program.splitlines():
        if begins := _COMPUTATION.match(line):
            inside = "" if begins[1] else begins[2]
            found[inside] = []
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (instruction := _INSTRUCTION.match(line)):
            shape, rest = _shape(instruction[2])
            opcode, _, rest = rest.partition("(")
            found[inside].append((instruction[1], opcode, shape, rest))
    if "" not in found:
        raise JaffeError("expected the text of a compiled program; found one without an ENTRY computation")
    return found


def _shape(text: str) -> tuple[str, str]:
    """A shape, which may be a tuple in brackets, and what follows it."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: i + 1], text[i + 2 :]
    raise JaffeError(f"expected a shape whose brackets close; found {text[:80]!r}")


def _times(computations: dict[str, list[tuple[str, str, str, str]]]) -> dict[str, int]:
    """How often each computation runs. Those called stand before their callers in the text, the entry last."""
    times = {"": 1}
    for computation in reversed(computations):
        for _, opcode, _, rest in computations[computation]:
            if opcode in ("async-update", "async-done"):  # of what async-start began
                continue
            for called, count in _calls(rest):
                times[called] = times.get(called, 0) + count * times.get(computation, 0)
    return times


def _calls(rest: str) -> Iterator[tuple[str, int]]:
    for name in _CALLED.findall(rest):
        yield name, 1
    for names in _BRANCHES.findall(rest):
        for name in names.split(","):
            yield name.strip().removeprefix("%"), 1
    if body := _BODY.search(rest):
        trips = _TRIPS.search(rest)
        yield body[1], int(trips[1]) if trips else 1


def _collective(name: str, opcode: str, shape: str, rest: str, devices: int, times: int) -> Found:
    kind = cast(Collective, opcode.removesuffix("-start"))
    members = devices if kind == "collective-permute" else _members(name, rest, devices)
    parts = [shape]
    if opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, and what the device keeps of it)
        parts = _parts(shape)
        parts = [parts[1 if kind == "all-gather" else 0]]
    size = sum(_bytes(name, *array) for array in _ARRAY.findall(parts[0]))
    if kind == "reduce-scatter" and not opcode.endswith("-start"):  # of which the result is a part
        size *= members
    return Found(name, kind, size, members, times)


def _parts(shape: str) -> list[str]:
    """The members of a tuple's shape."""
    parts, depth = [""], 0
    for character in shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _bytes(name: str, dtype: str, sizes: str) -> int:
    bits = _BITS.get(dtype)
    if bits is None:
        if not (digits := re.match(r"(?:bf|f|s|u)(\d+)", dtype)):
            raise JaffeError(f"{name}: expected an array of numbers; found {dtype}[{sizes}]")
        bits = int(digits[1])
    try:
        count = math.prod(int(size) for size in sizes.split(",") if size)
    except ValueError:
        raise JaffeError(f"{name}: expected sizes that are fixed; found {dtype}[{sizes}]") from None
    return math.ceil(count * bits / 8)


def _members(name: str, rest: str, devices: int) -> int:
    """Devices of a group: listed, ``{{0,1},{2,3}}``; counted, ``[2,2]<=[4]``; or axes of a mesh,
    ``mesh['x'=2,'y'=2] {'y'}``."""
    if iota := _IOTA.search(rest):
        return int(iota[2])
    if mesh := _MESH.search(rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in _AXIS.findall(mesh[2]))
    if listed := _LISTED.search(rest):
        groups = re.findall(r"\{([\d, ]*)\}", listed[1] or "")
        counts = {len(group.split(",")) for group in groups}
        if len(counts) > 1:
            raise JaffeError(f"{name}: expected groups of equal size; found {listed[0]}")
        return counts.pop() if counts else devices
    raise JaffeError(f"{name}: expected replica_groups; found {rest[:120]!r}")
