"""Correlation of two maps over displacements (FlowNet)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.layer import MOST_VALUES, Array, Context, Layer, Shape, built_in
from jaffe.netdef.jaffe_pb2 import CorrelationParameter


@built_in("Correlation")
class Correlation(Layer):
    """Likeness of patches of one map with displaced patches of another: their mean product over k x k x C values.

    Shapes: two maps (N, C, H, W) -> (N, D^2, oh, ow), ``D = 2 floor(max_displacement / stride_2) + 1``,
    ``o = ceil((in + 2 pad - 2 border) / stride_1)``, ``border = max_displacement + (kernel_size - 1) / 2``. Channel
    ``i D + j`` displaces by i rows and j columns times ``stride_2``, counted from the middle. Around both maps are
    ``pad`` zeros; patches stand ``stride_1`` apart. ``correlation_type: SUBTRACT`` takes absolute differences in
    place of products. Source: FlowNet's ``correlation_layer.cu``.
    """

    bottoms = (2, 2)
    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        p, error = self.p, self.node.error
        if len(bottoms[0]) != 4 or bottoms[0] != bottoms[1]:
            raise error(f"expected two maps of one shape (N, C, H, W); found {bottoms[0]} and {bottoms[1]}")
        if p.kernel_size % 2 == 0:
            raise error(f"kernel_size is odd; found {p.kernel_size}")
        if not p.HasField("max_displacement"):
            raise error("expected max_displacement; found none")
        if 0 in (p.stride_1, p.stride_2):
            raise error(f"stride_1 and stride_2 are positive; found {p.stride_1} and {p.stride_2}")
        if p.do_abs or p.single_direction:
            raise error("do_abs and single_direction are not implemented; expected neither")
        out = self._out(bottoms[0])
        if min(out) <= 0:
            raise error(f"kernel_size {p.kernel_size} and max_displacement {p.max_displacement} with pad {p.pad} do "
                        f"not fit an input of {bottoms[0][2:]}")
        padded = (*bottoms[0][:2], *(size + 2 * p.pad for size in bottoms[0][2:]))
        if math.prod(padded) > MOST_VALUES:
            raise error(f"pad {p.pad} makes maps of {math.prod(padded)} values; expected at most {MOST_VALUES}")
        return [(bottoms[0][0], (2 * self._most() + 1) ** 2, *out)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        p = self.p
        still, moving = (jnp.pad(x, [(0, 0), (0, 0), (p.pad, p.pad), (p.pad, p.pad)]) for x in bottoms)
        spans = [(size - 1) * p.stride_1 + p.kernel_size for size in self._out(bottoms[0].shape)]
        window = (*still.shape[:2], *spans)
        still = lax.dynamic_slice(still, (0, 0, p.max_displacement, p.max_displacement), window)

        starts = jnp.asarray(self.starts())

        @jax.checkpoint
        def displaced(channel: Array) -> Array:
            """(N, oh, ow) for one displacement."""
            row, column = starts[channel // len(starts)], starts[channel % len(starts)]
            other = lax.dynamic_slice(moving, (0, 0, row, column), window)
            multiply = p.correlation_type == CorrelationParameter.MULTIPLY
            alike = (still * other if multiply else jnp.abs(still - other)).sum(1)
            kernel, strides = (1, p.kernel_size, p.kernel_size), (1, p.stride_1, p.stride_1)
            return lax.reduce_window(alike, np.zeros((), alike.dtype)[()], lax.add, kernel, strides, "VALID")

        every = lax.map(displaced, jnp.arange(len(starts) ** 2))
        return [every.swapaxes(0, 1) / (p.kernel_size**2 * window[1])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 2 * math.prod(tops[0]) * self.p.kernel_size**2 * bottoms[0][1]

    def starts(self) -> np.ndarray:
        """Where the displaced map begins along an axis, for each displacement."""
        return self.p.max_displacement + self.p.stride_2 * np.arange(-self._most(), self._most() + 1)

    def _most(self) -> int:
        """The largest displacement along an axis, in steps."""
        return int(self.p.max_displacement // self.p.stride_2)

    def _out(self, shape: Shape) -> list[int]:
        """Height and width of the top."""
        p = self.p
        border = p.max_displacement + p.kernel_size // 2
        return [-((2 * border - 2 * p.pad - size) // p.stride_1) for size in shape[2:]]
