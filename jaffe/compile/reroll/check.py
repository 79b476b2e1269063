"""Whether arrays of other sizes than declared fit the layers of a rolled net."""

from __future__ import annotations

from collections.abc import Iterable

from jaffe.compile.layer import Shape, make_layer
from jaffe.compile.reroll.plan import Cut, Join, Run, Steps
from jaffe.netdef.graph import Node

Shapes = dict[str, Shape]


def check_shapes(nodes: Iterable[Node], shapes: Shapes) -> None:
    """Adds the shapes of all that the nodes write to those of what they read.

    Raises:
        SpecError: at the first layer that these do not fit.
    """
    for node in nodes:
        if isinstance(node.plan, Steps):
            _check_steps(node, node.plan, shapes)
        elif isinstance(node.plan, Join):
            pieces = [(run.count, _of_step(run, shapes)) for run in node.plan.series]
            shape, axis = pieces[0][1], node.plan.axis
            length = sum(count * piece[axis] for count, piece in pieces)
            shapes[node.tops[0]] = (*shape[:axis], length, *shape[axis + 1 :])
        elif node.parts:
            check_shapes(node.parts, shapes)
        else:
            layer = make_layer(node)
            if not layer.source:
                shapes.update(zip(node.tops, layer.shapes([shapes[value] for value in node.bottoms]), strict=True))


def _check_steps(node: Node, plan: Steps, shapes: Shapes) -> None:
    step: Shapes = {name: shapes[value] for name, value in plan.constants.items()}
    step.update({name: _of_step(series[0], shapes) for name, series in plan.sequences.items()})
    step.update({name: _of_step(one.before[0], shapes) for name, one in plan.carried.items()})
    check_shapes(plan.body, step)
    for name, one in plan.carried.items():
        if step[name] != step[one.value]:
            raise node.error(f"{one.value!r} goes from step to step: expected the shape {step[name]} that it starts "
                             f"with; found {step[one.value]}")
    shapes.update({stack: (plan.count, *step[top]) for stack, top in plan.stacks.items()})
    shapes.update({value: step[top] for value, (top, _) in plan.picked.items()})


def _of_step(run: Run, shapes: Shapes) -> Shape:
    """The shape of one of the values."""
    shape = shapes[run.value]
    if isinstance(run.source, Cut):
        return (*shape[: run.source.axis], run.source.size_in(shape), *shape[run.source.axis + 1 :])
    return shape if run.alone else shape[1:]
