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
    assert '"layer conv" [label="conv\\nConvolution\\n3, kernel 5, stride 1" shape=box style=filled' in dot
    assert '"blob x" -> "layer conv";' in dot
    assert dot.count("{") == dot.count("}") == 1


def test_mermaid():
    text = to_mermaid(resolve(NET))
    assert 'n2["pool<br/>Pooling<br/>AVE 2, stride 2"]' in text
    assert 'n1 -->|"y"| n2' in text
