"""What nets begin and end with, and pieces of them under the names that published files give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned
from jaffe.netdef.builder import Top
from jaffe.netdef.errors import JaffeError

TRAIN, TEST = {"phase": "TRAIN"}, {"phase": "TEST"}
MSRA, XAVIER = {"type": "msra"}, {"type": "xavier"}


def images(
    n: NetSpec, shape: Sequence[int], batch: int, test_batch: int, transform: Mapping[str, Any] | None
) -> tuple[Top, Top]:
    """Data and label of each phase; ``shape`` is (C, H, W) after the transform."""
    if len(shape) != 3:
        raise JaffeError(f"expected shape (channels, height, width); found {tuple(shape)}")
    size = dict(zip(("channels", "height", "width"), shape, strict=True))
    extra = {"transform_param": dict(transform)} if transform else {}
    n.data, n.label = L.MemoryData(ntop=2, batch_size=batch, include=TRAIN, **size, **extra)
    n.test_data = L.MemoryData(
        ntop=0, name="data", top=["data", "label"], batch_size=test_batch, include=TEST, **size, **extra
    )
    return n.data, n.label


def inputs(
    n: NetSpec, batch: int, test_batch: int, items: Mapping[str, Sequence[int]],
    transform: Mapping[str, Any] | None = None,
) -> None:
    """Inputs (batch, ...) of each phase, as records have them: names, and shapes without the batch. ``transform`` is of
    the first one."""
    extra = {"transform_param": dict(transform)} if transform else {}
    train, test = ([{"dim": [size, *shape]} for shape in items.values()] for size in (batch, test_batch))
    first, *_ = names = list(items)
    for name, top in zip(names, L.Input(ntop=len(names), shape=train, include=TRAIN, **extra), strict=True):
        n[name] = top
    n.test_inputs = L.Input(ntop=0, name=first, top=names, shape=test, include=TEST, **extra)


def classify(n: NetSpec, scores: Top) -> None:
    """Softmax loss of the scores, and accuracy, against the net's label."""
    n.accuracy = L.Accuracy(scores, n.label, include=TEST)
    n.loss = L.SoftmaxWithLoss(scores, n.label)


def gaussian(std: float, bias: float = 0, lr: tuple[float, float] = (1, 2)) -> dict[str, Any]:
    """Weights and biases as AlexNet's: filled, and how fast they learn."""
    return {"param": learned(lr), "weight_filler": {"type": "gaussian", "std": std},
            "bias_filler": {"type": "constant", "value": bias}}


def lrn(bottom: Top) -> Top:
    """The normalisation across channels of AlexNet and GoogLeNet."""
    return L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)


def relu(n: NetSpec, name: str, top: Top, activation: str) -> Top:
    """A layer and an in-place ReLU on it, under these names; the ReLU is there in the layer's phases."""
    n[name] = top
    n[activation] = L.ReLU(top, in_place=True, include=list(top.call.proto.include))
    return n[activation]


def normalise(n: NetSpec, bn: str, scale: str, bottom: Top, *, in_place: bool = True, **settings: Any) -> Top:
    """BatchNorm and Scale under these names."""
    phases = list(bottom.call.proto.include)
    n[bn] = L.BatchNorm(bottom, in_place=in_place, include=phases, **settings)
    n[scale] = L.Scale(n[bn], bias_term=True, in_place=True, param=learned(lr=(1, 1), decay=(0, 0)), include=phases)
    return n[scale]


def conv_bn(
    n: NetSpec, name: str, bn: str, scale: str, bottom: Top, num_output: int, *, bias_term: bool = False,
    **settings: Any,
) -> Top:
    """Convolution, BatchNorm and Scale in place, under these names."""
    n[name] = L.Convolution(bottom, num_output=num_output, bias_term=bias_term, weight_filler=MSRA, **settings)
    return normalise(n, bn, scale, n[name])


def conv_bn_relu(n: NetSpec, at: str, bottom: Top, num_output: int) -> Top:
    """``conv``, ``bn``, ``scale`` and ``relu`` of small nets that are trained in some hundred steps."""
    n[f"conv{at}"] = x = L.Convolution(bottom, num_output=num_output, kernel_size=3, pad=1, bias_term=False,
                                       weight_filler=MSRA)
    x = normalise(n, f"bn{at}", f"scale{at}", x, moving_average_fraction=0.95)
    n[f"relu{at}"] = L.ReLU(x, in_place=True)
    return n[f"relu{at}"]


def global_pool(bottom: Top) -> Top:
    """The mean over all places: (N, C, H, W) -> (N, C, 1, 1)."""
    return L.Pooling(bottom, pool="AVE", global_pooling=True)
