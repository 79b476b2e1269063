"""The sections of the page that need no data: the run, its curves, its net, its weights. Each is markup, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message

from jaffe.compile.net import CompiledNet
from jaffe.inspect import filters, tile
from jaffe.netdef.errors import JaffeError
from jaffe.report.markup import Html, fill, join, table
from jaffe.report.pictures import figure_svg, histogram, image, png
from jaffe.report.run import Run
from jaffe.train.curves import figure_of
from jaffe.train.report import results

MOST_FILTERS = 64
NOT_SETTINGS = ("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param")


def facts(run: Run) -> Html:
    """What was trained, how long, and to what end."""
    rows = dict(_progress(run))
    if run.net is not None:
        costs, images = run.net.cost(), run.about.get("images") or 1
        rows["parameters"] = f"{costs.params:,}"
        rows["operations"] = f"{costs.flops / 1e6:,.1f} MFLOPs forward for a batch of {images}"
    for number, one in enumerate(run.nets):
        rows["training data" if not number else "test data" if number == 1 else f"test data {number}"] = (
            "given in Python" if one.data is None else one.data or "as the net's data layers name them")
    if run.snapshot is not None:
        ran = run.about.get("declared", {}).get("ran", {})
        rows["files"] = str(run.prefix)
        rows["seed"] = str(run.about["seed"])
        rows["ran with"] = ", ".join(f"{name} {value}" for name, value in ran.items())
    listed = join(fill("<dt>{name}</dt><dd>{value}</dd>", name=name, value=value)
                  for name, value in rows.items() if value)
    return fill("<dl>{listed}</dl>{tests}", listed=listed, tests=_tests(run))


def _progress(run: Run) -> Iterator[tuple[str, str]]:
    """Facts of the metrics."""
    last = run.rows[-1]
    most = run.solver.max_iter if run.solver is not None else 0
    done = max(run.about.get("iteration", 0), *(row["iteration"] for row in run.rows))
    yield "iterations", f"{done:,}" + (f" of {most:,}" if most else "")
    if run.snapshot is not None:
        best = " (the best)" if _is_best(run) else ""
        yield "snapshot shown", f"iteration {run.about['iteration']:,}{best}"
    if isinstance(elapsed := last.get("elapsed"), int | float):
        yield "time", _duration(elapsed)
    speeds = [speed for row in run.training if isinstance(speed := row.get("images_per_second"), int | float)]
    if speeds:
        yield "speed", f"{np.median(speeds):,.0f} images/s (median)"
    if run.training:
        yield "last training loss", _number(run.training[-1].get("loss"))


def _is_best(run: Run) -> bool:
    assert run.snapshot is not None
    best = run.prefix.with_name(f"{run.prefix.name}_snapshots") / "best"
    return best.exists() and best.resolve() == run.snapshot.resolve()


def _tests(run: Run) -> Html:
    """What the tests put out: at the iteration of the snapshot, and last."""
    wanted = run.about.get("iteration")
    shows = any(row["iteration"] == wanted for row in run.rows if "test" in row)
    rows = []
    for number in sorted({row["test"] for row in run.rows if "test" in row}):
        own = [row for row in run.rows if row.get("test") == number]
        shown: Mapping[str, Any] = next((row for row in own if row["iteration"] == wanted), {})
        for name, value in results(own[-1]).items():
            label = f"{name} (test {number})" if number else name
            rows.append([label, *([_number(shown.get(name))] if shows else []), _number(value),
                         f"{own[-1]['iteration']:,}"])
    if not rows:
        return Html()
    return table("Tests", ["output", *(["of the snapshot shown"] if shows else []), "last", "at iteration"], rows)


def curves(run: Run) -> Html:
    """Losses, and what tests measured, over the iterations."""
    picture = figure_svg(figure_of({"": run.rows}))
    return image(picture, "svg+xml", f"Curves of {run.name}: the loss, and what tests measured, by iteration. The "
                 "numbers of the tests are in the table Tests.", "figure")


def net(run: Run) -> Html:
    """The training net as a drawing and as a table."""
    if run.net is None:
        return Html()
    graph, costs = run.net.graph, run.net.cost()
    drawn = Html()
    try:
        svg = run.net.draw().svg.encode()
        drawn = fill('<div class=scroll tabindex=0 role=region aria-label="Drawing of the net">{image}</div>',
                     image=image(svg, "svg+xml", f"The net {run.name} as a graph of {len(graph.nodes)} layers; the "
                                 "table below has the same layers.", "drawing"))
    except JaffeError as error:
        run.notes.append(f"The net is not drawn: {error}.")
    rows = [[one.name, one.type, ", ".join("×".join(map(str, shape)) or "scalar" for shape in one.outputs),
             f"{one.params:,}" if one.params else "", f"{one.flops / 1e6:,.3f}" if one.flops else "",
             f"{one.backward_flops / 1e6:,.3f}" if one.backward_flops else ""] for one in costs.layers]
    rows.append(["total", "", "", f"{costs.params:,}", f"{costs.flops / 1e6:,.3f}",
                 f"{costs.backward_flops / 1e6:,.3f}" if costs.backward_flops else ""])
    return fill("{drawn}{table}", drawn=drawn, table=table(
        f"Layers in phase {graph.phase}",
        ["layer", "type", "output shape", "parameters", "MFLOPs forward", "MFLOPs backward"], rows, text=3))


def first_filters(run: Run) -> Html:
    """The filters of the first layer with weights, where it reads images of one or three channels."""
    if run.net is None:
        return Html()
    node = next((node for node in run.net.graph.nodes
                 if any(one.weight.name == "weight" for one in run.net.stored[node.name])), None)
    if node is None or node.bottoms[0] not in run.net.inputs:
        return Html()
    try:
        pictures = filters(run.net, run.variables, node.name, order=run.nets[0].order)
    except JaffeError:  # its weights are no pictures
        return Html()
    if min(pictures.shape[1:3]) < 2 or (pictures.ndim == 4 and pictures.shape[3] != 3):
        return Html()
    shown = pictures[:MOST_FILTERS]
    which = f"{len(shown)} of {len(pictures)} filters" if len(shown) < len(pictures) else f"{len(pictures)} filters"
    size = "×".join(map(str, pictures.shape[1:3]))
    mask = 1 - tile(np.zeros(shown.shape[:3]), scale="none")  # between the pictures it is 0
    return fill(
        "<figure>{image}<figcaption>{which} of layer {name}, {size}; grey is a weight of 0, each filter on a scale of "
        "its own.</figcaption></figure>", which=which, name=node.name, size=size,
        image=image(png(tile(shown, scale="none"), mask), "png", f"The filters of layer {node.name} as small pictures",
                    "pixels"))


def weights(run: Run) -> Html:
    """Statistics of every array of weights."""
    if run.net is None:
        return Html()
    rows = [[name, *row] for name, row in _statistics(run.net, run.variables)]
    if not rows:
        return Html()
    return table("Weights and state of the layers that own them",
                 ["layer", "array", "shape", "mean", "standard deviation", "least", "greatest", "histogram"], rows,
                 text=3)


def _statistics(net: CompiledNet, variables: Any) -> Iterator[tuple[str, list[Any]]]:
    for node in net.graph.nodes:
        for stored in net.inferred.owned(node.name):
            name = stored.weight.name
            values = np.asarray(variables["params" if stored.weight.trained else "state"][node.name][name], np.float64)
            finite = values[np.isfinite(values)]
            label = name if len(finite) == values.size else f"{name} ({values.size - len(finite):,} not finite)"
            numbers = ([f"{value:.4g}" for value in (finite.mean(), finite.std(), finite.min(), finite.max())]
                       if len(finite) else [""] * 4)
            yield node.name, [label, "×".join(map(str, values.shape)) or "scalar", *numbers,
                              histogram(finite) if len(finite) > 1 else ""]


def settings(run: Run) -> Html:
    """What the solver was told."""
    if run.solver is None:
        return Html()
    rows = [[described.name, _setting(described, value)] for described, value in run.solver.ListFields()
            if described.name not in NOT_SETTINGS]
    return table("Settings that were given", ["setting", "value"], rows, text=2)


def _setting(described: Any, value: Any) -> str:
    values: Sequence[Any] = value if described.is_repeated else [value]
    if described.enum_type is not None:
        values = [described.enum_type.values_by_number[one].name for one in values]
    return ", ".join(f"{one:g}" if isinstance(one, float) else
                     " ".join(str(one).split()) if isinstance(one, Message) else str(one) for one in values)


def _number(value: Any) -> str:
    """A number; the mean of several; nothing for none."""
    if isinstance(value, list):
        finite = [one for one in value if one is not None]
        return f"mean {np.mean(finite):.4g} of {len(value)}" if finite else ""
    return "" if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
