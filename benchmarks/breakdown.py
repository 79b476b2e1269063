"""Where the time of jaffe's training step goes, by JAX's profiler: layer types, forward and backward.

    python -m benchmarks.breakdown [--nets lenet resnet18]

The tables are written to docs/performance.md where no net is left out. *products* are calls of oneDNN and of XLA's YNN
(convolutions, products, some sums); *around* is all else: patches, transposes, pooling, sums over channels,
element-wise work. Of what runs side by side each gets its part of the time, so the sum is the time in which anything
ran; a step takes a little longer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax

from benchmarks.__main__ import PAGE
from benchmarks.job import Stopwatch, Task
from benchmarks.nets import NETS
from benchmarks.run_jaffe import training
from benchmarks.table import markdown, number, replaced
from jaffe.compile import CompiledNet

WARM, STEPS = 15, 10
SCOPE = re.compile(r'%(\S+) = .*op_name="[^"]*?(transpose\()?jvp\(([^)]*)\)')
CALL = re.compile("onednn|ynn|^dot|^convolution")


def breakdown(name: str) -> str:
    """A table of one net."""
    run = training(Task("jaffe", "", name, "train", NETS[name].batch), Stopwatch(), Stopwatch())
    program = run.update.lower(run.state, None, run.inputs).compile()
    scopes = scopes_of(program.as_text())
    state = run.state
    for _ in range(WARM):
        state, metrics = program(state, None, run.inputs)
    jax.block_until_ready(metrics)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                state, metrics = program(state, None, run.inputs)
                jax.block_until_ready(metrics)
        times = by_operation(Path(folder))
    return table(run.net, times, scopes)


def scopes_of(program: str) -> dict[str, tuple[str, bool]]:
    """Of each operation in a program's text, if it is inside of a layer: the layer, and whether it is on the way back.
    """
    return {found[1]: (found[3], bool(found[2])) for found in map(SCOPE.search, program.splitlines()) if found}


def by_operation(folder: Path) -> Counter[str]:
    """Milliseconds a step of each operation of the program, from the profiler's trace."""
    (trace,) = folder.rglob("*.trace.json.gz")
    events = []
    for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]:
        operation = event.get("args", {}).get("hlo_op")
        if operation and not operation.startswith("while"):  # what is inside has events of its own
            name = operation.partition("__")[0]  # a call's target follows
            events.append((event["ts"] / 1e3 / STEPS, (event["ts"] + event["dur"]) / 1e3 / STEPS, name))
    return shared(events)


def shared(events: Iterable[tuple[float, float, str]]) -> Counter[str]:
    """Of events (begin, end, name) the time of each name; when several go on, each has an equal part of it."""
    changes = sorted(change for begin, end, name in events for change in ((begin, 1, name), (end, -1, name)))
    times: Counter[str] = Counter()
    going: Counter[str] = Counter()
    last = 0.0
    for at, change, name in changes:
        count = going.total()
        for one, parts in going.items():
            times[one] += (at - last) * parts / count
        going[name] += change
        if not going[name]:
            del going[name]
        last = at
    return times


def table(net: CompiledNet, times: Mapping[str, float], scopes: Mapping[str, tuple[str, bool]]) -> str:
    """Rows by layer type, those that take most first; *outside* is what no layer does: the update, and its checks."""
    types = {node.name.replace("/", "."): node.type for node in net.graph.nodes}
    cells: Counter[tuple[str, str]] = Counter()
    for operation, ms in times.items():
        layer, backward = scopes.get(operation, ("", False))
        column = f"{'backward' if backward else 'forward'}, {'products' if CALL.search(operation) else 'around'}"
        cells[types.get(layer, "outside"), column] += ms
    columns = [f"{way}, {what}" for way in ("forward", "backward") for what in ("products", "around")]
    totals = Counter({row: sum(cells[row, column] for column in columns) for row, _ in cells})
    rows = [[row, *(number(cells[row, column]) if cells[row, column] >= 5e-3 else "" for column in columns),
             number(total)] for row, total in totals.most_common() if total >= 5e-3]
    sums = [number(sum(cells[row, column] for row in totals)) for column in columns]
    rows.append(["all", *sums, number(totals.total())])
    return markdown(["ms a step", *columns, "all"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    options = parser.parse_args()
    parts = []
    for name in options.nets:
        parts.append(f"**{NETS[name].title}**, batch {NETS[name].batch}\n\n{breakdown(name)}\n")
        print(parts[-1], flush=True)
    if set(options.nets) == set(NETS):
        PAGE.write_text(replaced(PAGE.read_text(), "breakdown", "\n".join(parts)))


if __name__ == "__main__":
    main()
