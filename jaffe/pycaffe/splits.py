"""Caffe's Split layers, which scripts in pycaffe's style see among a net's layers and blobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import LayerParameter


def blob_names(graph: Graph) -> dict[str, str]:
    """For each value of the net the blob that it is a version of."""
    return {
        value: name
        for node in graph.nodes
        for value, name in zip(node.tops, node.proto.top or node.tops, strict=True)
    }


def insert_splits(graph: Graph) -> Graph:
    """The same net, with a Split layer behind each value that is read more than once, so that each has one reader.

    A loss weight counts as a reader, and moves to the first top of the Split. Names are Caffe's: the layer is
    ``BLOB_LAYER_I_split`` for the I-th top of LAYER, its tops are that and ``_0``, ``_1``, ... in the order of use.
    Source: Caffe 1.0, ``insert_splits.cpp``.
    """
    names = blob_names(graph)
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for value in node.bottoms:
            readers[value] = readers.get(value, 0) + 1
    nodes: list[Node] = []
    losses: list[str] = []
    ends: dict[str, str] = {}
    tops: dict[str, Iterator[str]] = {}  # of a value that is split: what its readers read, in their order
    for node in graph.nodes:
        bottoms = tuple(next(tops[value]) if value in tops else value for value in node.bottoms)
        weights = list(node.loss_weights)
        splits = []
        for i, value in enumerate(node.tops):
            count = readers.get(value, 0)
            weight = weights[i] if count else 0.0
            if count + bool(weight) < 2:
                continue
            split = _split(f"{names[value]}_{node.name}_{i}_split", names[value], value, count + bool(weight), node)
            if weight:
                weights[i] = 0.0
                split = replace(split, loss_weights=(weight, *split.loss_weights[1:]))
                losses.append(split.tops[0])
            splits.append(split)
            ends |= {top: top for top in split.tops}
            tops[value] = iter(split.tops[bool(weight):])
        nodes += [replace(node, bottoms=bottoms, loss_weights=tuple(weights)), *splits]
    result = graph.with_nodes(nodes, {**graph.blobs, **ends})
    return replace(result, outputs=tuple(sorted([*graph.outputs, *losses]))).verify()


def _split(name: str, blob: str, value: str, count: int, producer: Node) -> Node:
    tops = tuple(f"{name}_{k}" for k in range(count))
    proto = LayerParameter(name=name, type="Split", bottom=[blob], top=tops)
    return Node(name=name, type="Split", proto=proto, bottoms=(value,), tops=tops, phase=producer.phase,
                loss_weights=(0.0,) * count, location=producer.location)
