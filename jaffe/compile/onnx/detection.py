"""Prior boxes in ONNX. What is after the heads of a detector (suppression) has no form there."""

from __future__ import annotations

from collections.abc import Sequence

from jaffe.compile.onnx.writer import Call, writes


@writes("PriorBox", "PriorBoxClustered")
def priors(call: Call) -> Sequence[str]:
    """A constant: the boxes depend on sizes only."""
    cells, image = call.bottoms
    return [call.constant(call.layer.boxes(cells.shape, image.shape))]
