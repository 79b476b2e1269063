"""FlowNet's Correlation in ONNX: a Scan over the displacements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaffe.compile.exported import Growing
from jaffe.compile.onnx.writer import Call, writes
from jaffe.netdef.jaffe_pb2 import CorrelationParameter


@writes("Correlation")
def correlation(call: Call) -> Sequence[str]:
    """For each displacement the products, their mean over the channels, and an AveragePool."""
    from onnx import helper

    p = call.p
    still, moving = (
        call.pad(bottom.name, [(0, 0), (0, 0), (p.pad, p.pad), (p.pad, p.pad)]) for bottom in call.bottoms
    )
    out = [int(size) for size in call.tops[0][2:]]
    spans = np.array([(size - 1) * p.stride_1 + p.kernel_size for size in out])
    axes, first = call.ints([2, 3]), np.array([p.max_displacement] * 2)
    still = call.op("Slice", still, first, first + spans, axes)
    starts = call.layer.starts()
    steps = np.array([(row, column) for row in starts for column in starts])

    step = call.writer.fresh(f"{call.node.name}/step")
    with call.writer.body() as nodes:
        other = call.op("Slice", moving, step, call.op("Add", step, spans), axes)
        if p.correlation_type == CorrelationParameter.MULTIPLY:
            alike = call.op("Mul", still, other)
        else:
            alike = call.op("Abs", call.op("Sub", still, other))
        mean = call.op("AveragePool", call.reduce("ReduceMean", alike, [1], keep=True),
                       kernel_shape=[p.kernel_size] * 2, strides=[p.stride_1] * 2)
    batch = call.shape[0]
    from_step = helper.make_tensor_value_info(step, helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)), [2])
    to_mean = helper.make_tensor_value_info(mean, helper.np_dtype_to_tensor_dtype(call.dtype),
                                            [str(batch) if isinstance(batch, Growing) else batch, 1, *out])
    body = helper.make_graph(nodes, f"{call.node.name}/displaced", [from_step], [to_mean])
    every = call.op("Scan", steps, body=body, num_scan_inputs=1)  # (displacements, N, 1, oh, ow)
    return [call.transpose(call.op("Squeeze", every, call.ints([2])), [1, 0, 2, 3])]
