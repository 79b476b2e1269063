"""Draws the pictures of the docs from the zoo's specs: `make drawings`. Needs Graphviz's `dot`."""

from __future__ import annotations

from pathlib import Path

import graphviz

from jaffe import compile_net, zoo
from jaffe.netdef import to_dot

HERE = Path(__file__).parent


def lenet() -> str:
    """LeNet in phase TRAIN, in Graphviz's language."""
    net = compile_net(zoo.lenet(), phase="TRAIN")
    return to_dot(net.graph, shapes=net.inferred.shapes)


if __name__ == "__main__":
    (HERE / "lenet.dot").write_text(lenet())
    graphviz.Source(lenet()).render(outfile=HERE / "lenet.svg", cleanup=True)
