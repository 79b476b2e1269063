"""Layers with a weight: layouts of the weight, biases, padding, precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from jaffe.compile.layer import Array
from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.parity.hypotheses.base import Suspect, Variation, edits, hypothesis
from jaffe.parity.walk import Function

CONVOLUTIONS = ("Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise")


@hypothesis("InnerProduct", "Flatten", "Reshape", check="is the blob flattened in C, H, W order?")
def flatten_order(suspect: Suspect) -> Iterator[Variation]:
    """A blob of four axes flattened as H, W, C; or weights for that order, on a blob flattened as C, H, W."""
    x = suspect.bottoms[0]
    if x.ndim != 4 or x.shape[1] == 1 or x.shape[2] * x.shape[3] == 1 or suspect.p.axis not in (0, 1):
        return
    if suspect.type != "InnerProduct" and len(suspect.layer.shapes([x.shape])[0]) != 2:
        return
    n, c, h, w = x.shape
    yield Variation("the blob is flattened in H, W, C order",
                    suspect.with_bottom(lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)))
    yield Variation("the blob is flattened in H, W, C order, from memory in C, H, W order",
                    suspect.with_bottom(lambda x: x.reshape(n, h, w, c).transpose(0, 3, 1, 2)))


@hypothesis("InnerProduct", check="InnerProduct: is the weight stored transposed?")
def weight_transposed(suspect: Suspect) -> Iterator[Variation]:
    """The weight's numbers in the order of its transpose."""
    yield Variation("the weight is stored transposed", _weight(suspect, lambda w: w.reshape(w.shape[::-1]).T))


@hypothesis(*CONVOLUTIONS, check="convolution weights: is the layout (out, in, h, w) ((in, out, h, w) in Deconvolution)"
                                 ", and not flipped?")
def weight_layout(suspect: Suspect) -> Iterator[Variation]:
    """The weight's numbers flipped, or in the order of another layout."""
    shape = suspect.weights["weight"].shape
    if len(shape) != 4:
        return
    a, b, h, w = shape
    layouts: dict[str, Callable[[Array], Array]] = {
        "the kernels are flipped in height and width": lambda x: x[..., ::-1, ::-1],
        "height and width of the kernels are exchanged": lambda x: x.reshape(a, b, w, h).swapaxes(2, 3),
        "inputs and outputs of the weight are exchanged": lambda x: x.reshape(b, a, h, w).swapaxes(0, 1),
        "inputs and outputs of the weight are exchanged, and the kernels flipped":
            lambda x: x.reshape(b, a, h, w).swapaxes(0, 1)[..., ::-1, ::-1],
        "the weight is stored with channels last (h, w, in, out)":
            lambda x: x.reshape(h, w, b, a).transpose(3, 2, 0, 1),
        "the weight is stored with channels last (out, h, w, in)":
            lambda x: x.reshape(a, h, w, b).transpose(0, 3, 1, 2),
    }
    for what, change in layouts.items():
        if not jnp.array_equal(change(suspect.weights["weight"]), suspect.weights["weight"]):
            yield Variation(what, _weight(suspect, change))


def _weight(suspect: Suspect, change: Callable[[Array], Array]) -> Function:
    return suspect.with_weights(lambda weights: {"weight": change(weights["weight"])})


@hypothesis(*CONVOLUTIONS, "InnerProduct", "Scale", check="is the bias added?")
def bias_left_out(suspect: Suspect) -> Iterator[Variation]:
    """No bias."""
    if "bias" in suspect.weights:
        yield Variation("no bias is added", suspect.with_weights(lambda w: {"bias": jnp.zeros_like(w["bias"])}))


@hypothesis("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise",
            check="convolution: is the padding the same on all sides?")
def uneven_padding(suspect: Suspect) -> Iterator[Variation]:
    """TensorFlow's SAME: as much padding as ``ceil(in / stride)`` outputs need, the odd one at the end."""
    geometry = suspect.layer.geometry(2, 1)  # type: ignore[attr-defined]
    size = suspect.bottoms[0].shape[2:]
    kernel = suspect.weights["weight"].shape[2:]
    pads = []
    for n, k, stride, step in zip(size, kernel, geometry.stride, geometry.dilation, strict=True):
        total = max((-(-n // stride) - 1) * stride + step * (k - 1) + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    if tuple(pads) == tuple(geometry.pad):
        return

    def edit(proto: LayerParameter) -> None:
        for field in ("pad", "pad_h", "pad_w", "pad_l", "pad_r", "pad_t", "pad_b"):
            proto.convolution_param.ClearField(field)

    plain = suspect.edited(edit)
    yield Variation("the padding is TensorFlow's SAME", lambda weights, bottoms: plain(
        weights, [jnp.pad(bottoms[0], ((0, 0), (0, 0), *pads))]))


@hypothesis(*CONVOLUTIONS)
def dilation_left_out(suspect: Suspect) -> Iterator[Variation]:
    """Dilation left out."""
    if any(size != 1 for size in suspect.p.dilation):
        yield from edits(suspect, {"dilation is 1": lambda proto: proto.convolution_param.ClearField("dilation")})


@hypothesis(*CONVOLUTIONS, "InnerProduct", "Scale", "BatchNorm", "PReLU",
            check="are the weights the same, and stored in float32?")
def half_precision(suspect: Suspect) -> Iterator[Variation]:
    """Weights rounded to sixteen bits."""
    if suspect.weights:
        for dtype in (jnp.float16, jnp.bfloat16):
            yield Variation(f"the weights are rounded to {jnp.dtype(dtype).name}", _rounded(suspect, dtype))


def _rounded(suspect: Suspect, dtype: Any) -> Function:
    return suspect.with_weights(lambda weights: {k: v.astype(dtype).astype(v.dtype) for k, v in weights.items()})
