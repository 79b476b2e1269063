"""Draws the nets of the docs from the zoo's specs: `make drawings`. Needs Graphviz's `dot`."""

from __future__ import annotations

from pathlib import Path

from jaffe import compile_net, zoo
from jaffe.netdef.draw import Drawing

HERE = Path(__file__).parent


def lenet() -> Drawing:
    """LeNet in phase TRAIN."""
    return compile_net(zoo.lenet(), phase="TRAIN").draw()


def googlenet() -> Drawing:
    """GoogLeNet in phase TRAIN, with its auxiliary losses."""
    return compile_net(zoo.googlenet(), phase="TRAIN").draw(direction="TB")


if __name__ == "__main__":
    lenet().save(HERE / "lenet.dot")
    lenet().save(HERE / "lenet.svg")
    googlenet().save(HERE / "googlenet.svg")
