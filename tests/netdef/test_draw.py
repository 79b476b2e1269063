"""Pictures of nets as text."""

from __future__ import annotations

from jaffe.netdef import resolve, to_dot, to_mermaid

NET = """name: "n\\"et"
layer { name: "x" type: "Input" top: "x" }
layer { name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 3 kernel_size: 5 } }
layer { name: "pool" type: "Pooling" bottom: "y" top: "y2" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
"""


def test_dot():
    dot = to_dot(resolve(NET), rankdir="TB")
    assert dot.startswith('digraph "n\\"et" {\n  rankdir=TB;')
    assert '"conv" [label="conv\\nConvolution\\n3, kernel 5, stride 1" fillcolor="#ff8a8a"];' in dot
    assert '"x" -> "conv";' in dot
    assert '"conv" -> "pool" [label="y"];' in dot
    with_shapes = to_dot(resolve(NET), shapes={"x": (1, 2), "y": (3, 4)})
    assert '"conv" -> "pool" [label="y\\n3×4"];' in with_shapes


def test_picture_of_the_readme_is_up_to_date():
    """Otherwise: make drawings."""
    from docs.draw import lenet
    from tests.conftest import ROOT

    assert (ROOT / "docs" / "lenet.dot").read_text() == lenet()


def test_mermaid():
    text = to_mermaid(resolve(NET))
    assert 'n2["pool<br/>Pooling<br/>AVE 2, stride 2"]' in text
    assert 'n1 -->|"y"| n2' in text
