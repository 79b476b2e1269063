"""Pictures of nets: what is drawn, as text, and by Graphviz where it is."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, L, NetSpec, resolve, to_dot, to_mermaid, unroll
from jaffe.netdef.diagram import Link, diagram
from jaffe.netdef.draw import draw

NET = """name: "n\\"et"
layer { name: "x" type: "Input" top: "x" }
layer { name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 3 kernel_size: 5 } }
layer { name: "pool" type: "Pooling" bottom: "y" top: "y2" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
"""
BLOCK = """
layer { name: "x" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 stride: 2 group: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "scale" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "scale" top: "scale" }
layer { name: "m/a" type: "InnerProduct" bottom: "scale" top: "m/a" param { name: "w" }
  inner_product_param { num_output: 5 } }
layer { name: "m/b" type: "InnerProduct" bottom: "scale" top: "m/b" param { name: "w" }
  inner_product_param { num_output: 5 } }
layer { name: "m/sum" type: "Eltwise" bottom: "m/a" bottom: "m/b" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" loss_weight: 0.3
  include { phase: TRAIN } }
"""
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not here")


def test_dot():
    dot = to_dot(resolve(NET), rankdir="TB")
    assert dot.startswith('digraph "n\\"et (TEST)" {\n  rankdir=TB;')
    assert '"conv" [label="conv\\nConvolution 5 → 3" fillcolor="#ff8a8a"];' in dot
    assert '"x" [label="x\\nInput" fillcolor="#e8e8e8" shape=ellipse];' in dot
    assert '"conv" -> "pool";' in dot
    with_shapes = to_dot(resolve(NET), shapes={"x": (1, 2), "y": (3, 4), "y2": ()})
    assert '"conv" [label="conv\\nConvolution 5 → 3\\n3×4"' in with_shapes


def test_mermaid():
    text = to_mermaid(resolve(NET))
    assert text.startswith("flowchart LR\n  %% n#quot;et (TEST)\n")
    assert 'n2["pool<br/>Pooling AVE 2 / 2"]' in text
    assert "n1 --> n2" in text


def test_what_a_box_says():
    drawn = diagram(resolve(BLOCK.replace("include { phase: TRAIN }", "")))
    boxes = {box.name: box for box in drawn.boxes}
    assert list(boxes) == ["x", "conv", "m/a", "m/b", "m/sum", "loss"]
    assert boxes["conv"].lines == ("Convolution 3×1 / 2 → 4", "+ BatchNorm, Scale, ReLU")
    assert [(box.title, box.cluster) for box in drawn.boxes[2:5]] == [("a", "m"), ("b", "m"), ("sum", "m")]
    assert boxes["m/b"].lines == ("InnerProduct → 5", "weights of m/a")
    assert boxes["m/a"].group == boxes["m/b"].group == 0
    assert boxes["m/sum"].group is None
    assert boxes["loss"].loss
    assert boxes["loss"].lines == ("SoftmaxWithLoss", "loss × 0.3")
    assert Link("m/a", "m/b", shared=True) in drawn.links
    assert Link("x", "loss", "label") in drawn.links


def test_of_a_compiled_net():
    net = compile_net(BLOCK, phase="TRAIN")
    drawing = net.draw()
    assert '"conv" [label="conv\\nConvolution 3×1 / 2 → 4\\n+ BatchNorm, Scale, ReLU\\n2×4×3×4\\nfrozen"' in drawing.dot
    assert 'style="filled,rounded,dashed"' in drawing.dot
    assert "loss × 0.3\\nTRAIN only" in drawing.dot
    assert "2×4×3×4" not in net.draw(shapes=False).dot
    assert repr(drawing) == "Drawing(net (TRAIN), 6 boxes)"
    assert "rankdir=TB" in net.draw(direction="TB").dot
    assert "flowchart TB" in net.draw(direction="TB").mermaid
    with pytest.raises(JaffeError, match="direction is 'LR', left to right, or 'TB', top to bottom; received 'up'"):
        net.draw(direction="up")


def test_a_layer_is_folded_only_where_nothing_else_reads_what_it_reads():
    n = NetSpec()
    n.x = L.Input(shape=dict(dim=[1, 4]))
    n.a = L.InnerProduct(n.x, num_output=4)
    n.b = L.ReLU(n.a)
    n.c = L.Eltwise(n.a, n.b)
    n.d = L.Sigmoid(n.c)
    assert [box.name for box in diagram(resolve(n)).boxes] == ["x", "a", "b", "c"]


def test_modules_of_resnets():
    names = {"x": "", "res2a_branch1": "res2a", "res2a_branch2a": "res2a", "res2a": "res2a", "fc": ""}
    n = NetSpec()
    x = n.x = L.Input(shape=dict(dim=[1, 4]))
    for name in list(names)[1:3]:
        n[name] = L.InnerProduct(x, num_output=4)
    n.res2a = L.Eltwise(n.res2a_branch1, n.res2a_branch2a)
    n.fc = L.InnerProduct(n.res2a, num_output=4)
    drawn = diagram(resolve(n))
    assert {box.name: box.cluster for box in drawn.boxes} == names
    assert [box.title for box in drawn.boxes[1:4]] == ["branch1", "branch2a", "res2a"]


def cell(x, h_before):
    sums = L.Eltwise(L.InnerProduct(x, num_output=3, axis=2, name="x2h"),
                     L.InnerProduct(h_before, num_output=3, axis=2, name="h2h"), name="sum")
    return {"h": L.TanH(sums, name="tanh")}


@pytest.mark.parametrize(("steps", "boxes"), [(4, 16), (8, 14), (100, 14)])
def test_steps_in_the_middle_are_left_out(steps, boxes):
    drawn = diagram(resolve(unroll(cell, steps, inputs={"x": (steps, 2, 2)}, state={"h": (1, 2, 3)})))
    assert len(drawn.boxes) == boxes
    if steps > 4:
        rest = f"{steps - 3} more steps"
        assert rest in {box.name for box in drawn.boxes}
        expected = {Link("sum_2", rest), Link(rest, f"h2h_{steps}"), Link(rest, "h"), Link("x_slice", rest)}
        assert expected <= set(drawn.links)


def test_numbered_layers_that_share_nothing_stay():
    n = NetSpec()
    x = n.x = L.Input(shape=dict(dim=[1, 4]))
    for i in range(1, 9):
        n[f"ip{i}"] = x = L.InnerProduct(x, num_output=4)
    assert len(diagram(resolve(n)).boxes) == 9


STRANGE = """
layer { name: "a\\\\\\"b<i>&lt;#1%" type: "Input" top: "x]\\" --> y" top: "z" }
layer { name: "]\\"; x" type: "ReLU" bottom: "x]\\" --> y" top: "q" }
"""


def test_names_are_no_markup():
    drawing = draw(resolve(STRANGE))
    assert '"a\\\\\\"b<i>&amp;lt;#1%" [label="a\\\\\\"b<i>&amp;lt;#1%\\nInput"' in drawing.dot
    assert 'n0(["a\\#quot;b#lt;i#gt;#amp;lt;#35;1%<br/>Input"])' in drawing.mermaid
    assert '-->|"x]#quot; --#gt; y"|' in drawing.mermaid


@needs_dot
def test_svg_of_strange_names():
    elements = ET.fromstring(draw(resolve(STRANGE)).svg).iter()
    texts = [element.text for element in elements if element.tag.endswith("text")]
    assert ']"; x' in texts


@needs_dot
@needs_dot
def test_svg_has_names_as_they_are():
    """Graphviz reads entities of HTML in labels; control characters would make the picture no XML."""
    n = NetSpec("&lt;net&gt;")
    n.data = L.Input(shape=dict(dim=[1, 3]))
    n["a&amp;b\x01"] = L.InnerProduct(n.data, num_output=2)
    text = "".join(ET.fromstring(compile_net(n).draw().svg).itertext())
    assert "&lt;net&gt; (TEST)" in text
    assert "a&amp;b\ufffd" in text


@pytest.mark.parametrize(("settings", "line"), [
    ("kernel_size: 2 stride_h: 2 stride_w: 1", "Pooling MAX 2 / 2×1"),
    ("kernel_h: 3 kernel_w: 3 stride_h: 2 stride_w: 2", "Pooling MAX 3 / 2"),
    ("kernel_h: 3 kernel_w: 2 stride: 1", "Pooling MAX 3×2"),
])
def test_what_a_box_of_pooling_says(settings, line):
    layers = f'layer {{ name: "x" type: "Input" top: "x" }} layer {{ name: "p" type: "Pooling" bottom: "x" top: "p" ' \
             f"pooling_param {{ {settings} }} }}"
    assert diagram(resolve(layers)).boxes[1].lines == (line,)


def test_saved(tmp_path):
    drawing = compile_net(BLOCK, phase="TRAIN").draw()
    for ending, start in {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".dot": b"digraph", ".gv": b"digraph",
                          ".mmd": b"flowchart"}.items():
        assert drawing.save(tmp_path / f"net{ending}").read_bytes().startswith(start)
    assert drawing.svg.startswith("<svg")
    assert set(drawing._repr_mimebundle_()) == {"image/svg+xml", "text/plain"}
    assert len([e for e in ET.fromstring(drawing.svg).iter() if e.get("class") == "node"]) == 6
    with pytest.raises(JaffeError, match=r"net\.jpeg: expected a name that ends in \.svg, .*; found \.jpeg"):
        drawing.save(tmp_path / "net.jpeg")
    with pytest.raises(JaffeError, match="cannot be written"):
        drawing.save(tmp_path / "nowhere" / "net.dot")


def test_without_graphviz(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing = draw(resolve(NET))
    with pytest.raises(JaffeError, match=re.escape("a .svg picture needs Graphviz's program dot, which is not on the "
                                                   "path: install graphviz")):
        drawing.save(tmp_path / "net.svg")
    assert drawing._repr_mimebundle_()["text/vnd.mermaid"] == drawing.mermaid
    assert drawing.save(tmp_path / "net.mmd").read_text() == drawing.mermaid


def test_a_dot_that_fails(tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\n/bin/echo oh no >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JaffeError, match="dot could not draw the net: oh no"):
        _ = draw(resolve(NET)).svg


def test_picture_of_the_readme_is_up_to_date():
    """Otherwise: make drawings."""
    from docs.draw import lenet
    from tests.conftest import ROOT

    assert (ROOT / "docs" / "lenet.dot").read_text() == lenet().dot
