"""A plan as a table."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jaffe.compile.summary import as_text
from jaffe.netdef.errors import listed
from jaffe.plan.plan import Plan

WIDTH = 160


def describe(plan: Plan) -> str:
    """Each layer with parameters, operations, bytes sent either way, what the plan does with it, and milliseconds;
    below, the step as a whole."""
    many = plan.devices > 1
    mesh = f", a mesh of {plan.data} x {plan.model}" if plan.model > 1 else ""
    title = (f"{plan.net}, {plan.devices} x {plan.machine.name}{mesh}, {plan.items} items on each "
             f"({plan.scaling} scaling)")
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, show_footer=True)
    table.add_column("layer", "total")
    table.add_column("type")
    table.add_column("params", f"{sum(layer.params for layer in plan.layers):,}", justify="right")
    table.add_column("GFLOPs", f"{sum(layer.flops for layer in plan.layers) / 1e9:,.1f}", justify="right")
    if many:
        data_parallel = sum(layer.data_parallel for layer in plan.layers)
        table.add_column("data parallel,\nMB", f"{data_parallel / 1e6:,.2f}", justify="right")
        if plan.considered > 1:
            table.add_column(f"divided by {plan.considered},\nMB", justify="right")
        table.add_column("plan")
        table.add_column("sent,\nMB", f"{sum(layer.sent for layer in plan.layers) / 1e6:,.2f}", justify="right")
    table.add_column("computing,\nms", f"{plan.compute_seconds * 1e3:,.3f}", justify="right")
    if many:
        table.add_column("sending,\nms", f"{plan.link_seconds * 1e3:,.3f}", justify="right")
    for layer in plan.layers:
        row = [layer.name, layer.type, f"{layer.params:,}" if layer.params else "", _number(layer.flops / 1e9, 1)]
        if many:
            row.append(_number(layer.data_parallel / 1e6, 2))
            if plan.considered > 1:
                row.append("" if layer.divided is None else _number(layer.divided / 1e6, 2))
            row += [f"by {layer.way}" if layer.way else "data parallel" if layer.data_parallel else "",
                    _number(layer.sent / 1e6, 2)]
        row.append(_number(layer.compute_seconds * 1e3, 3))
        if many:
            row.append(_number(layer.link_seconds * 1e3, 3))
        table.add_row(*map(Text, row))
    return "\n".join([as_text(table, width=WIDTH), "", *_summary(plan)])


def _number(value: float, digits: int) -> str:
    """Nothing for 0, and ``<0.01`` for what would round to it."""
    least = 10.0**-digits
    if not value:
        return ""
    return f"{value:,.{digits}f}" if value >= least / 2 else f"<{least:.{digits}f}"


def _summary(plan: Plan) -> list[str]:
    step = f"step: {plan.seconds * 1e3:,.2f} ms"
    if plan.devices == 1:
        return [f"{step}, {plan.items_per_second:,.0f} items/s"]
    step += f" ({plan.compute_seconds * 1e3:,.2f} computing, {plan.link_seconds * 1e3:,.2f} sending)"
    kinds = ", ".join(f"{kind} {sent / 1e6:,.2f} MB" for kind, sent in plan.sent.items())
    return [
        f"{step}, {plan.items_per_second:,.0f} items/s, {plan.efficiency:.0%} of {plan.devices} devices' own",
        f"each device sends: {kinds}",
        f"recommended: {recommended(plan)}",
    ]


def recommended(plan: Plan) -> str:
    """In words: which layers are divided, and how."""
    if plan.partition is None:
        return "all layers data parallel"
    ways = (f"{name} by {way}" for name, way in plan.partition.layers.items())
    return f"{listed(ways)}, divided over {plan.model} devices; the others data parallel"
