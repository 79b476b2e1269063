"""What the fields of convolution and pooling layers say of each spatial axis."""

from __future__ import annotations

from typing import Any

from jaffe.compile.layer import Layer
from jaffe.compile.lowering import ConvGeometry
from jaffe.compile.lowering.unfold import Pads

SIDES = ("pad_t", "pad_b", "pad_l", "pad_r")


class Windowed(Layer):
    """Base of the layers that read ``convolution_param``: kernel, stride, padding and dilation of each axis."""

    def geometry(self, spatial: int, group: int = 1) -> ConvGeometry:
        """Stride, padding and dilation for so many spatial axes. Raises SpecError for fields that contradict."""
        stride = self._per_axis("stride", ("stride_h", "stride_w"), spatial, 1)
        if 0 in stride:
            raise self.node.error(f"stride is positive; found {stride}")
        dilation = self._per_axis("dilation", None, spatial, 1)
        if 0 in dilation:
            raise self.node.error(f"dilation is positive; found {dilation}")
        pad = side_pads(self, spatial)
        if pad is None:
            pad = tuple((p, p) for p in self._per_axis("pad", ("pad_h", "pad_w"), spatial, 0))
        return ConvGeometry(stride, pad, dilation, group)

    def kernel(self, spatial: int) -> tuple[int, ...]:
        """The kernel's size on so many spatial axes. Raises SpecError when it is not given or zero."""
        kernel = self._per_axis("kernel_size", ("kernel_h", "kernel_w"), spatial, None)
        if 0 in kernel:
            raise self.node.error(f"kernel_size is positive; found {kernel}")
        return kernel

    def _per_axis(self, field: str, pair: tuple[str, str] | None, spatial: int, default: int | None) -> tuple[int, ...]:
        """One number a spatial axis, from a repeated field (once, or once an axis) or its _h and _w fields."""
        node, p = self.node, self.p
        values = list(getattr(p, field))
        given = [name for name in pair or () if p.HasField(name)]
        if given:
            if values:
                raise node.error(f"expected {field}, or {' and '.join(pair or ())}; found both")
            if spatial != 2:
                raise node.error(f"{given[0]} is for 2 spatial axes; found {spatial}; use {field}")
            if len(given) == 1 and field != "pad":
                raise node.error(f"expected {' and '.join(pair or ())}; found {given[0]} only")
            values = [getattr(p, name) for name in pair or ()]
        if not values:
            if default is None and spatial:
                raise node.error(f"expected {field}; found none")
            values = [default or 0]
        if len(values) not in (1, spatial) and spatial:
            raise node.error(f"expected {field} once, or once for each of {spatial} spatial axes; found {len(values)}")
        return tuple(values * spatial) if len(values) == 1 else tuple(values)


def side_pads(layer: Layer, spatial: int) -> Pads | None:
    """The forks' ``pad_t``, ``pad_b``, ``pad_l`` and ``pad_r`` as ((top, bottom), (left, right)); None without any.

    Raises SpecError beside ``pad``, ``pad_h`` or ``pad_w``, or for other than 2 spatial axes.
    """
    stated = {field.name for field, _ in layer.p.ListFields()}
    given = [name for name in SIDES if name in stated]
    if not given:
        return None
    for name in ("pad", "pad_h", "pad_w"):
        if name in stated:
            raise layer.node.error(f"expected {name}, or {', '.join(SIDES[:-1])} and {SIDES[-1]}; found both")
    if spatial != 2:
        raise layer.node.error(f"{given[0]} is for 2 spatial axes; found {spatial}; use pad")
    p = layer.p
    return (p.pad_t, p.pad_b), (p.pad_l, p.pad_r)


def shown(pads: Pads) -> tuple[Any, ...]:
    """Pads for messages: one number an axis where both sides agree on all axes, else pairs (before, after)."""
    return tuple(before for before, _ in pads) if all(before == after for before, after in pads) else pads
