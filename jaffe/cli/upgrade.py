"""jaffe upgrade"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from jaffe.netdef import NetParameter, SolverParameter


def upgrade(
    source: Annotated[str, typer.Argument(metavar="IN", help="A net (.prototxt, .caffemodel) or a solver.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="File to write; a name that ends in .caffemodel, "
                                       ".binaryproto or .pb makes it binary.", show_default="print it")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
) -> None:
    """Bring a net or solver of an old format of Caffe to the current one. Comments are not kept."""
    import sys
    from pathlib import Path

    from jaffe.cli.files import write

    content, changes = run(Path(source), Path(out) if out else None)
    if out:
        write(out, content, force)
    else:
        print(content, end="")
    for change in changes or ["is in the current format already"]:
        print(f"{source}: {change}", file=sys.stderr)


def run(path: Path, out: Path | None) -> tuple[str | bytes, list[str]]:
    """The upgraded file's content, and what was changed."""
    from jaffe.netdef.errors import JaffeError
    from jaffe.netdef.jaffe_pb2 import NetParameter, SolverParameter
    from jaffe.netdef.source import decode, from_file, is_binary, read_bytes
    from jaffe.netdef.text import format_text, read_solver, top_level_fields
    from jaffe.netdef.upgrade import upgrade as upgrade_net
    from jaffe.netdef.upgrade import upgrade_solver

    binary_out = out is not None and is_binary(out)
    if not is_binary(path):
        text = decode(read_bytes(path), path)
        known = {kind: set(kind.DESCRIPTOR.fields_by_name) for kind in (NetParameter, SolverParameter)}
        own = known[SolverParameter] - known[NetParameter]
        if own.intersection(top_level_fields(text)):
            if binary_out:
                raise JaffeError(f"{out}: a solver is written as text; expected a .prototxt")
            solver = read_solver(text, path.name)
            new = upgrade_solver(solver, path.name)
            return format_text(new), _solver_changes(solver, new)
    source = from_file(path)
    done = upgrade_net(source.net, source.location, source.filename)
    net, changes = done.net, list(done.changes)
    if out is None:
        net = _without_weights(net)
        if net is not done.net:
            changes.append("weights are not printed; name OUT to write them")
    return net.SerializeToString() if binary_out else format_text(net), changes


def _solver_changes(old: SolverParameter, new: SolverParameter) -> list[str]:
    changes = []
    if old.HasField("solver_type"):
        name = old.SolverType.Name(old.solver_type)
        changes.append(f'solver_type: {name} written as type: "{new.type}"')
    nets = ("net_param", "train_net_param", "test_net_param")
    if any(getattr(old, field) != getattr(new, field) for field in nets):
        changes.append("nets inside the solver written in the current format")
    return changes


def _without_weights(net: NetParameter) -> NetParameter:
    if not any(layer.blobs for layer in net.layer):
        return net
    result = type(net)()
    result.CopyFrom(net)
    for layer in result.layer:
        layer.ClearField("blobs")
    return result
