"""LSTM, RNN and LSTMUnit in ONNX: a Scan over the steps, for ONNX's own LSTM knows no ``cont``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaffe.compile.exported import Growing
from jaffe.compile.onnx.writer import Call, writes


@writes("LSTM", "RNN")
def recurrent(call: Call) -> Sequence[str]:
    """The products of all steps at once, then a Scan. Without ``expose_hidden`` every call starts from zeros."""
    from onnx import helper

    layer, units = call.layer, call.p.num_output
    x, cont = call.bottoms[:2]
    steps, batch = x.shape[:2]
    flat = call.reshape(x.name, (steps, batch, math.prod(x.shape[2:])))
    product = _affine(call, flat, "input_weight", "bias")
    if layer.has_static(call.bottoms):
        static = call.bottoms[2]
        rows = call.reshape(static.name, (static.shape[0], math.prod(static.shape[1:])))
        product = call.op("Add", product, _affine(call, rows, "static_weight"))
    going_on = call.op("Unsqueeze", cont.name, call.ints([2]))
    if layer.exposed:
        first = [call.reshape(bottom.name, bottom.shape[1:]) for bottom in call.bottoms[-layer.exposed :]]
    else:
        first = [_zeros(call) for _ in layer.hidden]

    dims = [str(size) if isinstance(size, Growing) else size for size in (batch, units)]
    kind = helper.np_dtype_to_tensor_dtype(call.dtype)
    before = [call.writer.fresh(f"{call.node.name}/{name}") for name in (*layer.hidden, "product", "cont")]
    with call.writer.body() as nodes:
        after = _step(call, before[:-2], *before[-2:])
        output = call.op("Identity", after[0])
    sizes = [*[dims] * len(layer.hidden), [dims[0], layer.gates * units], [dims[0], 1]]
    body = helper.make_graph(
        nodes, f"{call.node.name}/step",
        [helper.make_tensor_value_info(name, kind, size) for name, size in zip(before, sizes, strict=True)],
        [helper.make_tensor_value_info(name, kind, dims) for name in (*after, output)],
    )
    *last, outputs = call.ops("Scan", len(first) + 1, *first, product, going_on, body=body, num_scan_inputs=2)
    if call.node.type == "RNN":
        outputs = call.op("Tanh", _affine(call, outputs, "output_weight", "output_bias"))
    return [outputs, *(call.op("Unsqueeze", value, call.ints([0])) for value in last[: layer.exposed])]


def _step(call: Call, hidden: Sequence[str], product: str, cont: str) -> list[str]:
    """The next hidden blobs, h first."""
    kept = call.op("Mul", cont, hidden[0])
    gates = call.op("Add", product, _affine(call, kept, "hidden_weight"))
    if call.node.type == "RNN":
        return [call.op("Tanh", gates)]
    c, h = _unit(call, hidden[1], gates, cont, call.p.num_output)
    return [h, c]


@writes("LSTMUnit")
def lstm_unit(call: Call) -> Sequence[str]:
    """The nodes of one step."""
    c, gates, cont = call.bottoms
    return _unit(call, c.name, gates.name, call.op("Unsqueeze", cont.name, call.ints([2])), int(c.shape[2]))


def _unit(call: Call, c: str, gates: str, cont: str, units: int) -> list[str]:
    """The next c and h."""
    i, f, o, g = call.ops("Split", 4, gates, call.ints([units] * 4), axis=-1)
    i, f, o = (call.op("Sigmoid", gate) for gate in (i, f, o))
    kept = call.op("Mul", call.op("Mul", cont, f), c)
    c = call.op("Add", kept, call.op("Mul", i, call.op("Tanh", g)))
    return [c, call.op("Mul", o, call.op("Tanh", c))]


def _affine(call: Call, x: str, weight: str, bias: str = "") -> str:
    """``x W^T + b``."""
    y = call.op("MatMul", x, call.weights[weight].T)
    return call.op("Add", y, call.weight(bias)) if bias else y


def _zeros(call: Call) -> str:
    """Hidden blobs at the start, (N, H)."""
    shape = call.op("Concat", call.size(call.x, 1), call.ints([call.p.num_output]), axis=0)
    return call.op("Expand", 0.0, shape)
