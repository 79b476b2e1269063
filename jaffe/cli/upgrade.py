"""jaffe upgrade"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

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

    from jaffe.cli.files import show, write

    content, changes = run(Path(source), Path(out) if out else None)
    if out:
        write(out, content, force)
    else:
        show(str(content))
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
        own, fields = known[SolverParameter] - known[NetParameter], top_level_fields(text)
        if own.intersection(fields) and not {"layer", "layers"}.intersection(fields):
            if binary_out:
                raise JaffeError(f"{out}: a solver is written as text; expected a .prototxt")
            solver = read_solver(text, path.name)
            new = upgrade_solver(solver, path.name)
            return format_text(new), _solver_changes(solver, new)
    source = from_file(path)
    done = upgrade_net(source.net, source.location, source.filename)
    net, changes = done.net, [*done.changes, *_left_out(source.net, done.net if binary_out else None)]
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


def _left_out(old: NetParameter, new: NetParameter | None) -> list[str]:
    """What is not in the schema, as of forks, and not in the new net either: text cannot hold it."""
    kept = _unknown(new) if new else {}
    lost: dict[str, list[str]] = {}
    for owner, number in _unknown(old):
        if (owner, number) not in kept:
            lost.setdefault(owner, []).append(number)
    return [
        f"{owner}: fields {', '.join(numbers)} are not in the schema and are left out" if len(numbers) > 1
        else f"{owner}: field {numbers[0]} is not in the schema and is left out"
        for owner, numbers in lost.items()
    ]


def _unknown(message: Message, owner: str = "the net", prefix: str = "") -> dict[tuple[str, str], None]:
    """The fields that the schema does not have: the layer that each is in, and its number."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown = UnknownFieldSet(message)
    found = {(owner, f"{prefix}{unknown[i].field_number}"): None for i in range(len(unknown))}
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.name == "BlobProto":
            continue
        for one in value if field.is_repeated else [value]:
            if field.message_type.name in ("LayerParameter", "V1LayerParameter"):
                name = one.name or (one.layer.name if field.name == "layers" else "")
                found |= _unknown(one, f"layer {name!r}")
            else:
                found |= _unknown(one, owner, f"{prefix}{field.name}.")
    return found


def _without_weights(net: NetParameter) -> NetParameter:
    if not any(layer.blobs for layer in net.layer):
        return net
    result = type(net)()
    result.CopyFrom(net)
    for layer in result.layer:
        layer.ClearField("blobs")
    return result
