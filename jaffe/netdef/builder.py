"""Nets in Python: ``n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20)``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaffe.netdef import jaffe_pb2
from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.jaffe_pb2 import LayerParameter, NetParameter
from jaffe.netdef.schema import field_names, settings_fields
from jaffe.netdef.source import NetSource, load
from jaffe.netdef.text import format_text

_LAYER_FIELDS = set(field_names(LayerParameter))


class Top:
    """One output of a layer that a ``NetSpec`` or another layer can take."""

    __slots__ = ("call", "index")

    def __init__(self, call: LayerCall, index: int):
        self.call = call
        self.index = index


class LayerCall:
    """A layer with its inputs, before it has a name; what ``L.Type(..., ntop=0)`` returns."""

    def __init__(self, layer_type: str, bottoms: tuple[Top, ...], settings: dict[str, Any], location: str):
        for bottom in bottoms:
            if not isinstance(bottom, Top):
                raise TypeError(
                    f"L.{layer_type} ({location}): inputs are outputs of other layers; "
                    f"received {type(bottom).__name__}"
                )
        self.type = layer_type
        self.bottoms = bottoms
        self.location = location
        self.ntop: int = settings.pop("ntop", 1)
        self.in_place: bool = settings.pop("in_place", False)
        self.after: LayerCall | None = None  # what stands before it in the net, be it read or not
        if self.in_place and (len(bottoms) != 1 or self.ntop != 1):
            raise SpecError(
                f"in_place needs one input and one output; found {len(bottoms)} and {self.ntop}",
                layer=layer_type, location=location,
            )
        self.proto = LayerParameter(type=layer_type)
        for key, value in settings.items():
            self._set(key, value)
        self.tops = tuple(Top(self, i) for i in range(self.ntop))

    @classmethod
    def of(cls, proto: LayerParameter, bottoms: tuple[Top, ...], location: str, after: LayerCall | None) -> LayerCall:
        """A layer that is declared already, to stand behind ``after``."""
        call = cls(proto.type, bottoms, {"ntop": len(proto.top)}, location)
        call.proto.CopyFrom(proto)
        call.proto.ClearField("bottom")
        call.after = after
        return call

    def _set(self, key: str, value: Any) -> None:
        """A setting goes to the layer's own message, else to the layer, else to a user layer's attributes."""
        own = settings_fields(self.type)
        for field in own:
            if key in field_names(getattr(self.proto, field)):
                self._assign(getattr(self.proto, field), key, value)
                return
        if key in _LAYER_FIELDS:
            self._assign(self.proto, key, value)
        elif own:
            known = [name for field in own for name in field_names(getattr(self.proto, field))]
            raise SpecError(
                f"L.{self.type} has no setting {key!r}{suggest(key, [*known, *_LAYER_FIELDS])}",
                location=self.location,
            )
        else:
            try:
                add_attribute(self.proto, key, value)
            except (TypeError, ValueError):
                raise SpecError(f"L.{self.type}: {key}={value!r}: expected numbers, booleans or texts",
                                location=self.location) from None

    def _assign(self, message: Any, key: str, value: Any) -> None:
        try:
            assign(message, key, value)
        except (TypeError, ValueError) as error:
            raise SpecError(f"L.{self.type}: {key}={value!r}: {error}", location=self.location) from None


def assign(message: Any, key: str, value: Any) -> None:
    """Set a protobuf field from plain Python: dict for a message, list for a repeated field, name for an enum.

    A scalar given to a repeated field becomes its one element, as in ``kernel_size=5``.
    """
    field = message.DESCRIPTOR.fields_by_name.get(key)
    if field is None:
        raise ValueError(f"no field {key!r}{suggest(key, field_names(message))}")
    if field.is_repeated:
        target = getattr(message, key)
        if hasattr(value, "tolist"):  # NumPy arrays and scalars
            value = value.tolist()
        for item in value if isinstance(value, (list, tuple, range)) else [value]:
            if field.message_type is not None:
                _fill(target.add(), item)
            else:
                target.append(_scalar(field, item))
    elif field.message_type is not None:
        getattr(message, key).SetInParent()
        _fill(getattr(message, key), value)
    else:
        setattr(message, key, _scalar(field, value))


def _fill(message: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            assign(message, key, item)
    else:
        message.CopyFrom(value)


def _scalar(field: Any, value: Any) -> Any:
    if field.enum_type is not None and isinstance(value, str):
        values = field.enum_type.values_by_name
        if value not in values:
            raise ValueError(f"{value!r} is not one of {', '.join(values)}")
        return values[value].number
    if hasattr(value, "item"):  # NumPy scalars
        return value.item()
    return value


def add_attribute(layer: LayerParameter, key: str, value: Any) -> None:
    """Store a setting of a user's own layer type: numbers, booleans, texts, or lists of them."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if items and all(isinstance(item, str) for item in items):
        layer.attribute.add(name=key, text=items)
    else:
        layer.attribute.add(name=key, number=[float(item) for item in items])


class _Layers:
    """``L.Convolution(...)``: a call makes a layer of that type and returns its top, or a tuple of tops."""

    def __getattr__(self, layer_type: str) -> Callable[..., Any]:
        if layer_type.startswith("__"):
            raise AttributeError(layer_type)

        def layer(*bottoms: Top, **settings: Any) -> Any:
            call = LayerCall(layer_type, bottoms, settings, _caller())
            if call.ntop == 0:
                return call
            return call.tops[0] if call.ntop == 1 else call.tops

        layer.__name__ = layer_type
        return layer


class _Params:
    """``P.Pooling.AVE``: the enum constants of ``PoolingParameter``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(jaffe_pb2, name + "Parameter")
        except AttributeError:
            raise AttributeError(f"no settings named {name}Parameter") from None


L = _Layers()
P = _Params()


class NetSpec:
    """A net being built: assigning a top names its blob and its layer.

    >>> n = NetSpec("tiny")
    >>> n.data = L.Input(shape=dict(dim=[2, 3]))
    >>> n.ip = L.InnerProduct(n.data, num_output=4)
    >>> n.relu = L.ReLU(n.ip, in_place=True)
    >>> [layer.name for layer in n.to_proto().layer]
    ['data', 'ip', 'relu']

    ``str(n)`` is the net as prototxt. Functions that take and return tops are building blocks; what they
    leave unnamed is called by its type and a number (``Convolution1``).
    """

    def __init__(self, name: str = ""):
        super().__setattr__("_name", name)
        super().__setattr__("_named", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (Top, LayerCall)):
            raise TypeError(f"{name}: a net holds outputs of layers; received {type(value).__name__}")
        self._named[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._named[name]
        except KeyError:
            raise AttributeError(f"the net has no blob {name!r}{suggest(name, self._named)}") from None

    __setitem__ = __setattr__
    __getitem__ = __getattr__

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def add(self, net: NetParameter, **inputs: Top) -> None:
        """Take in the layers of a net as they are, their names and those of their blobs too: ``n.h`` is its blob ``h``.

        Args:
            inputs: tops that take the place of the net's ``Input`` blobs of these names.

        Raises:
            SpecError: the net has no such input; or a blob or layer is called as one that is there already; or a
                layer reads what no earlier one writes.
        """
        location, last = _caller(), None
        taken = self._layer_names()
        added: dict[str, Top | LayerCall] = {}
        tops: dict[str, Top] = {}
        used: set[str] = set()
        for layer in load(net).net.layer:
            if layer.type == "Input":
                used.update(name for name in layer.top if name in inputs)
                tops.update((name, inputs[name]) for name in layer.top if name in inputs)
                layer = _without(layer, inputs)
                if not layer.top:
                    continue
            for name in layer.bottom:
                if name not in tops:
                    raise SpecError(f"bottom {name!r} is not produced by any earlier layer{suggest(name, tops)}",
                                    layer=layer.name, location=location)
            last = LayerCall.of(layer, tuple(tops[name] for name in layer.bottom), location, last)
            written: dict[str, Top | LayerCall] = dict(zip(layer.top, last.tops, strict=True))
            for name, value in (written or {layer.name: last}).items():
                if (name in self._named or name in added) and name not in layer.bottom:
                    raise SpecError(f"the net has a blob {name!r} already; give one of them another name",
                                    layer=layer.name, location=location)
                added[name] = value
            if layer.name in taken:
                raise SpecError("the net has a layer of this name already; give one of them another",
                                layer=layer.name, location=location)
            tops.update(zip(layer.top, last.tops, strict=True))
        for name in inputs:
            if name not in used:
                raise SpecError(f"the net {net.name!r} has no input {name!r}{suggest(name, tops)}", location=location)
        self._named.update(added)

    def _layer_names(self) -> set[str]:
        """Names of layers that are sure: others are given when the net is written, and step aside."""
        calls = {key: value.call if isinstance(value, Top) else value for key, value in self._named.items()}
        emitted: set[LayerCall] = set()
        own = {one.proto.name for call in calls.values() for one in _in_order(call, emitted)} - {""}
        return own | {key for key, call in calls.items() if not call.proto.name}

    def source(self) -> NetSource:
        """The net and, for each layer, the Python line that made it."""
        net, locations = _emit(self._name, self._named)
        return NetSource(net, tuple(locations))

    def to_proto(self) -> NetParameter:
        """The net as a protobuf message, layers in the order in which they depend on each other."""
        return self.source().net

    def __str__(self) -> str:
        return format_text(self.to_proto())


def to_proto(*tops: Top) -> NetParameter:
    """The net that computes these tops, every blob named by its layer's type and a number."""
    return _emit("", {f"\0{i}": top for i, top in enumerate(tops)})[0]


def _without(layer: LayerParameter, given: Collection[str]) -> LayerParameter:
    """An Input layer without those of its tops that are given."""
    kept = [i for i, top in enumerate(layer.top) if top not in given]
    copy = LayerParameter()
    copy.CopyFrom(layer)
    del copy.top[:]
    copy.top.extend(layer.top[i] for i in kept)
    if len(layer.input_param.shape) > 1:  # one for each top; a single one is for all
        del copy.input_param.shape[:]
        copy.input_param.shape.extend(layer.input_param.shape[i] for i in kept)
    return copy


def _emit(name: str, named: Mapping[str, Top | LayerCall]) -> tuple[NetParameter, list[str]]:
    net = NetParameter(name=name) if name else NetParameter()
    locations: list[str] = []
    names: dict[tuple[LayerCall, int], str] = {}
    layer_names: dict[LayerCall, str] = {}
    for key, value in named.items():
        if key.startswith("\0"):
            continue
        call, index = (value.call, value.index) if isinstance(value, Top) else (value, -1)
        names.setdefault((call, index), key)
        layer_names.setdefault(call, key)
    taken = set(named)
    counts: dict[str, int] = {}

    def fresh(layer_type: str) -> str:
        while True:
            counts[layer_type] = counts.get(layer_type, 0) + 1
            candidate = f"{layer_type}{counts[layer_type]}"
            if candidate not in taken:
                taken.add(candidate)
                return candidate

    def blob(top: Top) -> str:
        while top.call.in_place:
            top = top.call.bottoms[0]
        if top.call.proto.top:
            return top.call.proto.top[top.index]
        key = (top.call, top.index)
        if key not in names:
            own = top.call.proto.name  # of one output as its layer, where that has a name
            named = bool(own) and own not in taken and len(top.call.tops) == 1
            names[key] = own if named else fresh(top.call.type)
            taken.add(names[key])
        return names[key]

    emitted: set[LayerCall] = set()
    for value in named.values():
        for call in _in_order(value.call if isinstance(value, Top) else value, emitted):
            layer = net.layer.add()
            layer.CopyFrom(call.proto)
            layer.bottom.extend(blob(bottom) for bottom in call.bottoms)
            if not call.proto.top:
                layer.top.extend(blob(top) for top in call.tops)
            if not call.proto.name:
                fallback = layer.top[0] if layer.top and not call.in_place else ""
                layer.name = layer_names.get(call) or fallback or fresh(call.type)
            locations.append(call.location)
    return net, locations


def _in_order(call: LayerCall, emitted: set[LayerCall]) -> Iterable[LayerCall]:
    """The layers that ``call`` needs and have not been emitted, inputs first. Not recursive: nets are deep."""
    stack = [call]
    while stack:
        current = stack[-1]
        if current in emitted:
            stack.pop()
            continue
        needed = [bottom.call for bottom in current.bottoms]
        needed += [current.after] if current.after is not None else []
        missing = [one for one in needed if one not in emitted]
        if missing:
            stack.extend(reversed(missing))
        else:
            emitted.add(current)
            yield stack.pop()


def _caller() -> str:
    """``file.py:12`` of the nearest frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("jaffe.netdef"):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    file = "notebook cell" if path.parent.name.startswith("ipykernel_") else path.name
    return f"{file}:{frame.f_lineno}"
