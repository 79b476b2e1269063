"""Caffe's old formats brought to the current one: V0 and V1 ``layers``, ``input`` fields, solver enums.

Tables and order: Caffe 1.0, ``upgrade_proto.cpp``. What Caffe only logs and goes on with (settings that the layer
does not have) is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaffe.netdef.errors import SpecError
from jaffe.netdef.jaffe_pb2 import LayerParameter, NetParameter, ParamSpec, SolverParameter, V1LayerParameter
from jaffe.netdef.upgrade_v0 import from_v0

Locate = Callable[[int], str]

# Types of V1 whose name today is not the same words in capitals and small letters.
_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "LRN": "LRN", "MVN": "MVN", "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}  # fmt: skip
# V1 data layers whose own settings held what transform_param holds now, and which of them moves.
_MOVED = ("scale", "mean_file", "crop_size", "mirror")
_DATA = {
    V1LayerParameter.DATA: ("data_param", _MOVED),
    V1LayerParameter.IMAGE_DATA: ("image_data_param", _MOVED),
    V1LayerParameter.WINDOW_DATA: ("window_data_param", _MOVED[1:]),
}
_SOLVERS = {
    SolverParameter.SGD: "SGD",
    SolverParameter.NESTEROV: "Nesterov",
    SolverParameter.ADAGRAD: "AdaGrad",
    SolverParameter.RMSPROP: "RMSProp",
    SolverParameter.ADADELTA: "AdaDelta",
    SolverParameter.ADAM: "Adam",
}


@dataclass(frozen=True)
class Upgraded:
    """A net in the current format.

    Attributes:
        net: the net; the very message that was given when there was nothing to do.
        origins: for each of its layers, the index that it had in the file; ``None`` for the Input layer that
            stands for ``input`` fields.
        changes: what was done, in words.
    """

    net: NetParameter
    origins: tuple[int | None, ...]
    changes: tuple[str, ...] = ()


def upgrade(net: NetParameter, locate: Locate = lambda index: "", where: str = "") -> Upgraded:
    """Bring a net to the current format. The message that is given stays as it is.

    In this order: V0 entries become V1, padding layers are folded into the conv or pool that reads them; settings
    of V1 data layers move to ``transform_param``; V1 ``layers`` become ``layer``; ``input`` fields become an Input
    layer; BatchNorm's three ``param`` entries of Caffe's first version get multipliers of 0. Sizes of inputs in a net
    that has no ``input``, and V0's ``new_num`` and ``new_channels``, which Caffe reads nowhere, are left out.

    Caffe moves ``scale`` of V1 WINDOW_DATA to a place where the layer does not read it; here it stays. ``input``
    without sizes, which Caffe drops, becomes an Input layer without a shape where a layer reads it.

    Args:
        locate: ``file:line`` of the layer with this index in the file.
        where: name of the file.

    Raises:
        SpecError: the file has both ``layer`` and ``layers``; an old entry has an unknown type, or a setting that
            its type does not have; ``input`` fields and their sizes do not fit.
    """
    if net.layer and net.layers:
        raise SpecError(f"a net has 'layer' entries or, in Caffe's old format, 'layers'; found {len(net.layer)} and "
                        f"{len(net.layers)}", location=locate(0) or where or None)
    origins: list[int | None] = list(range(len(net.layer) or len(net.layers)))
    changes: list[str] = []
    if net.layers:
        net, origins = _from_layers(net, locate, changes)
    if net.input or net.input_dim or net.input_shape:
        net, origins = _with_input_layer(net, origins, where, changes)
    if any(_old_batch_norm(layer) for layer in net.layer):
        net = _copy(net)
        fixed = [layer for layer in net.layer if _old_batch_norm(layer)]
        for spec in (spec for layer in fixed for spec in layer.param):
            spec.lr_mult = spec.decay_mult = 0
        changes.append(f"{_count(len(fixed), 'BatchNorm layer')}: multipliers of the three statistics are 0")
    return Upgraded(net, tuple(origins), tuple(changes))


def upgrade_net(net: NetParameter) -> NetParameter:
    """The net in the current format; see ``upgrade``.

    >>> old = NetParameter(input=["x"], input_dim=[1, 2, 3, 4])
    >>> old.layers.add(name="r", type=V1LayerParameter.RELU, bottom=["x"], top=["y"]).blobs_lr.append(2)
    >>> [layer.type for layer in upgrade_net(old).layer]
    ['Input', 'ReLU']
    """
    return upgrade(net).net


def upgrade_solver(solver: SolverParameter, where: str | None = None) -> SolverParameter:
    """The solver with ``type`` in place of ``solver_type``, and nets inside it in the current format.

    Raises:
        SpecError: it has both, or a net inside is wrong.
    """
    result = SolverParameter()
    result.CopyFrom(solver)
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise SpecError("solver_type is the old form of type; expected one of them, found both", location=where)
        result.type = _SOLVERS[solver.solver_type]
        result.ClearField("solver_type")
    for field in ("net_param", "train_net_param"):
        if result.HasField(field):
            getattr(result, field).CopyFrom(upgrade(getattr(solver, field), lambda i: where or "", where or "").net)
    for new, old in zip(result.test_net_param, solver.test_net_param, strict=True):
        new.CopyFrom(upgrade(old, lambda i: where or "", where or "").net)
    return result


def _copy(net: NetParameter) -> NetParameter:
    result = NetParameter()
    result.CopyFrom(net)
    return result


def _from_layers(
    net: NetParameter, locate: Locate, changes: list[str]
) -> tuple[NetParameter, list[int | None]]:
    """``layers`` of V0 and V1 as ``layer``, with the index in the file of each."""
    entries = list(enumerate(net.layers))
    old = sum(entry.HasField("layer") for entry in net.layers)
    if old:
        entries = from_v0(entries, locate)
        changes.append(f"{_count(old, 'layer')} of the first format (V0)")
        if len(net.layers) > len(entries):
            folded = _count(len(net.layers) - len(entries), "padding layer")
            changes.append(f"{folded} folded into the layers that read them")
        unused = sum(entry.layer.HasField("new_num") or entry.layer.HasField("new_channels") for entry in net.layers)
        if unused:
            changes.append(f"new_num and new_channels, which no layer reads, left out of {_count(unused, 'layer')}")
    result = NetParameter()
    for field, _ in net.ListFields():
        if field.name == "layers":
            continue
        if field.is_repeated or field.message_type is not None:
            getattr(result, field.name).MergeFrom(getattr(net, field.name))
        else:
            setattr(result, field.name, getattr(net, field.name))
    moved = 0
    for _, entry in entries:
        layer = result.layer.add()
        layer.CopyFrom(_from_v1(entry))
        moved += _move_transform(entry, layer)
    if moved:
        changes.append(f"transform settings of {_count(moved, 'data layer')} moved to transform_param")
    changes.append(f"{_count(len(entries), 'layers entry', 'layers entries')} written as layer")
    return result, [index for index, _ in entries]


def _from_v1(old: V1LayerParameter) -> LayerParameter:
    """A V1 entry as a layer: type by name, ``blobs_lr`` and its like as ``param``, settings as they are."""
    layer = LayerParameter(bottom=old.bottom, top=old.top, loss_weight=old.loss_weight)
    if old.HasField("name"):
        layer.name = old.name
    if old.HasField("type"):
        word = V1LayerParameter.LayerType.Name(old.type)
        layer.type = _TYPES.get(word, "".join(part.capitalize() for part in word.split("_")))
    for name in ("include", "exclude", "blobs"):
        getattr(layer, name).MergeFrom(getattr(old, name))
    for i in range(max(len(old.param), len(old.blob_share_mode), len(old.blobs_lr), len(old.weight_decay))):
        spec = layer.param.add()
        if i < len(old.param) and old.param[i]:
            spec.name = old.param[i]
        if i < len(old.blob_share_mode):
            permissive = old.blob_share_mode[i] == V1LayerParameter.PERMISSIVE
            spec.share_mode = ParamSpec.PERMISSIVE if permissive else ParamSpec.STRICT
        if i < len(old.blobs_lr):
            spec.lr_mult = old.blobs_lr[i]
        if i < len(old.weight_decay):
            spec.decay_mult = old.weight_decay[i]
    for field, value in old.ListFields():
        if field.name.endswith("_param"):
            getattr(layer, field.name).CopyFrom(value)
    return layer


def _move_transform(old: V1LayerParameter, layer: LayerParameter) -> bool:
    """Scale, mean, crop and mirror of a data layer's own settings to ``transform_param``; whether there were any."""
    own, fields = _DATA.get(old.type, ("", ()))
    found = [field for field in fields if getattr(old, own).HasField(field)]
    for field in found:
        setattr(layer.transform_param, field, getattr(getattr(old, own), field))
        getattr(layer, own).ClearField(field)
    return bool(found)


def _with_input_layer(
    net: NetParameter, origins: list[int | None], where: str, changes: list[str]
) -> tuple[NetParameter, list[int | None]]:
    """``input: "data"`` with ``input_dim`` (four numbers each) or ``input_shape`` as an Input layer in front."""
    names, sized = list(net.input), bool(net.input_shape or net.input_dim)
    first = LayerParameter(name=_free_name(net.layer), type="Input")
    if not names:
        pass  # as in Caffe, which looks at ``input`` only
    elif net.input_shape:
        if len(net.input_shape) != len(names):
            raise SpecError(f"expected an input_shape for each input ({len(names)}); found {len(net.input_shape)}",
                            location=where or None)
        first.input_param.shape.extend(net.input_shape)
    elif net.input_dim:
        if len(net.input_dim) != 4 * len(names):
            raise SpecError(f"expected 4 input_dim for each input ({4 * len(names)}); found {len(net.input_dim)}",
                            location=where or None)
        for i in range(len(names)):
            first.input_param.shape.add(dim=net.input_dim[4 * i : 4 * i + 4])
    else:
        written = {top for layer in net.layer for top in layer.top}
        read = {bottom for layer in net.layer for bottom in layer.bottom}
        names = [name for name in names if name in read and name not in written]
    first.top.extend(names)
    layers = list(net.layer)
    result = _copy(net)
    for field in ("input", "input_dim", "input_shape", "layer"):
        result.ClearField(field)
    if not names:
        changes.append("input fields without sizes dropped" if net.input else "sizes of inputs, but no input: dropped")
        result.layer.extend(layers)
        return result, origins
    changes.append("input fields written as an Input layer" + ("" if sized else ", without shapes: the file has none"))
    result.layer.extend([first, *layers])
    return result, [None, *origins]


def _free_name(layers: Iterable[LayerParameter]) -> str:
    """``input``, as Caffe calls it, or the like where a layer is called so already."""
    taken, name = {layer.name for layer in layers}, "input"
    while name in taken:
        name += "_"
    return name


def _old_batch_norm(layer: LayerParameter) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3 and any(
        spec.lr_mult != 0 or spec.decay_mult != 0 for spec in layer.param
    )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
