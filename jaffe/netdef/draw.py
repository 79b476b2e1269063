"""Pictures of a net as text: Graphviz DOT and Mermaid."""

from __future__ import annotations

from jaffe.netdef.graph import Graph, Node

_COLOURS = {
    "Convolution": "#ff5050", "Deconvolution": "#ff5050",
    "Pooling": "#ff9900",
    "InnerProduct": "#cc33ff",
}
_OTHER, _BLOB = "#6495ed", "#e0e0e0"


def to_dot(graph: Graph, rankdir: str = "LR") -> str:
    """The net in Graphviz's language: layers as boxes, blobs as octagons, in Caffe's colours.

    Render with ``dot -Tsvg``, or in a notebook with ``graphviz.Source(to_dot(graph))``.

    Args:
        rankdir: ``"LR"`` left to right, ``"TB"`` top to bottom.
    """
    lines = [f"digraph {_quote(graph.name or 'net')} {{", f"  rankdir={rankdir};", '  node [fontname="sans-serif"];']
    blobs = dict.fromkeys(top for node in graph.nodes for top in node.tops)
    for blob in blobs:
        lines.append(f"  {_quote('blob ' + blob)} [label={_quote(blob)} shape=octagon style=filled "
                     f'fillcolor="{_BLOB}"];')
    for node in graph.nodes:
        colour = _COLOURS.get(node.type, _OTHER)
        label = "\n".join(_label(node))
        lines.append(f"  {_quote('layer ' + node.name)} [label={_quote(label)} shape=box style=filled "
                     f'fillcolor="{colour}"];')
        lines += [f"  {_quote('blob ' + b)} -> {_quote('layer ' + node.name)};" for b in node.bottoms]
        lines += [f"  {_quote('layer ' + node.name)} -> {_quote('blob ' + t)};" for t in node.tops]
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
