"""Layers that move values without changing them, sinks, and Eltwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import jax.numpy as jnp

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.lowering.layout import concatenate, split
from jaffe.netdef.jaffe_pb2 import EltwiseParameter


class Routing(Layer):
    """No arithmetic."""

    arithmetic = "elementwise"

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0

    def _axis_or_dim(self, legacy: str, ndim: int) -> int:
        """``axis``, or the unsigned field that it replaced."""
        if self.p.HasField(legacy):
            if self.p.HasField("axis"):
                raise self.node.error(f"{legacy} is the old name of axis; expected one of them, found both")
            return self.axis(getattr(self.p, legacy), ndim, legacy, signed=False)
        return self.axis(self.p.axis, ndim)


@built_in("Flatten")
class Flatten(Routing):
    """Merges axes ``axis`` to ``end_axis``, inclusive, into one. Source: Caffe 1.0, ``flatten_layer.cpp``."""

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        start, end = self.axis(self.p.axis, len(x)), self.axis(self.p.end_axis, len(x), "end_axis")
        if end < start:
            raise self.node.error(f"end_axis {end} comes before axis {start} in a blob of shape {x}")
        return [(*x[:start], math.prod(x[start : end + 1]), *x[end + 1 :])]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [bottoms[0].reshape(self.shapes([bottoms[0].shape])[0])]


@built_in("Reshape")
class Reshape(Routing):
    """Replaces ``num_axes`` axes from ``axis`` (-1: to the end) by ``shape``.

    In ``shape`` 0 copies the bottom's size at that place, and one -1 is found from the rest. A negative
    ``axis`` counts from behind the last: -1 appends. Source: Caffe 1.0, ``reshape_layer.cpp``.
    """

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, p, error = bottoms[0], self.p, self.node.error
        start = p.axis if p.axis >= 0 else len(x) + p.axis + 1
        if not 0 <= start <= len(x):
            raise error(f"axis {p.axis} is out of range for a blob of {len(x)} axes; "
                        f"expected {-len(x) - 1} to {len(x)}")
        end = len(x) if p.num_axes == -1 else start + p.num_axes
        if p.num_axes < -1 or end > len(x):
            raise error(f"num_axes {p.num_axes} from axis {start} is out of range for a blob of shape {x}")
        shape = list(x[:start])
        for i, size in enumerate(p.shape.dim):
            if size == 0:
                if start + i >= len(x):
                    raise error(f"shape copies axis {start + i} of the bottom; it has {len(x)} axes: {x}")
                shape.append(x[start + i])
            elif size < -1:
                raise error(f"shape has sizes >= 0 and at most one -1; found {list(p.shape.dim)}")
            else:
                shape.append(size)
        shape += x[end:]
        if shape.count(-1) > 1:
            raise error(f"shape has at most one -1; found {list(p.shape.dim)}")
        known = math.prod(size for size in shape if size != -1)
        if -1 in shape:
            if not known or math.prod(x) % known:
                raise error(f"cannot reshape {x}, {math.prod(x)} values, to {tuple(shape)}")
            shape[shape.index(-1)] = math.prod(x) // known
        elif known != math.prod(x):
            raise error(f"cannot reshape {x}, {math.prod(x)} values, to {tuple(shape)}, {known} values")
        return [tuple(shape)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [bottoms[0].reshape(self.shapes([bottoms[0].shape])[0])]


@built_in("Concat")
class Concat(Routing):
    """Bottoms one after another along ``axis``. Source: Caffe 1.0, ``concat_layer.cpp``."""

    bottoms = (1, None)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        axis = self.cut_axis(len(first))
        for shape in bottoms:
            if len(shape) != len(first) or any(a != b for i, (a, b) in enumerate(zip(shape, first, strict=True))
                                               if i != axis):
                raise self.node.error(f"bottoms agree on every axis but {axis}; found "
                                      + ", ".join(map(str, bottoms)))
        return [(*first[:axis], sum(shape[axis] for shape in bottoms), *first[axis + 1 :])]

    def cut_axis(self, ndim: int) -> int:
        """The axis along which blobs are put together, in [0, ndim)."""
        return self._axis_or_dim("concat_dim", ndim)

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return len(bottoms) == 1

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [concatenate(bottoms, self._axis_or_dim("concat_dim", bottoms[0].ndim), ctx.lowering)]


@built_in("Slice")
class Slice(Routing):
    """Cuts ``axis`` at the ``slice_point`` indices, or into equal parts. Source: Caffe 1.0, ``slice_layer.cpp``."""

    tops = (1, None)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x = bottoms[0]
        axis = self.cut_axis(len(x))
        ends = [*self._points(x[axis]), x[axis]]
        starts = [0, *ends[:-1]]
        return [(*x[:axis], end - start, *x[axis + 1 :]) for start, end in zip(starts, ends, strict=True)]

    def _points(self, size: int) -> list[int]:
        points, tops = list(self.p.slice_point), len(self.node.tops)
        if points:
            if len(points) != tops - 1:
                raise self.node.error(f"expected {tops - 1} slice_point for {tops} tops; found {len(points)}")
            if any(a >= b for a, b in zip([0, *points], [*points, size], strict=True)):
                raise self.node.error(f"slice_point increase from above 0 to below {size}; found {points}")
            return points
        if size % tops:
            raise self.node.error(f"an axis of {size} does not divide into {tops} equal tops; give slice_point")
        return [size // tops * i for i in range(1, tops)]

    def cut_axis(self, ndim: int) -> int:
        """The axis along which the blob is cut, in [0, ndim)."""
        return self._axis_or_dim("slice_dim", ndim)

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return len(self.node.tops) == 1

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        axis = self.cut_axis(x.ndim)
        return split(x, self._points(x.shape[axis]), axis, ctx.lowering)


@built_in("Split")
class Split(Routing):
    """The bottom, once for each top; gradients add up. Source: Caffe 1.0, ``split_layer.cpp``."""

    tops = (1, None)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * len(self.node.tops)

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return True

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return [bottoms[0]] * len(self.node.tops)


@built_in("Silence")
class Silence(Routing):
    """Takes blobs so that they are not outputs of the net. Source: Caffe 1.0, ``silence_layer.cpp``."""

    bottoms = (1, None)
    tops = (0, 0)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return []


@built_in("HDF5Output")
class HDF5Output(Routing):
    """Takes data and labels so that they are not outputs of the net; computes nothing.

    Shapes: two bottoms with one first axis (the batch). ``file_name`` says where whoever runs the net is to write
    them, as the data sets "data" and "label": a layer is a pure function and writes no file.
    Source: Caffe 1.0, ``hdf5_output_layer.cpp``.
    """

    bottoms = (2, 2)
    tops = (0, 0)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.p.file_name:
            raise self.node.error("expected a file_name; found none")
        a, b = bottoms
        if not a or not b or a[0] != b[0]:
            raise self.node.error(f"bottoms have one first axis (the batch); found {a} and {b}")
        return []

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        return []


@built_in("Eltwise")
class Eltwise(Layer):
    """Element-wise product, sum weighted by ``coeff``, or maximum of bottoms of one shape.

    MAX gives the gradient of a tie between the first two to the second, of later ties to the earlier, as
    Caffe on the CPU. ``stable_prod_grad: false`` only chose a faster, less exact gradient; it is ignored.
    Source: Caffe 1.0, ``eltwise_layer.cpp``.
    """

    bottoms = (2, None)
    arithmetic = "elementwise"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(shape != bottoms[0] for shape in bottoms):
            raise self.node.error(f"bottoms have one shape; found {', '.join(map(str, bottoms))}")
        coeff = self.p.coeff
        if coeff and len(coeff) != len(bottoms):
            raise self.node.error(f"expected as many coeff as bottoms ({len(bottoms)}); found {len(coeff)}")
        if coeff and self.p.operation == EltwiseParameter.PROD:
            raise self.node.error("coeff is for operation SUM; found PROD")
        return [bottoms[0]]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        if self.p.operation == EltwiseParameter.PROD:
            return [math.prod(bottoms[1:], start=bottoms[0])]
        if self.p.operation == EltwiseParameter.MAX:
            first = jnp.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
            return [reduce(lambda best, x: jnp.where(x > best, x, best), bottoms[2:], first)]
        coeff = self.p.coeff or [1.0] * len(bottoms)
        terms = [x if c == 1 else c * x for c, x in zip(coeff, bottoms, strict=True)]
        return [sum(terms[1:], start=terms[0])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        scaled = sum(c != 1 for c in self.p.coeff) if self.p.operation == EltwiseParameter.SUM else 0
        return math.prod(tops[0]) * (len(bottoms) - 1 + scaled)
