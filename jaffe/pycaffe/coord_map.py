"""Where the places of one blob lie in another, for layers that keep the plane: ``caffe.coord_map`` of pycaffe.

A map is (axis, scale, shift): along the axes from ``axis`` on, ``x_top = scale x_bottom + shift``. ``crop`` finds the
offset with which fully convolutional nets cut their scores to the size of the image (Long et al. 2015).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias

from jaffe.netdef.builder import LayerCall, Top
from jaffe.netdef.errors import JaffeError
from jaffe.pycaffe.net_spec import layers as L  # noqa: N812  pycaffe's name

Map: TypeAlias = tuple[int | None, tuple[Fraction, ...], tuple[Fraction, ...]]

_SAME = {"AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN", "Power",
         "PReLU", "ReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"}
_STRIDED = {"Convolution", "Pooling", "Im2col"}


class UndefinedMapException(JaffeError):
    """The layer does not keep the plane."""


class AxisMismatchException(JaffeError):
    """Two maps are along other axes."""


def conv_params(fn: LayerCall) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The first axis of the plane, stride, size of the kernel with its holes, and pad of a layer; each once, or once an
    axis.

    Raises:
        JaffeError: it states ``kernel_h`` and the like, or no ``kernel_size``.
    """
    p: Any = fn.proto.pooling_param if fn.type == "Pooling" else fn.proto.convolution_param
    stated = {field.name for field, _ in p.ListFields()}
    if legacy := sorted(stated & {"kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"}):
        raise JaffeError(f"{fn.type} ({fn.location}): coordinates are found from kernel_size, stride and pad; found "
                         f"{', '.join(legacy)}")
    if "kernel_size" not in stated:
        raise JaffeError(f"{fn.type} ({fn.location}): expected kernel_size; found none")
    if fn.type == "Pooling":
        return 1, (p.stride,), (p.kernel_size,), (p.pad,)
    holes = list(p.dilation) or [1]
    axes = max(len(p.kernel_size), len(holes))
    kernel = tuple((size - 1) * hole + 1
                   for size, hole in zip(_each(p.kernel_size, axes), _each(holes, axes), strict=True))
    return p.axis, tuple(p.stride) or (1,), kernel, tuple(p.pad) or (0,)


def crop_params(fn: LayerCall) -> tuple[int, tuple[int, ...]]:
    """Axis and offset of a Crop layer."""
    p = fn.proto.crop_param
    return p.axis, tuple(p.offset) or (0,)


def coord_map(fn: LayerCall) -> Map:
    """The map from a layer's bottom to its top. Raises UndefinedMapException when there is none."""
    if fn.type in _SAME:
        return None, (Fraction(1),), (Fraction(0),)
    if fn.type == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, (Fraction(1),), tuple(Fraction(-one) for one in offset)
    if fn.type not in {*_STRIDED, "Deconvolution"}:
        raise UndefinedMapException(f"{fn.type} ({fn.location}) does not keep the plane")
    axis, *parts = conv_params(fn)
    axes = max(map(len, parts))
    stride, kernel, pad = (_each(one, axes) for one in parts)
    middle = [Fraction(size - 1, 2) - edge for size, edge in zip(kernel, pad, strict=True)]
    if fn.type == "Deconvolution":
        return axis, tuple(map(Fraction, stride)), tuple(middle)
    return (axis, tuple(Fraction(1, step) for step in stride),
            tuple(-shift / step for shift, step in zip(middle, stride, strict=True)))


def compose(base_map: Map, next_map: Map) -> Map:
    """The map that is ``next_map`` first and then ``base_map``. Raises AxisMismatchException when axes differ."""
    if None not in (base_map[0], next_map[0]) and base_map[0] != next_map[0]:
        raise AxisMismatchException(f"maps along the axes from {base_map[0]} and from {next_map[0]} on")
    axis = next_map[0] if base_map[0] is None else base_map[0]
    axes = max(len(part) for one in (base_map, next_map) for part in one[1:])
    a1, b1, a2, b2 = (_each(part, axes) for one in (base_map, next_map) for part in one[1:])
    return (axis, tuple(x * y for x, y in zip(a1, a2, strict=True)),
            tuple(x * y + z for x, y, z in zip(a1, b2, b1, strict=True)))


def inverse(coord_map: Map) -> Map:
    """The map the other way round."""
    axis, scale, shift = coord_map
    axes = max(len(scale), len(shift))
    return (axis, tuple(1 / a for a in _each(scale, axes)),
            tuple(-b / a for a, b in zip(_each(scale, axes), _each(shift, axes), strict=True)))


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from one top to another, through a blob that both come from.

    Raises:
        JaffeError: there is none on ways of layers that keep the plane.
    """
    origins = _origins(top_from)
    for top, found in _origins(top_to).items():
        if top in origins:
            return compose(found, inverse(origins[top]))
    raise JaffeError("the two tops come from no blob that both share, by layers that keep the plane")


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts the first top to the size of the second, where its places belong.

    Raises:
        JaffeError: their places are differently far apart, or the offset is negative or no whole number.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if any(a != 1 for a in scale):
        raise JaffeError(f"crop: expected tops of one scale; found {', '.join(map(str, scale))}")
    if any(b > 0 or b.denominator != 1 for b in shift):
        raise JaffeError(f"crop: expected an offset of whole numbers of 0 and above; found "
                         f"{', '.join(str(-b) for b in shift)}")
    return L.Crop(top_from, top_to, axis=(1 if axis is None else axis) + 1, offset=[int(-b) for b in shift])


def _origins(top: Top) -> dict[Top, Map]:
    """The blobs that a top comes from, nearest first, by layers that keep the plane, with the maps from them to it."""
    found: dict[Top, Map] = {top: (None, (Fraction(1),), (Fraction(0),))}
    waiting = [top]
    while waiting:
        current = waiting.pop(0)
        bottoms = current.call.bottoms[:1] if current.call.type == "Crop" else current.call.bottoms
        try:
            step = coord_map(current.call) if bottoms else None
        except UndefinedMapException:
            continue
        for bottom in bottoms:
            if step is not None and bottom not in found:
                found[bottom] = compose(found[current], step)
                waiting.append(bottom)
    return found


def _each(values: Any, axes: int) -> tuple[Any, ...]:
    """One value an axis."""
    return tuple(values) * axes if len(values) == 1 else tuple(values)
