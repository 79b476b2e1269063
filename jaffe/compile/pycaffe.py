"""What the code of a Python layer works with, as in pycaffe: blobs, and the class that it derives from."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaffe.compile.layer import Shape


class Blob:
    """What a Python layer reads and writes: ``data`` and ``diff``, NumPy arrays of one shape, as in pycaffe."""

    def __init__(self, data: np.ndarray):
        self._set(data)

    def _set(self, data: np.ndarray) -> None:
        self._data = data
        self._diff = np.zeros_like(data)

    @property
    def data(self) -> np.ndarray:
        """Values; write with ``blob.data[...] = x``."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """Gradient, zero at first; write with ``blob.diff[...] = x``."""
        return self._diff

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """Size of axis 0."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3."""
        return self._legacy(3)

    def reshape(self, *dims: int) -> None:
        """Give it another shape; the values are zero then, unless the shape is the one that it has."""
        shape = as_shape(dims)
        if shape != self.shape:
            self._set(np.zeros(shape, self._data.dtype))

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > 4:
            raise ValueError(f"num, channels, height and width are of blobs of at most 4 axes; this has {self.shape}")
        return self.shape[axis] if axis < len(self.shape) else 1


def as_shape(dims: Sequence[Any]) -> Shape:
    """The sizes of ``Blob.reshape(*dims)``. Raises ValueError when one is not positive, TypeError when it is none."""
    shape = tuple(operator.index(dim) for dim in dims)
    if any(dim < 1 for dim in shape):
        raise ValueError(f"sizes are positive; received {shape}")
    return shape


class Blobs(list[Blob]):
    """The learned parameters of a Python layer: ``self.blobs``."""

    def __init__(self, dtype: Any):
        super().__init__()
        self.dtype = dtype

    def add_blob(self, *dims: int) -> None:
        """Another parameter of this shape. It starts with what is written to its ``data`` then, else 0."""
        self.append(Blob(np.zeros(dims, self.dtype)))


class PythonLayer:
    """Base of the classes that a net's Python layers name, in place of ``caffe.Layer``.

    >>> class Twice(PythonLayer):
    ...     def reshape(self, bottom, top):
    ...         top[0].reshape(*bottom[0].shape)
    ...     def forward(self, bottom, top):
    ...         top[0].data[...] = 2 * bottom[0].data
    ...     def backward(self, top, propagate_down, bottom):
    ...         bottom[0].diff[...] = 2 * top[0].diff

    In prototxt: ``layer { type: "Python" bottom: "x" top: "y" python_param { module: "mine" layer: "Twice" } }``;
    and ``compile_net(net, python_modules=["mine"])``.

    Every call of the net makes a fresh object and calls ``setup``, ``reshape`` and ``forward``; the backward pass
    makes another, and calls ``backward`` after these three. So nothing is left from one call to the next, and what
    ``setup`` does, it does often: read large files when the module is imported instead. The generators of
    ``np.random`` and ``random`` are seeded before ``setup``, alike in both passes: what is drawn in ``forward`` is
    drawn again before ``backward``. The seed comes from the key that the net is called with, else from the layer's
    name; it is the name's, too, where ``setup`` draws what parameters start with.

    Attributes:
        param_str: text of ``python_param``.
        phase: 0 in TRAIN, 1 in TEST.
        blobs: learned parameters; ``self.blobs.add_blob(*dims)`` in ``setup`` adds one, or in the first ``reshape``.
    """

    param_str: str = ""
    phase: int = 1
    blobs: Blobs

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read ``param_str``, check the blobs, add parameters."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes. These depend on the bottoms' shapes, not on their values."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' ``data``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Write ``diff`` of the bottoms that ``propagate_down`` asks for, and of ``self.blobs``."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")
