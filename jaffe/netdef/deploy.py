"""From the net that is trained to the net that is used: data layers become inputs, losses and their labels go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaffe.netdef.errors import JaffeError, SpecError, suggest
from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import LayerParameter, NetParameter, TransformationParameter
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState, included
from jaffe.netdef.schema import settings_fields
from jaffe.netdef.sizes import sizes
from jaffe.netdef.source import NetSource, Spec, load

# Losses that contain the function which makes predictions of scores, and that function.
_NATURAL = {"SoftmaxWithLoss": "Softmax", "InfogainLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}
_METRICS = ("Accuracy", "DetectionEvaluate", "HDF5Output", "Silence")
_MADE_BY_THE_NET = ("DummyData", "Parameter")  # layers without bottoms that are no data layers


@dataclass(frozen=True)
class _Item:
    """A layer of the deploy net, before dead ones are left out; values as in ``Graph``."""

    proto: LayerParameter
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]


def deploy(
    spec: Spec,
    inputs: Mapping[str, Sequence[int]] | None = None,
    *,
    outputs: Sequence[str] | None = None,
    batch: int = 1,
    stages: Sequence[str] = (),
    level: int | None = None,
    fillers: bool = False,
) -> NetParameter:
    """The deploy net of a net for training: the layers of phase TEST that lead from the data to the predictions.

    - Data layers become Input layers, with their ``transform_param`` (but for ``mirror``), which Caffe ignores there
      and ``CompiledNet.preprocess`` reads. Labels, the data that no layer with weights uses, are left out with
      everything that needs them. DummyData is data where a net has no other, as in benchmarks.
    - SoftmaxWithLoss and InfogainLoss become Softmax, SigmoidCrossEntropyLoss becomes Sigmoid, called ``prob``; other
      losses, accuracies and outputs to files are left out.
    - Auxiliary heads are left out with their branches: losses of a smaller weight than another of the same type on
      the same labels.
    - Names stay, so weights load by name. Multipliers, fillers and stored blobs are left out; names of shared
      parameters stay. Dropout, which does nothing in phase TEST, stays, as in the deploy nets that Caffe publishes.
    - Where a net has data or losses for phase TRAIN only, those are used.

    Args:
        inputs: shapes of inputs that the net does not state. It states them in ``crop_size``, ``resize``,
            MemoryData, and ImageData's ``new_height``; images are taken to have 3 channels where nothing says
            otherwise.
        outputs: names of the blobs to keep, in place of those found as above.
        batch: first axis of inputs that stand for data layers.
        stages, level: what ``include`` and ``exclude`` rules are held against, with the net's own ``state``.
        fillers: keep them.

    Raises:
        SpecError: the net is wrong; the shape of an input is not known; or no prediction is found.
        JaffeError: ``inputs`` or ``outputs`` names what the net does not have; a size is not positive.
    """
    if isinstance(stages, str):
        raise JaffeError(f"stages is a list of names; received {stages!r}")
    (batch,) = sizes("batch", [batch])
    given = {name: sizes(f"inputs[{name!r}]", shape) for name, shape in (inputs or {}).items()}
    source = load(spec)
    graph = _graph(source, stages, level)
    items = _without_losses(graph, all_heads=outputs is not None)
    wanted = _named(items, outputs) if outputs is not None else _predictions(graph, items)
    if not wanted:
        raise SpecError(f"net {graph.name!r} has no prediction: no layer with weights leads from data to a loss or an "
                        "output; name the blobs to keep (outputs=[...], --output)", location=source.filename or None)
    kept, needed = _alive(items, wanted)
    net = NetParameter(name=graph.name) if graph.name else NetParameter()
    taken = {item.proto.name for item in kept}
    for node in _data(graph):
        net.layer.extend(_inputs(node, needed, given, batch, taken))
    if given:
        known = [top for layer in net.layer for top in layer.top]
        name = next(iter(given))
        raise JaffeError(f"the deploy net has no input {name!r}{suggest(name, known)}; it reads {', '.join(known)}")
    net.layer.extend(_clean(item.proto, fillers) for item in kept)
    return net


def _graph(source: NetSource, stages: Sequence[str], level: int | None) -> Graph:
    """The net of phase TEST; with data and losses of phase TRAIN where it has none."""
    own = source.net.state
    test = NetState("TEST", own.level if level is None else level, (*own.stage, *stages))
    train = NetState("TRAIN", test.level, test.stages)
    layers = list(source.net.layer)

    def is_in(i: int, state: NetState) -> bool:
        try:
            return included(layers[i], state)
        except SpecError as error:
            raise SpecError(str(error), layer=layers[i].name, location=source.location(i) or None) from None

    keep = {i for i in range(len(layers)) if is_in(i, test)}
    made = {top for i in keep for top in layers[i].top}
    read = {bottom for i in keep for bottom in layers[i].bottom}
    has_loss = any(_is_loss(layers[i]) for i in keep)
    for i, layer in enumerate(layers):
        if i in keep or not is_in(i, train):
            continue
        if not layer.bottom and read & set(layer.top) - made:
            keep.add(i)
            made.update(layer.top)
        elif not has_loss and _is_loss(layer) and made >= set(layer.bottom):
            keep.add(i)
    net = NetParameter(name=source.net.name)
    for i in sorted(keep):
        layer = net.layer.add()
        layer.CopyFrom(layers[i])
        layer.ClearField("include")
        layer.ClearField("exclude")
    locations = tuple(source.location(i) for i in sorted(keep))
    return resolve(NetSource(net, locations, source.filename, source.directory), NetState("TEST"))


def _is_loss(layer: LayerParameter) -> bool:
    return layer.type.endswith("Loss") or any(layer.loss_weight)


def _data(graph: Graph) -> list[Node]:
    """The data layers; DummyData where there is no other."""
    data = [node for node in graph.nodes if not node.bottoms and node.type not in _MADE_BY_THE_NET]
    return data or [node for node in graph.nodes if node.type == "DummyData"]


def _has_weights(node: Node) -> bool:
    """Whether the layer has weights, as far as the declaration shows: fillers among its settings, or ``param``."""
    if node.type in (*_MADE_BY_THE_NET, "Im2col") or node.type.endswith("Loss"):
        return False
    messages = [getattr(node.proto, field).DESCRIPTOR for field in settings_fields(node.type)]
    filled = any(_is_filler(field) for message in messages for field in message.fields)
    return filled or node.type == "BatchNorm" or bool(node.proto.param or node.proto.blobs)


def _is_filler(field: Any) -> bool:
    return field.message_type is not None and field.message_type.name == "FillerParameter"


def _labels(graph: Graph) -> set[str]:
    """The data that no layer with weights uses."""
    used: set[str] = set()
    for node in reversed(graph.nodes):
        if _has_weights(node) or used.intersection(node.tops):
            used.update(node.bottoms)
    return {top for node in _data(graph) for top in node.tops} - used


def _auxiliary(graph: Graph) -> set[str]:
    """Names of losses that weigh less than another of the same type on the same labels."""
    losses = [node for node in graph.nodes if _is_loss(node.proto) and node.tops]
    return {
        node.name
        for node in losses
        if any(
            (other.type, other.bottoms[1:]) == (node.type, node.bottoms[1:]) and node.bottoms[1:]
            and other.loss_weights[0] > node.loss_weights[0]
            for other in losses
        )
    }


def _without_losses(graph: Graph, all_heads: bool) -> list[_Item]:
    """The layers that need no label, in the order of the file, with the functions that losses contain."""
    data, gone = _data(graph), _labels(graph)
    auxiliary = _auxiliary(graph)
    heads = [node for node in graph.nodes if node.type in _NATURAL]
    main = [node for node in heads if node.name not in auxiliary]
    heads = heads if all_heads else main
    there = {(node.type, node.bottoms) for node in graph.nodes}
    blobs, names = set(graph.blobs), {node.name for node in graph.nodes}
    items: list[_Item] = []
    for node in graph.nodes:
        if node in data:
            continue
        if _is_loss(node.proto) or node.type in _METRICS or gone.intersection(node.bottoms):
            gone.update(node.tops)
            scores = node.bottoms[:1]
            if node in heads and not gone.intersection(scores) and (_NATURAL[node.type], scores) not in there:
                name = "prob" if main == [node] else f"{node.proto.bottom[0]}_prob"
                top = node.proto.top[1] if len(node.tops) > 1 else _free(name, blobs)
                proto = LayerParameter(name=_free(name, names), type=_NATURAL[node.type],
                                       bottom=node.proto.bottom[:1], top=[top])
                if node.proto.HasField("softmax_param") and proto.type == "Softmax":
                    proto.softmax_param.CopyFrom(node.proto.softmax_param)
                elif node.type == "InfogainLoss" and node.proto.infogain_loss_param.HasField("axis"):
                    proto.softmax_param.axis = node.proto.infogain_loss_param.axis
                tops = node.tops[1:2] or (top,)
                gone.difference_update(tops)
                items.append(_Item(proto, scores, tops))
        else:
            items.append(_Item(node.proto, node.bottoms, node.tops))
    return items


def _predictions(graph: Graph, items: Iterable[_Item]) -> set[str]:
    """What layers with weights lead to and no layer reads any more; not what only auxiliary losses read."""
    items = list(items)
    weighted = {top for node in graph.nodes if _has_weights(node) for top in node.tops}
    read: set[str] = set()
    for item in items:
        read.update(item.bottoms)
        if weighted.intersection(item.bottoms):
            weighted.update(item.tops)
    auxiliary = _auxiliary(graph)
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for bottom in node.bottoms:
            readers.setdefault(bottom, []).append(node)

    def dropped(value: str) -> bool:
        by = readers.get(value, [])
        return any(node.name in auxiliary for node in by) or (bool(by) and all(node.type == "Silence" for node in by))

    return {top for item in items for top in item.tops if top in weighted and top not in read and not dropped(top)}


def _named(items: Iterable[_Item], outputs: Sequence[str]) -> set[str]:
    """The values of the blobs that the caller names."""
    if isinstance(outputs, str):
        raise JaffeError(f"outputs is a list of names; received {outputs!r}")
    values = {blob: value for item in items for blob, value in zip(item.proto.top, item.tops, strict=False)}
    for name in outputs:
        if name not in values:
            raise JaffeError(f"no blob {name!r} can be had without labels{suggest(name, values)}")
    return {values[name] for name in outputs}


def _alive(items: Sequence[_Item], wanted: set[str]) -> tuple[list[_Item], set[str]]:
    """The items that lead to what is wanted, and all values that are needed."""
    kept, needed = [], set(wanted)
    for item in reversed(items):
        if needed.intersection(item.tops):
            kept.append(item)
            needed.update(item.bottoms)
    return kept[::-1], needed


def _inputs(
    node: Node, needed: set[str], given: dict[str, tuple[int, ...]], batch: int, taken: set[str]
) -> list[LayerParameter]:
    """An Input layer for each top of a data layer that is needed."""
    layers = []
    for i, top in enumerate(node.tops):
        if top not in needed:
            continue
        layer = LayerParameter(name=_free(top, taken), type="Input", top=[top])
        shape = given.pop(top) if top in given else _shape(node, i, batch)
        if shape:
            layer.input_param.shape.add(dim=shape)
        elif node.type != "Input":
            raise node.error(f"the shape of {top!r} is not in the net, only in the data: expected inputs={{{top!r}: "
                             f"({batch}, ...)}} (--shape {top}={batch},...); found none")
        transform = _transform(node)
        if i == 0 and transform.ListFields():
            layer.transform_param.CopyFrom(transform)
        layers.append(layer)
    return layers


def _shape(node: Node, top: int, batch: int) -> Sequence[int]:
    """The shape of a data layer's top, as far as the declaration has it; empty where it has not."""
    p, proto = node.proto.transform_param, node.proto
    if node.type == "Input":
        shapes = proto.input_param.shape
        return _of(shapes, top).dim if shapes else ()
    if node.type == "MemoryData":
        own = proto.memory_data_param
        return (batch, own.channels, own.height, own.width) if top == 0 else (batch,)
    if node.type == "DummyData":
        dummy = proto.dummy_data_param
        axes = [dummy.channels, dummy.height, dummy.width]
        stated = _of(dummy.shape, top).dim[1:] if dummy.shape else [_of(axis, top) for axis in axes if axis]
        return (batch, *stated)
    size = (p.crop_size, p.crop_size) if p.crop_size else tuple(_transform(node).resize)
    if top or not size:
        return ()
    grey = p.force_gray or (node.type == "ImageData" and not proto.image_data_param.is_color and not p.force_color)
    return (batch, 1 if grey else 3, size[0], size[-1])


def _of(values: Sequence[Any], top: int) -> Any:
    """What is stated once for all tops, or for each."""
    return values[min(top, len(values) - 1)]


def _transform(node: Node) -> TransformationParameter:
    """What the data layer does with images, the same for each; its resizing is jaffe's ``resize``."""
    result = TransformationParameter()
    result.CopyFrom(node.proto.transform_param)
    result.ClearField("mirror")
    own = node.proto.image_data_param
    if node.type == "ImageData" and own.new_height and own.new_width and not result.resize:
        result.resize.extend([own.new_height, own.new_width])
    return result


def _clean(layer: LayerParameter, fillers: bool) -> LayerParameter:
    """The layer without what only training, or a file of weights, needs."""
    result = LayerParameter()
    result.CopyFrom(layer)
    for field in ("loss_weight", "blobs", "propagate_down", "param", "transform_param", "loss_param"):
        result.ClearField(field)
    shared = [i for i, spec in enumerate(layer.param) if spec.name]
    for spec in layer.param[: shared[-1] + 1 if shared else 0]:
        new = result.param.add()
        for field in ("name", "share_mode"):
            if spec.HasField(field):
                setattr(new, field, getattr(spec, field))
    for own in settings_fields(layer.type) if not fillers and layer.type not in _MADE_BY_THE_NET else ():
        if result.HasField(own):
            settings = getattr(result, own)
            for field in settings.DESCRIPTOR.fields:
                if _is_filler(field):
                    settings.ClearField(field.name)
    return result


def _free(name: str, taken: set[str]) -> str:
    """The name, or the like that is not taken; it is taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
