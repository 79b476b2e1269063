"""Where the time of a compiled program goes, by layer: from JAX's profiler."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

_MODULE = re.compile(r"HloModule ([^\s,]+)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][a-z\d-]*)\(")
_SCOPE = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_TARGET = re.compile(r'\bcustom_call_target="([^"]*)"')
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_WRAPPER = re.compile(r"(?:jvp|transpose|vmap)\((.*)\)$", re.DOTALL)
Spent = dict[tuple[str, Any], float]  # nanoseconds by instruction and run
CONTROL = frozenset({"while", "conditional", "call"})  # their time is that of the operations inside


@dataclass(frozen=True)
class Profile:
    """Milliseconds of one run of a program, by layer. What runs at the same time adds up: the sum may be more than the
    program takes.

    Attributes:
        forward, backward: of operations of a layer's forward and backward pass. What XLA fused counts for the layer of
            its result, and layers that the compiler made one for the first of them.
        other: of operations that belong to no layer: copies between them, and what has no name.
    """

    forward: dict[str, float]
    backward: dict[str, float]
    other: float

    @property
    def total(self) -> float:
        """Of all operations."""
        return sum(self.forward.values()) + sum(self.backward.values()) + self.other

    def of(self, layer: str) -> float:
        """Of a layer, forward and backward."""
        return self.forward.get(layer, 0.0) + self.backward.get(layer, 0.0)


@dataclass(frozen=True)
class Operation:
    """An instruction of a compiled program: its kind, and its scopes in JAX (``jit(f)/transpose(jvp(conv1))/mul``)."""

    opcode: str
    scope: str


def profile(
    program: Any, arguments: tuple[Any, ...], layers: Iterable[str], iterations: int
) -> Profile | None:
    """Run a program that is compiled, and divide its time among layers.

    Args:
        program: ``jax.jit(f).lower(*arguments).compile()``, whose layers run in scopes of their names, as those of
            ``CompiledNet`` do.
        iterations: runs; of each operation the median is taken, or the mean where the profile does not tell runs apart.

    Returns:
        ``None``: the profiler of this device tells nothing of single operations.
    """
    text = program.as_text()
    module = _MODULE.match(text)
    operations = read_operations(text)
    jax.block_until_ready(program(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(iterations):
                jax.block_until_ready(program(*arguments))
        spent: Spent = {}
        for file in Path(folder).rglob("*.xplane.pb"):
            spent.update(_spent(jax.profiler.ProfileData.from_file(str(file)), module[1] if module else ""))
    return attribute(_of_one_run(spent, iterations), operations, layers) if spent else None


def _of_one_run(spent: Spent, iterations: int) -> dict[str, float]:
    """Nanoseconds of each instruction in one run."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for (name, _), nanoseconds in spent.items():
        by_name[name].append(nanoseconds)
    if len({run for _, run in spent}) != iterations:
        return {name: sum(times) / iterations for name, times in by_name.items()}
    return {name: float(np.median(times + [0.0] * (iterations - len(times)))) for name, times in by_name.items()}


def attribute(
    spent: Mapping[str, float], operations: Mapping[str, Operation], layers: Iterable[str]
) -> Profile:
    """Divide nanoseconds by instruction among layers."""
    names = {layer.replace("/", "."): layer for layer in layers}  # as ``execute`` makes scopes of names
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    other = 0.0
    for name, nanoseconds in spent.items():
        operation = operations.get(name, Operation("", ""))
        if operation.opcode in CONTROL:
            continue
        milliseconds = nanoseconds / 1e6
        layer, back = layer_of(operation.scope, names)
        if layer:
            (backward if back else forward)[layer] += milliseconds
        else:
            other += milliseconds
    return Profile(dict(forward), dict(backward), other)


def layer_of(scope: str, names: Mapping[str, str]) -> tuple[str, bool]:
    """The layer that a scope names, by ``names``, or ``""``; and whether it is of the backward pass."""
    for part in scope.split("/")[:-1]:  # the last is the operation
        inner, back = part, False
        while True:
            if inner in names:
                return names[inner], back
            found = _WRAPPER.match(inner)
            if not found:
                break
            back = back or inner.startswith("transpose(")
            inner = found[1]
    return "", False


def read_operations(text: str) -> dict[str, Operation]:
    """The instructions of a compiled program by name, from its text. One without a scope has that of the instruction
    which calls its computation, as a loop its body."""
    found: dict[str, Operation] = {}
    inside: dict[str, str] = {}  # the computation of an instruction
    caller: dict[str, str] = {}  # the instruction that calls a computation
    targets: dict[str, str] = {}
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            name, rest = match.groups()
            opcode, scope, target = _OPCODE.search(rest), _SCOPE.search(rest), _TARGET.search(rest)
            found[name] = Operation(opcode[1] if opcode else "", _unescaped(scope[1]) if scope else "")
            inside[name] = computation
            for called in _called(rest):
                caller[called] = name
            if target:
                targets[name + target[1]] = name
    for name, operation in found.items():
        outer = name
        while not found[outer].scope and inside[outer] in caller:
            outer = caller[inside[outer]]
        found[name] = Operation(operation.opcode, found[outer].scope)
    # XLA:CPU's profile calls a custom call by its name and target.
    return found | {name: found[own] for name, own in targets.items() if name not in found}


def _called(rest: str) -> Iterator[str]:
    for match in _CALLED.finditer(rest):
        yield match[1]
    for match in _BRANCHES.finditer(rest):
        yield from (one.strip().lstrip("%") for one in match[1].split(","))


def _unescaped(text: str) -> str:
    """A string of XLA's text: ``\\"``, ``\\\\``, and UTF-8 as octal numbers."""
    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8)]) if code.isdigit() else {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(code, code)

    return re.sub(rb"\\([0-7]{3}|.)", byte, text.encode()).decode(errors="replace")


def _spent(data: Any, module: str) -> Spent:
    """What the instructions of a module took: on devices, else on the host, where its threads run them."""
    by_place: dict[bool, Spent] = {True: defaultdict(float), False: defaultdict(float)}
    for plane in data.planes:
        on_device = plane.name.startswith("/device:")
        lines = list(plane.lines)
        whole = [line for line in lines if line.name == "XLA Ops"]  # of TPUs; other lines repeat them
        for line in whole or lines:
            for key, nanoseconds in _alone(line, module):
                by_place[on_device][key] += nanoseconds
    return by_place[True] or by_place[False]


def _alone(line: Any, module: str) -> Iterator[tuple[tuple[str, Any], float]]:
    """The instructions that ran on a line, with their times less those of what ran within them."""
    events = []
    for event in line.events:
        stats = dict(event.stats)
        if "hlo_op" in stats and stats.get("hlo_module", module) == module and not event.name.startswith("end: "):
            events.append((event.start_ns, -event.duration_ns, str(stats["hlo_op"]), stats.get("run_id")))
    open_: list[tuple[float, list[float]]] = []  # end, and time of its own, of what is under way
    done: list[tuple[tuple[str, Any], list[float]]] = []
    for start, negative, name, run in sorted(events, key=lambda event: event[:2]):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            open_[-1][1][0] += negative
        own = [-negative]
        open_.append((start - negative, own))
        done.append(((name, run), own))
    return ((key, max(own[0], 0.0)) for key, own in done)
