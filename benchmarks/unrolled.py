"""Recurrent nets written out step by step, and one process that times one of them.

    python -m benchmarks.unrolled {loop|graph|layer} {lstm|char} --steps 100

prints a line of JSON:

- ``declared_s``: seconds from the text of the net to the graph that runs.
- ``trace_s``, ``compile_s``: of one program for a training step, tracing, and XLA.
- ``compile_mb``: most memory of the process after compiling, less what it had before.
- ``step_ms``: median of the steps after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks.job import Task
from benchmarks.run_jaffe import SOLVER
from benchmarks.worker import process_mb
from jaffe import CompiledNet, compile_net, zoo
from jaffe.compile.passes import PIPELINE, reroll
from jaffe.train.optimizer import make_optimizer
from jaffe.train.step import begin, make_train_step

FORMS = ("loop", "graph", "layer")
TASKS = ("lstm", "char")


class Unrolled(CompiledNet):
    """A net whose time steps stay as they are written."""

    pipeline = tuple(one for one in PIPELINE if one is not reroll)


def layer(kind: str, name: str, bottoms: str, tops: str = "", settings: str = "") -> str:
    """``bottoms`` and ``tops``: names with spaces between; by default the top is called as the layer."""
    lines = [f'  name: "{name}"', f'  type: "{kind}"']
    lines += [f'  bottom: "{one}"' for one in bottoms.split()] + [f'  top: "{one}"' for one in (tops or name).split()]
    return "\n".join(["layer {", *lines, *([f"  {settings}"] if settings else []), "}\n"])


def product(name: str, bottom: str, outputs: int, weight: str = "", bias: bool = True) -> str:
    shared = f'param {{ name: "{weight}" }} ' if weight else ""
    return layer("InnerProduct", name, bottom, settings=(
        f"{shared}inner_product_param {{ num_output: {outputs} axis: 2 bias_term: {str(bias).lower()} "
        'weight_filler { type: "uniform" min: -0.08 max: 0.08 } }'))


def lstm(x: str, steps: int, batch: int, units: int) -> str:
    """The layers of an LSTM from a blob (T, N, ...) to "h", (T, N, H), each step written out: four layers."""
    state = f"shape {{ dim: 1 dim: {batch} dim: {units} }} "
    text = layer("DummyData", "start", "", "h_0 c_0", f"dummy_data_param {{ {state * 2} }}")
    text += product("x2g", x, 4 * units)
    for name in ("x2g", "cont"):
        text += layer("Slice", f"{name}_slice", name, " ".join(f"{name}_{t}" for t in range(1, steps + 1)),
                      "slice_param { axis: 0 }")
    for t in range(1, steps + 1):
        text += layer("Scale", f"h_conted_{t}", f"h_{t - 1} cont_{t}", settings="scale_param { axis: 0 }")
        text += product(f"h2g_{t}", f"h_conted_{t}", 4 * units, weight="W_h", bias=False)
        text += layer("Eltwise", f"gates_{t}", f"x2g_{t} h2g_{t}")
        text += layer("LSTMUnit", f"unit_{t}", f"c_{t - 1} gates_{t} cont_{t}", f"c_{t} h_{t}")
    return text + layer("Concat", "h", " ".join(f"h_{t}" for t in range(1, steps + 1)),
                        settings="concat_param { axis: 0 }")


def inputs(**shapes: tuple[int, ...]) -> str:
    sizes = " ".join("shape { " + " ".join(f"dim: {size}" for size in shape) + " }" for shape in shapes.values())
    return layer("Input", "inputs", "", " ".join(shapes), f"input_param {{ {sizes} }}")


def declared(task: str, form: str, steps: int) -> tuple[Any, dict[str, np.ndarray]]:
    """A net, and a batch for it: ``lstm`` has 16 sequences of 64 values, 128 units, and a squared error; ``char`` is
    the zoo's ``char_lstm``, 32 sequences of symbols, 256 units."""
    random = np.random.default_rng(0)
    if task == "lstm":
        batch, width, units = 16, 64, 128
        text = inputs(x=(steps, batch, width), cont=(steps, batch), target=(steps, batch, units))
        if form == "layer":
            filler = 'weight_filler { type: "uniform" min: -0.08 max: 0.08 }'
            text += layer("LSTM", "h", "x cont", settings=f"recurrent_param {{ num_output: {units} {filler} }}")
        else:
            text += lstm("x", steps, batch, units)
        data = {name: random.normal(size=(steps, batch, size)) for name, size in (("x", width), ("target", units))}
        return text + layer("EuclideanLoss", "loss", "h target"), {**data, "cont": np.ones((steps, batch))}
    batch, units, symbols = 32, 256, 128
    values, label = Task("jaffe", "", "char_lstm", "train", batch).data()
    data = {"data": values[:steps], "label": label[:steps], "cont": np.ones((steps, batch))}
    if form == "layer":
        return zoo.char_lstm(batch=batch, steps=steps), data
    embed = f"embed_param {{ input_dim: {symbols} num_output: {units} bias_term: false "
    text = inputs(data=(steps, batch), cont=(steps, batch), label=(steps, batch))
    text += layer("Embed", "embed", "data", settings=embed + 'weight_filler { type: "uniform" min: -0.08 max: 0.08 } }')
    text += lstm("embed", steps, batch, units) + product("scores", "h", symbols)
    return text + layer("SoftmaxWithLoss", "loss", "scores label", settings="softmax_param { axis: 2 }"), data


def measure(form: str, task: str, steps: int, seconds: float) -> dict[str, float]:
    """All that a process says; steps go on for this many seconds."""
    spec, data = declared(task, form, steps)
    jax.devices()  # which takes its own time to start
    began = time.perf_counter()
    net = compile_net(spec, phase="TRAIN")
    if form == "graph":
        net = Unrolled(net.graph, net.inferred, net.dtype, net.precision, net.lowering, net.remat)
    net.program(frozenset(net.loss_tops) | frozenset(net.graph.blobs[name] for name in net.outputs))
    found = {"declared_s": time.perf_counter() - began}
    optimizer = make_optimizer(SOLVER, net)
    update = jax.jit(make_train_step(net, optimizer, lambda resident, batch, key: batch), donate_argnums=0)
    state = begin(net.init(jax.random.key(0)), optimizer, jax.random.key(1))
    batch = {name: jax.numpy.asarray(data[name], "float32") for name in net.inputs}
    before = process_mb()
    began = time.perf_counter()
    lowered = update.lower(state, None, batch)
    found["trace_s"] = time.perf_counter() - began
    began = time.perf_counter()
    step = lowered.compile()
    found |= {"compile_s": time.perf_counter() - began, "compile_mb": process_mb() - before}
    times: list[float] = []
    while len(times) < 4 or sum(times) < seconds:
        began = time.perf_counter()
        state, metrics = step(state, None, batch)
        jax.block_until_ready(metrics["loss"])
        times.append(time.perf_counter() - began)
    return {**found, "step_ms": 1e3 * statistics.median(times[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=FORMS, help="steps as a loop, or as they are written; or the LSTM layer")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(json.dumps(measure(options.form, options.task, options.steps, options.seconds)))


if __name__ == "__main__":
    main()
