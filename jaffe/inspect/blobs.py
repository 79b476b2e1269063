"""Weights and blobs to look at: filters, feature maps, and features of a whole data set."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaffe.compile.net import CompiledNet, Variables
from jaffe.inspect.part import Part, run
from jaffe.netdef.errors import JaffeError, suggest


def filters(net: CompiledNet, variables: Variables, layer: str, *, order: str = "BGR") -> np.ndarray:
    """The filters of a layer as pictures in [0, 1], each on a scale of its own on which a weight of 0 is 0.5.

    Args:
        layer: a Convolution, Deconvolution or LocallyConnected, or an InnerProduct over images.
        order: ``"BGR"`` or ``"RGB"``: what the net's three colours are.

    Returns:
        Of three inputs (K, h, w, 3), in RGB; of one (K, h, w); of others (K, C, h, w), a picture an input channel.

    Raises:
        JaffeError: there is no such layer, or its weights are no pictures; the nearest name is in the message.
    """
    named = {node.name: node for node in net.graph.nodes}
    if layer not in named:
        raise JaffeError(f"the net has no layer {layer!r}{suggest(layer, named)}")
    if order not in ("RGB", "BGR"):
        raise JaffeError(f"order is 'RGB' or 'BGR'; received {order!r}")
    node = named[layer]
    stored = next((one for one in net.stored[layer] if one.weight.name == "weight"), None)
    if stored is None:
        with_weights = [name for name, own in net.stored.items() if any(one.weight.name == "weight" for one in own)]
        raise node.error(f"{node.type} has no filters; layers that have: {', '.join(with_weights) or 'none'}")
    owner, name = stored.owner
    weight = np.asarray(variables["params"][owner][name], np.float32).reshape(stored.weight.shape)
    bottom = net.inferred.shapes[node.bottoms[0]]
    if weight.ndim == 2 and len(bottom) == 4:
        transposed = node.type == "InnerProduct" and node.proto.inner_product_param.transpose
        weight = (weight.T if transposed else weight).reshape(-1, *bottom[1:])
    if weight.ndim != 4:
        raise node.error(f"expected weights (K, C, h, w), or those of an InnerProduct over images; found "
                         f"{weight.shape}, over {bottom}")
    most = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + weight / np.where(most > 0, 2 * most, 1)
    if scaled.shape[1] == 3:
        return scaled[:, ::-1 if order == "BGR" else 1].transpose(0, 2, 3, 1)
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled


def feature_maps(net: CompiledNet, variables: Variables, inputs: Any, blob: str) -> jax.Array:
    """A blob for these inputs, as the net computes it; only the layers that lead to it run.

    Args:
        inputs: arrays by name, or the array of the only input that the blob needs; labels need not be there. Any size
            that the layers before the blob take.

    Returns:
        (N, C, H, W), for a convolution.

    Raises:
        JaffeError: there is no such blob, or inputs do not fit.
    """
    part = Part(net, (net.value_of(blob),))
    return next(iter(run(part, variables, part.feed(inputs)).values()))


def features(net: CompiledNet, variables: Variables, inputs: Any, blob: str, *, batch: int = 100) -> np.ndarray:
    """A blob for a whole data set, computed batch by batch.

    Args:
        inputs: as for ``feature_maps``; the first axis of each array is the items.
        batch: items at a time.

    Returns:
        (items, ...), in the computer's memory.

    Raises:
        JaffeError: as ``feature_maps``; or the arrays have different numbers of items, or none.
    """
    if batch < 1:
        raise JaffeError(f"batch is at least 1; received {batch}")
    part = Part(net, (net.value_of(blob),))
    arrays = part.named(inputs)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise JaffeError(f"expected as many items of each input, at least one; received {counts or 'none'}")
    (count,) = set(counts.values())
    found = []
    for start in range(0, count, batch):
        places = np.arange(start, start + min(batch, count)).clip(max=count - 1)  # of one length: compiled once
        fed = part.feed({name: np.asarray(array)[places] for name, array in arrays.items()})
        (values,) = run(part, variables, fed).values()
        found.append(np.asarray(values)[: count - start])
    return np.concatenate(found)
