"""Pictures of a net: Graphviz DOT and Mermaid as text, SVG, PNG and PDF by Graphviz's ``dot``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jaffe.netdef.atomic import replacing
from jaffe.netdef.diagram import Box, Diagram, diagram
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph

DIRECTIONS = ("LR", "TB")
_BY_DOT = (".svg", ".png", ".pdf")
_TEXTS = (".dot", ".gv", ".mmd")

# Caffe's colours, a little lighter.
_COLOURS = {
    "Convolution": "#ff8a8a",
    "Deconvolution": "#ff8a8a",
    "DepthwiseConvolution": "#ff8a8a",
    "ConvolutionDepthwise": "#ff8a8a",
    "Pooling": "#ffc266",
    "InnerProduct": "#dd88ff",
    "LSTM": "#8fd694",
    "RNN": "#8fd694",
    "...": "#ffffff",
}
_SOURCE, _LOSS, _OTHER, _LINE = "#e8e8e8", "#ffe066", "#a6c1f4", "#606060"
# Of the borders of layers that share weights.
_SHARED = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22")


class Drawing:
    """A net drawn; made by ``CompiledNet.draw``. A notebook shows it.

    Attributes:
        dot: in Graphviz's language.
        mermaid: as a Mermaid flowchart, which code hosts and notebooks render.
    """

    def __init__(self, drawn: Diagram, direction: str = "LR"):
        if direction not in DIRECTIONS:
            raise JaffeError(f"direction is 'LR', left to right, or 'TB', top to bottom; received {direction!r}")
        self.dot = _dot(drawn, direction)
        self.mermaid = _mermaid(drawn, direction)
        self._about = f"Drawing({drawn.title}, {len(drawn.boxes)} boxes)"

    @cached_property
    def svg(self) -> str:
        """The picture as an ``<svg>`` element, which may stand in an HTML page.

        Raises:
            JaffeError: there is no ``dot`` on the path, or it fails.
        """
        text = _rendered(self.dot, "svg").decode()
        return text[text.index("<svg") :]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture, in the format that the name says: .svg, .png, .pdf, .dot, .gv or, for Mermaid, .mmd.

        Raises:
            JaffeError: another ending; or .svg, .png or .pdf without ``dot`` on the path; or it cannot be written.
        """
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in (*_BY_DOT, *_TEXTS):
            raise JaffeError(f"{target}: expected a name that ends in {', '.join((*_BY_DOT, *_TEXTS))}; found "
                             f"{kind or 'no ending'}")
        data = _rendered(self.dot, kind[1:]) if kind in _BY_DOT else (
            self.mermaid if kind == ".mmd" else self.dot).encode()
        with replacing(target) as new:
            new.write_bytes(data)
        return target

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: SVG where there is ``dot``, else Mermaid."""
        if shutil.which("dot"):
            return {"image/svg+xml": self.svg, "text/plain": repr(self)}
        return {"text/vnd.mermaid": self.mermaid, "text/plain": self.mermaid}

    def __repr__(self) -> str:
        return self._about


def draw(
    graph: Graph, *, direction: str = "LR", shapes: Mapping[str, Sequence[int]] | None = None,
    frozen: Collection[str] = (),
) -> Drawing:
    """A resolved net drawn: a box a layer, in Caffe's colours, an arrow a blob; see ``diagram`` for what is folded.

    Layers that share weights have a border of one colour and a dashed line between them; frozen ones a dashed border.

    Args:
        direction: ``"LR"`` left to right, ``"TB"`` top to bottom.
        shapes: of values, as ``CompiledNet.inferred.shapes`` has them, to be written into the boxes.
        frozen: names of layers whose weights do not learn.

    Raises:
        JaffeError: there is no such direction.
    """
    return Drawing(diagram(graph, shapes, frozen), direction)


def to_dot(graph: Graph, rankdir: str = "LR", shapes: Mapping[str, Sequence[int]] | None = None) -> str:
    """The net in Graphviz's language: ``draw(graph, ...).dot``."""
    return draw(graph, direction=rankdir, shapes=shapes).dot


def to_mermaid(graph: Graph, direction: str = "LR") -> str:
    """The net as a Mermaid flowchart: ``draw(graph, ...).mermaid``."""
    return draw(graph, direction=direction).mermaid


def _rendered(dot: str, kind: str) -> bytes:
    """What Graphviz's ``dot`` makes of the text."""
    program = shutil.which("dot")
    if program is None:
        raise JaffeError(f"a .{kind} picture needs Graphviz's program dot, which is not on the path: install graphviz "
                         "(apt-get install graphviz, brew install graphviz, conda install graphviz); .dot and .mmd "
                         "need nothing")
    try:
        done = subprocess.run([program, f"-T{kind}"], input=dot.encode(), capture_output=True, check=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        raise JaffeError(f"dot could not draw the net: {said or error}") from None
    return done.stdout


def _dot(drawn: Diagram, direction: str) -> str:
    lines = [
        f"digraph {_quote(drawn.title)} {{",
        f"  rankdir={direction}; ranksep=0.3; nodesep=0.2; label={_quote(drawn.title)}; labelloc=t; "
        'fontname="sans-serif";',
        f'  node [fontname="sans-serif" fontsize=12 shape=box style="filled,rounded" color="{_LINE}"];',
        f'  edge [fontname="sans-serif" fontsize=10 color="{_LINE}"];',
    ]
    for module, boxes in _modules(drawn):
        if module:
            lines.append(f"  subgraph {_quote(f'cluster_{module}')} {{")
            lines.append(f'    label={_quote(module)}; style="rounded"; color="#b0b0b0"; fontsize=12; labeljust=l;')
        lines += [f"{'  ' * (1 + bool(module))}{_dot_box(box)}" for box in boxes]
        if module:
            lines.append("  }")
    sources = {box.name for box in drawn.boxes if box.source}
    groups = {box.name: box.group for box in drawn.boxes}
    for link in drawn.links:
        settings = [f"label={_quote(link.label)}"] if link.label else []
        if link.shared:
            colour = _SHARED[(groups[link.end] or 0) % len(_SHARED)]
            settings += ["style=dashed", "dir=none", "constraint=false", f'color="{colour}"']
        elif link.start in sources and link.label:
            settings.append("weight=0")  # labels go far: they are not to pull the net together
        text = f" [{' '.join(settings)}]" if settings else ""
        lines.append(f"  {_quote(link.start)} -> {_quote(link.end)}{text};")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_box(box: Box) -> str:
    label = _quote("\n".join([box.title, *box.lines]))
    settings = [f"label={label}", f'fillcolor="{_fill(box)}"']
    if box.group is not None:
        settings += [f'color="{_SHARED[box.group % len(_SHARED)]}"', "penwidth=2.5"]
    if box.source:
        settings.append("shape=ellipse")
    if box.frozen or box.type == "...":
        settings.append('style="filled,rounded,dashed"')
    return f"{_quote(box.name)} [{' '.join(settings)}];"


def _mermaid(drawn: Diagram, direction: str) -> str:
    lines = [f"flowchart {direction}", f"  %% {_escaped(drawn.title)}"]
    ids = {box.name: f"n{i}" for i, box in enumerate(drawn.boxes)}
    for i, (module, boxes) in enumerate(_modules(drawn)):
        if module:
            lines.append(f'  subgraph m{i}["{_escaped(module)}"]')
        for box in boxes:
            label = "<br/>".join(map(_escaped, (box.title, *box.lines)))
            left, right = ("([", "])") if box.source else ("[", "]")
            lines.append(f'  {ids[box.name]}{left}"{label}"{right}')
        if module:
            lines.append("  end")
    for link in drawn.links:
        start, end = ids[link.start], ids[link.end]
        if link.shared:
            lines.append(f"  {start} -. same weights .- {end}")
        else:
            lines.append(f'  {start} -->|"{_escaped(link.label)}"| {end}' if link.label else f"  {start} --> {end}")
    for box in drawn.boxes:
        style = [f"fill:{_fill(box)}", "color:#000000"]
        if box.group is not None:
            style += [f"stroke:{_SHARED[box.group % len(_SHARED)]}", "stroke-width:3px"]
        if box.frozen or box.type == "...":
            style.append("stroke-dasharray:4")
        lines.append(f"  style {ids[box.name]} {','.join(style)}")
    return "\n".join(lines) + "\n"


def _modules(drawn: Diagram) -> list[tuple[str, list[Box]]]:
    """The boxes of each module, in the order of the first; those of none one by one."""
    modules: dict[str, list[Box]] = {}
    for box in drawn.boxes:
        modules.setdefault(box.cluster or f"\0{box.name}", []).append(box)
    return [("" if module.startswith("\0") else module, boxes) for module, boxes in modules.items()]


def _fill(box: Box) -> str:
    return _SOURCE if box.source else _LOSS if box.loss else _COLOURS.get(box.type, _OTHER)


def _quote(text: str) -> str:
    """A string of DOT, in which Graphviz reads entities of HTML too; what XML cannot hold is U+FFFD."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]", "\ufffd", text).replace("&", "&amp;")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _escaped(text: str) -> str:
    """For Mermaid, which reads HTML in labels; its entities are #name; for &name;."""
    return text.translate(_ENTITIES)


_ENTITIES = str.maketrans({"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "\n": " "})
