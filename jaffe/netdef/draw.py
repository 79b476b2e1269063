"""Pictures of a net as text: Graphviz DOT and Mermaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaffe.netdef.graph import Graph, Node

# Caffe's colours, a little lighter.
_COLOURS = {
    "Convolution": "#ff8a8a",
    "Deconvolution": "#ff8a8a",
    "Pooling": "#ffc266",
    "InnerProduct": "#dd88ff",
}
_OTHER = "#a6c1f4"


def to_dot(graph: Graph, rankdir: str = "LR", shapes: Mapping[str, Sequence[int]] | None = None) -> str:
    """The net in Graphviz's language: a box a layer, in Caffe's colours, an arrow a blob.

    Render with ``dot -Tsvg``, or in a notebook with ``graphviz.Source(to_dot(graph))``.

    Args:
        rankdir: ``"LR"`` left to right, ``"TB"`` top to bottom.
        shapes: of values, as ``CompiledNet.inferred.shapes`` has them, to be written on the arrows.
    """
    lines = [
        f"digraph {_quote(graph.name or 'net')} {{",
        f"  rankdir={rankdir};",
        '  node [fontname="sans-serif" fontsize=12 shape=box style="filled,rounded" color="#606060"];',
        '  edge [fontname="sans-serif" fontsize=10 color="#606060"];',
    ]
    writer = {top: node.name for node in graph.nodes for top in node.tops}
    for node in graph.nodes:
        colour = _COLOURS.get(node.type, _OTHER)
        lines.append(f'  {_quote(node.name)} [label={_quote(chr(10).join(_label(node)))} fillcolor="{colour}"];')
    for node in graph.nodes:
        for value in node.bottoms:
            label = [value.split("#")[0]] if value.split("#")[0] != writer[value] else []
            if shapes is not None:
                label.append("×".join(map(str, shapes[value])))
            text = f" [label={_quote(chr(10).join(label))}]" if label else ""
            lines.append(f"  {_quote(writer[value])} -> {_quote(node.name)}{text};")
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(graph: Graph, direction: str = "LR") -> str:
    """The net as a Mermaid flowchart, which code hosts and notebooks render: one box a layer."""
    lines = [f"flowchart {direction}"]
    ids = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}
    writer = {top: node.name for node in graph.nodes for top in node.tops}
    for node in graph.nodes:
        label = "<br/>".join(part.replace('"', "#quot;") for part in _label(node))
        lines.append(f'  {ids[node.name]}["{label}"]')
        for bottom in node.bottoms:
            lines.append(f"  {ids[writer[bottom]]} -->|{_mermaid_text(bottom)}| {ids[node.name]}")
    return "\n".join(lines) + "\n"


def _label(node: Node) -> list[str]:
    """Name, type, and what matters most of the settings."""
    label = [node.name, node.type]
    if node.type in ("Convolution", "Deconvolution"):
        p = node.proto.convolution_param
        kernel = "x".join(map(str, p.kernel_size)) or f"{p.kernel_h}x{p.kernel_w}"
        label.append(f"{p.num_output}, kernel {kernel}, stride {'x'.join(map(str, p.stride)) or p.stride_h or 1}")
    elif node.type == "Pooling":
        pool = node.proto.pooling_param
        method = pool.PoolMethod.Name(pool.pool)
        label.append(f"{method} global" if pool.global_pooling else
                     f"{method} {pool.kernel_size or f'{pool.kernel_h}x{pool.kernel_w}'}, stride {pool.stride}")
    elif node.type == "InnerProduct":
        label.append(str(node.proto.inner_product_param.num_output))
    return label


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _mermaid_text(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
