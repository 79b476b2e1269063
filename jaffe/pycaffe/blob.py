"""The blobs of a net: arrays that scripts write to and that jitted functions compute with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Shape
from jaffe.compile.pycaffe import Blob, as_shape
from jaffe.netdef.errors import JaffeError
from jaffe.pycaffe.runtime import chosen_device


class Buffer:
    """An array of float32 that a script may read and write whenever it likes, and that lives on the device meanwhile.

    ``host`` gives it to the script, ``device`` to JAX, each with what the other has written. A value goes over only
    when it is asked for. An array that the script still holds, or of which it holds a part, has every new value at
    once, as memory that Caffe and the script share would; CPython's count of references tells.

    Args:
        fill: what the array is full of at first; or a function that makes it when it is first asked for.
    """

    def __init__(self, shape: Shape, fill: float | Callable[[], Any] = 0.0):
        self.shape = shape
        self._fill = fill
        self._host: np.ndarray | None = None
        self._device: jax.Array | None = None
        self._written = False  # the script may have written to the host's array since it was last read

    @property
    def held(self) -> bool:
        """Whether the script holds the array, or a view of it."""
        return self._host is not None and sys.getrefcount(self._host) > _ALONE

    def host(self) -> np.ndarray:
        """The array on the host, to read and to write."""
        if self._host is None:
            self._host = np.empty(self.shape, np.float32)  # not a view: what the script slices refers to this array
            self._host[...] = self._first() if self._device is None else self._device
        self._written = True
        return self._host

    def device(self) -> jax.Array:
        """The array on the device, the same object as long as nobody may have written to it."""
        if self._host is not None and self._written:
            self._device = jax.device_put(self._host.copy(), chosen_device())  # a copy: the script may write on
            self._written = self.held
        elif self._device is None:
            self._device = jnp.asarray(self._first(), jnp.float32)
        wanted = chosen_device()
        if wanted is not None and self._device.devices() != {wanted}:
            self._device = jax.device_put(self._device, wanted)
        return self._device

    def set(self, value: jax.Array) -> None:
        """Give it another value, of any shape."""
        if self.held and value.shape == self.shape:
            np.copyto(self.host(), np.asarray(value))
        else:
            self._host = None
        self.shape, self._device = value.shape, value
        self._forget()

    def reset(self, shape: Shape) -> None:
        """Give it another shape, and its first value."""
        self.shape, self._host, self._device = shape, None, None

    def clear(self) -> None:
        """Set it to 0."""
        self.set(jnp.zeros(self.shape, jnp.float32))

    def _first(self) -> Any:
        if not callable(self._fill):
            return np.full(self.shape, self._fill, np.float32)
        made = self._fill()
        self._forget()
        return made

    def _forget(self) -> None:
        """Let go of what makes the first value: it holds those of all parameters."""
        if callable(self._fill):
            self._fill = 0.0


def _alone() -> int:
    """What ``sys.getrefcount`` says of an array that nobody but its buffer holds."""
    buffer = Buffer(())
    buffer.host()
    return sys.getrefcount(buffer._host)


_ALONE = _alone()


class NetBlob(Blob):
    """A blob of a net.

    ``data`` and ``diff`` are NumPy arrays of float32. What is written to them counts in the net's next call, and an
    array or view that is kept shows the values of the calls that follow, as in pycaffe.

    Args:
        fill: what the data are full of at first.
        loss_weight: what the diff is full of at first.
        settle: called before the data (False) or the diff (True) are given out.
    """

    def __init__(
        self, shape: Shape, fill: float = 0.0, loss_weight: float = 0.0,
        settle: Callable[[bool], None] = lambda diff: None,
    ):
        self.values = Buffer(shape, fill)
        self._gradient = Buffer(shape, loss_weight)
        self._settle = settle

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self.values.shape

    @property
    def gradient(self) -> Buffer:
        """The buffer of the diff, which has the shape of the data."""
        if self._gradient.shape != self.shape:
            self._gradient.reset(self.shape)
        return self._gradient

    @property
    def data(self) -> np.ndarray:
        """Values; write with ``blob.data[...] = x``."""
        self._settle(False)
        return self.values.host().view()

    @property
    def diff(self) -> np.ndarray:
        """Gradient, zero at first, or the loss weight of a loss; write with ``blob.diff[...] = x``."""
        self._settle(True)
        return self.gradient.host().view()

    def reshape(self, *dims: int) -> None:
        """Give it another shape; the values start anew then. ``net.reshape()`` and ``net.forward()`` give the blobs
        that are computed of it theirs.

        Raises:
            JaffeError: a size is not positive.
        """
        try:
            shape = as_shape(dims)
        except (TypeError, ValueError):
            raise JaffeError(f"a blob is reshaped to whole numbers of 1 and above; received {dims}") from None
        if shape != self.shape:
            self.values.reset(shape)


class ParamBlob(Blob):
    """A parameter of a net, or a part of its state such as BatchNorm's mean.

    ``data`` and ``diff`` are as those of a ``NetBlob``; the diffs of several calls of ``backward`` add up.

    Args:
        shape: as this layer sees it; a layer that it shares the values with may see them in another.
    """

    def __init__(self, shape: Shape, values: Buffer, gradient: Buffer):
        self._shape = shape
        self.values = values
        self.gradient = gradient

    def share(self, other: ParamBlob) -> None:
        """Use the values and the gradient of another one from now on."""
        self.values, self.gradient = other.values, other.gradient

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self._shape

    @property
    def data(self) -> np.ndarray:
        """Values; write with ``blob.data[...] = x``."""
        return self.values.host().reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """Gradient, zero at first; write with ``blob.diff[...] = x``."""
        return self.gradient.host().reshape(self._shape)

    def reshape(self, *dims: int) -> None:
        """Raises JaffeError for another shape than its own: it is the layer's."""
        if tuple(dims) != self._shape:
            raise JaffeError(f"a parameter's shape is its layer's, {self._shape}; received {dims}; change the net's "
                             "declaration instead")
