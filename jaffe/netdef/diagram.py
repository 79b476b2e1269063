"""A net as boxes and arrows: what a drawing shows, before it is written in any language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import Phase

# Layers of one bottom that belong to the layer before them, in place or not.
_FOLDED = frozenset((
    "AbsVal", "BatchNorm", "BN", "BNLL", "Bias", "Clip", "Dropout", "ELU", "PReLU", "ReLU", "ReLU6", "Scale", "Sigmoid",
    "Swish", "TanH",
))
_SOURCES = frozenset(("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Parameter", "WindowData"))
_STEPS_SHOWN = 4  # an unrolled net of more steps has those in the middle left out
_MANY = 6  # tops of one layer of which not each is named


@dataclass(frozen=True)
class Box:
    """A layer, with those that were folded into it.

    Attributes:
        name: of the layer.
        title: what stands in the first line: the name, without its cluster's.
        lines: what stands below: type and settings, folded layers, shape, remarks.
        type: layer type; ``"..."`` for steps left out.
        cluster: the name of the module that it is part of, or ``""``.
        group: number of the weights that it shares with others, from 0, or ``None``.
        frozen: whether its weights do not learn.
        loss: whether it counts in the net's loss.
        source: whether its values come from outside.
    """

    name: str
    title: str
    lines: tuple[str, ...]
    type: str
    cluster: str = ""
    group: int | None = None
    frozen: bool = False
    loss: bool = False
    source: bool = False


@dataclass(frozen=True)
class Link:
    """An arrow from box to box, and the name of the blob where the box gives several; ``shared``: no blob, but weights
    that both use."""

    start: str
    end: str
    label: str = ""
    shared: bool = False


@dataclass(frozen=True)
class Diagram:
    """What is drawn.

    Attributes:
        title: the net's name and phase.
        boxes: in the order of the net.
        links: arrows.
    """

    title: str
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]


def diagram(
    graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None, frozen: Collection[str] = ()
) -> Diagram:
    """The boxes and arrows of a net.

    A layer in place, and an activation, BatchNorm, Scale or Dropout that alone reads what another layer wrote, is part
    of that layer's box. Layers called ``module/...``, or ``..._branch...`` as in ResNets, stand in a frame. Of an
    unrolled net of more than four steps the first two and the last are drawn.

    Args:
        shapes: of values, to be written into the boxes.
        frozen: names of layers whose weights do not learn.
    """
    homes = _fold(graph)
    visible, hidden = _steps(graph)
    parts: dict[str, list[Node]] = {}
    for node in graph.nodes:
        parts.setdefault(homes[node.name], []).append(node)
    clusters = _clusters([name for name in parts if name in visible])
    groups = _groups(graph)
    boxes: dict[str, Box] = {}
    rest = f"{hidden} more steps"
    for name, nodes in parts.items():
        if name in visible:
            boxes[name] = _box(nodes, clusters.get(name, ""), groups, shapes, frozen)
        else:
            boxes.setdefault(rest, Box(rest, "…", (rest,), "..."))
    writer = {top: node for node in graph.nodes for top in node.tops}

    def box_of(node: Node) -> str:
        home = homes[node.name]
        return home if home in visible else rest

    links: dict[Link, None] = {}
    for node in graph.nodes:
        for value in node.bottoms:
            start, end = box_of(writer[value]), box_of(node)
            several = 1 < len(writer[value].tops) <= _MANY and start != rest
            if start != end:
                links[Link(start, end, value.split("#")[0] if several else "")] = None
    for node in graph.nodes if not hidden else ():  # a line from step to step would hide the net
        for owner, _ in node.shared.values():
            start, end = homes[owner], homes[node.name]
            if start != end:
                links[Link(start, end, shared=True)] = None
    return Diagram(f"{graph.name or 'net'} ({graph.phase})", tuple(boxes.values()), tuple(links))


def _fold(graph: Graph) -> dict[str, str]:
    """For each layer the layer whose box it is drawn in."""
    readers = Counter(value for node in graph.nodes for value in node.bottoms)
    writer = {top: node for node in graph.nodes for top in node.tops}
    homes: dict[str, str] = {}
    for node in graph.nodes:
        homes[node.name] = node.name
        if len(node.bottoms) != 1 or len(node.tops) != 1 or any(node.loss_weights):
            continue
        (bottom,), (top,) = node.bottoms, node.tops
        before = writer[bottom]
        in_place = bottom.split("#")[0] == top.split("#")[0]
        if (in_place or node.type in _FOLDED) and readers[bottom] == 1 and len(before.tops) == 1 and (
                before.type not in _SOURCES):
            homes[node.name] = homes[before.name]
    return homes


def _steps(graph: Graph) -> tuple[set[str], int]:
    """The layers that are drawn, and how many steps of an unrolled net are left out.

    Steps are numbers at the ends of names (``h2h_1``, ``h2h_2``, ...) of layers that share their weights.
    """
    everything = {node.name for node in graph.nodes}
    numbered = {node.name: (found[1], int(found[2])) for node in graph.nodes
                if (found := re.fullmatch(r"(.*?\D)(\d{1,9})", node.name))}
    owners: dict[tuple[str, int], set[int]] = {}
    for node in graph.nodes:
        for i in range(len(node.proto.param)):
            owner = node.shared.get(i, (node.name, i))
            if node.name in numbered:
                owners.setdefault(owner, set()).add(numbered[node.name][1])
    steps = max(owners.values(), key=len, default=set())
    if len(steps) <= _STEPS_SHOWN or len(steps) != max(steps) - min(steps) + 1:
        return everything, 0
    stems = Counter(stem for stem, step in numbered.values() if step in steps)
    inner = set(range(min(steps) + 2, max(steps)))
    left = {name for name, (stem, step) in numbered.items() if step in inner and stems[stem] >= len(steps) - 1}
    return everything - left, len(inner)


def _clusters(names: Sequence[str]) -> dict[str, str]:
    """The module that each box is part of, where that has at least two."""
    modules = {}
    for name in names:
        if "/" in name.strip("/"):
            modules[name] = name.rsplit("/", 1)[0]
        else:
            modules[name] = re.sub(r"_branch\w*$", "", name)
    counts = Counter(modules.values())
    return {name: module for name, module in modules.items()
            if counts[module] > 1 and any(name != module for name, own in modules.items() if own == module)}


def _groups(graph: Graph) -> dict[str, int]:
    """A number for each layer that shares weights: that of the layer which owns them."""
    numbers: dict[str, int] = {}
    for node in graph.nodes:
        for owner, _ in node.shared.values():
            if owner != node.name:
                number = numbers.setdefault(owner, len(set(numbers.values())))
                numbers.setdefault(node.name, number)
    return numbers


def _box(
    nodes: Sequence[Node], cluster: str, groups: Mapping[str, int], shapes: Mapping[str, Sequence[int]] | None,
    frozen: Collection[str],
) -> Box:
    first, *folded = nodes
    lines = [" ".join([first.type, *_settings(first)])]
    if folded:
        lines.append("+ " + ", ".join(node.type for node in folded))
    last = nodes[-1]
    if shapes is not None:
        found = list(dict.fromkeys("×".join(map(str, shapes[top])) for top in last.tops if shapes[top]))
        lines += [", ".join([*found[:3], *(["…"] if len(found) > 3 else [])])] if found else []
    owners = dict.fromkeys(owner for node in nodes for owner, _ in node.shared.values() if owner != node.name)
    lines += [f"weights of {owner}" for owner in owners]
    still = [node for node in nodes if node.name in frozen]
    if still:
        lines.append("frozen")
    weights = [weight for node in nodes for weight in node.loss_weights if weight]
    lines += [f"loss × {weight:g}" for weight in weights]
    phases = {Phase.Name(rule.phase) for node in nodes for rule in node.proto.include if rule.HasField("phase")}
    lines += [f"{phase} only" for phase in sorted(phases)]
    title = first.name.removeprefix(cluster).lstrip("/_") or first.name if cluster else first.name
    group = next((groups[node.name] for node in nodes if node.name in groups), None)
    return Box(first.name, title, tuple(lines), first.type, cluster, group, bool(still), bool(weights),
               first.type in _SOURCES)


def _settings(node: Node) -> list[str]:
    """What matters most of the settings, in as few letters as can be."""
    if node.type.endswith(("onvolution", "ConvolutionDepthwise")):
        p = node.proto.convolution_param
        kernel = _sizes(p.kernel_size, p.kernel_h, p.kernel_w)
        stride = _sizes(p.stride, p.stride_h, p.stride_w)
        dilation = _sizes(p.dilation, 0, 0)
        return [kernel, *([f"/ {stride}"] if stride not in ("", "1") else []),
                *([f"dilation {dilation}"] if dilation not in ("", "1") else []),
                *([f"group {p.group}"] if p.group > 1 else []), f"→ {p.num_output}"]
    if node.type == "Pooling":
        pool = node.proto.pooling_param
        method = pool.PoolMethod.Name(pool.pool)
        if pool.global_pooling:
            return [method, "global"]
        kernel = str(pool.kernel_size) if pool.kernel_size else _sizes((), pool.kernel_h, pool.kernel_w)
        stride = _sizes((), pool.stride_h, pool.stride_w) or str(pool.stride)
        return [method, kernel, *([f"/ {stride}"] if stride != "1" else [])]
    if node.type == "InnerProduct":
        return [f"→ {node.proto.inner_product_param.num_output}"]
    if node.type in ("LSTM", "RNN"):
        return [f"→ {node.proto.recurrent_param.num_output}"]
    if node.type == "Eltwise":
        eltwise = node.proto.eltwise_param
        return [eltwise.EltwiseOp.Name(eltwise.operation)]
    return []


def _sizes(each: Sequence[int], height: int, width: int) -> str:
    """``"3"``; of unequal ones both; or nothing."""
    sizes = list(each) or ([height, width] if height or width else [])
    return "×".join(map(str, dict.fromkeys(sizes) if len(set(sizes)) == 1 else sizes))
