"""Pooling and SPP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaffe.compile.layer import Arithmetic, Array, Context, Layer, Shape, built_in
from jaffe.compile.layers.windows import shown, side_pads
from jaffe.compile.lowering import Lowering, PoolGeometry, average_pool, max_places, max_pool, stochastic_pool
from jaffe.compile.lowering.candidates import Pass
from jaffe.compile.lowering.pooling import pooling_way
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import PoolingParameter


@built_in("Pooling")
class Pooling(Layer):
    """Maximum, average or random choice over windows.

    Shapes: (N, C, H, W) -> (N, C, oh, ow), ``o = ceil((in + 2 pad - kernel) / stride) + 1`` (``round_mode:
    FLOOR`` rounds down); with padding, a last window that starts beyond ``in + pad`` is dropped.
    MAX: the gradient goes to the first of equal maxima. A second top gives its place, ``h * W + w``.
    AVE: the divisor counts padding, but not what hangs over beyond it.
    STOCHASTIC: see ``stochastic_pool``; Caffe has it on the GPU only.
    ``global_pooling`` takes the whole image as the one window.
    Source: Caffe 1.0, ``pooling_layer.cpp``. A window without any cell (stride > kernel at the border)
    averages to 0 here, where Caffe divides 0 by 0; its maximum is -inf, in Caffe the least float32.
    A NaN in a window is its maximum, and the first NaN's place is given; in Caffe a NaN is never a maximum.
    Kernels of more than 2^20 cells that are not the whole image, and STOCHASTIC ones of more than 2^10, are refused.

    Of forks: ``ceil_mode: false`` is ``round_mode: FLOOR``. ``pad_t``, ``pad_b``, ``pad_l``, ``pad_r`` pad each side on
    its own: 2 pad is their sum, a last window is dropped when it starts beyond ``in`` + the padding before, and the
    divisor counts up to ``in`` + the padding after. (N, C, D, H, W) pools over volumes by the same rules:
    ``kernel_size``, ``stride`` and ``pad`` hold for all three axes unless ``kernel_d``, ``stride_d``, ``pad_d`` say
    other of the depth; places are ``(d * H + h) * W + w``.
    """

    tops = (1, 2)
    constant_tops = (1,)

    def __init__(self, node: Node):
        super().__init__(node)
        self.arithmetic = _arithmetic(self.p.pool)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) not in (4, 5):
            raise self.node.error(f"expected a blob of 4 axes (N, C, H, W) or 5 (N, C, D, H, W); found {shape}")
        if len(self.node.tops) == 2 and self.p.pool != PoolingParameter.MAX:
            raise self.node.error(f"a second top (the mask) needs pool: MAX; found {self._method()}")
        geometry = self.geometry(shape)
        out = geometry.outs(shape[2:])
        most = 2**10 if self.p.pool == PoolingParameter.STOCHASTIC else 2**20
        if math.prod(geometry.kernel) > max(most, math.prod(shape[2:]) if most > 2**10 else 0):
            raise self.node.error(f"kernel {geometry.kernel} has {math.prod(geometry.kernel)} cells; "
                                  f"expected at most {most}")
        if min(out) <= 0:
            raise self.node.error(f"kernel {geometry.kernel} with pad {shown(geometry.pad)} does not fit an input "
                                  f"of {shape[2:]}")
        return [(*shape[:2], *out)] * len(self.node.tops)

    @property
    def random(self) -> bool:
        return self.train and self.p.pool == PoolingParameter.STOCHASTIC

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        geometry = self.geometry(x.shape)
        key = ctx.key() if self.random else None
        pooled = _pool(x, geometry, self.p.pool, key, ctx.lowering)
        return [pooled] if len(self.node.tops) == 1 else [pooled, max_places(x, geometry)]

    def channelwise(self, axis: int) -> bool:
        return axis == 1 and len(self.node.tops) == 1

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        return self.p.pool != PoolingParameter.STOCHASTIC

    def lowered(self, bottoms: Sequence[Shape], lowering: Lowering, dtype: Any) -> Mapping[Pass, str]:
        if self.p.pool == PoolingParameter.STOCHASTIC:
            return {}
        which: tuple[Pass, ...] = ("forward", "input")
        sums = self.p.pool == PoolingParameter.AVE
        return dict.fromkeys(which, pooling_way(self.geometry(bottoms[0]), lowering, sums=sums))

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * math.prod(self.geometry(bottoms[0]).kernel)

    def geometry(self, shape: Shape) -> PoolGeometry:
        """Kernel, stride and pad for an input shape. Raises SpecError for fields that contradict each other."""
        p, error, spatial = self.p, self.node.error, len(shape) - 2
        deep = [name for name in ("kernel_d", "stride_d", "pad_d") if p.HasField(name)]
        if deep and spatial != 3:
            raise error(f"{deep[0]} is for blobs of 5 axes (N, C, D, H, W); found {shape}")
        stride = self._per_axis("stride", spatial, 1)
        pad = side_pads(self, spatial) or tuple((one, one) for one in self._per_axis("pad", spatial, 0))
        if 0 in stride:
            raise error(f"stride is positive; found {stride}")
        if p.global_pooling:
            if any(p.HasField(name) for name in ("kernel_size", "kernel_d", "kernel_h", "kernel_w")):
                raise error("global_pooling takes the whole image; expected no kernel size, found one")
            if any(map(any, pad)) or set(stride) != {1}:
                raise error(f"global_pooling needs pad 0 and stride 1; found {shown(pad)} and {stride}")
            return PoolGeometry(shape[2:], stride, pad, self._ceil())
        kernel = self._kernel(spatial)
        if 0 in kernel:
            raise error(f"kernel size is positive; found {kernel}")
        if any(map(any, pad)) and p.pool == PoolingParameter.STOCHASTIC:
            raise error(f"padding is for MAX and AVE pooling; found pad {shown(pad)} with STOCHASTIC")
        if any(max(sides) >= size for sides, size in zip(pad, kernel, strict=True)):
            raise error(f"pad is smaller than the kernel; found pad {shown(pad)}, kernel {kernel}")
        return PoolGeometry(kernel, stride, pad, self._ceil())

    def _method(self) -> str:
        return PoolingParameter.PoolMethod.Name(self.p.pool)

    def _ceil(self) -> bool:
        p = self.p
        rounds_up = p.round_mode == PoolingParameter.CEIL
        if not p.HasField("ceil_mode"):
            return bool(rounds_up)
        if p.HasField("round_mode") and p.ceil_mode != rounds_up:
            raise self.node.error(f"round_mode {PoolingParameter.RoundMode.Name(p.round_mode)} contradicts "
                                  f"ceil_mode {str(p.ceil_mode).lower()}; expected one of them")
        return bool(p.ceil_mode)

    def _kernel(self, spatial: int) -> tuple[int, ...]:
        p, error = self.p, self.node.error
        pair = (p.HasField("kernel_h"), p.HasField("kernel_w"))
        if p.HasField("kernel_size") == any(pair) or (any(pair) and not all(pair)):
            raise error("expected kernel_size, or both kernel_h and kernel_w; found "
                        + ("neither" if not any(pair) and not p.HasField("kernel_size") else
                           "one of kernel_h and kernel_w" if not p.HasField("kernel_size") else "both ways"))
        plane = (p.kernel_h, p.kernel_w) if all(pair) else (p.kernel_size, p.kernel_size)
        if spatial == 2:
            return plane
        if all(pair) and not p.HasField("kernel_d"):
            raise error("expected kernel_d beside kernel_h and kernel_w; found none")
        return (p.kernel_d if p.HasField("kernel_d") else p.kernel_size, *plane)

    def _per_axis(self, field: str, spatial: int, default: int) -> tuple[int, ...]:
        p = self.p
        given = [name for name in (f"{field}_h", f"{field}_w") if p.HasField(name)]
        depth = getattr(p, f"{field}_d") if p.HasField(f"{field}_d") else None
        if not given:
            value = getattr(p, field) if p.HasField(field) else default
            return (value, value) if spatial == 2 else (value if depth is None else depth, value, value)
        if p.HasField(field):
            raise self.node.error(f"expected {field}, or {field}_h and {field}_w; found both")
        if len(given) == 1 and field == "stride":
            raise self.node.error(f"expected stride_h and stride_w; found {given[0]} only")
        plane = getattr(p, f"{field}_h"), getattr(p, f"{field}_w")
        if spatial == 2:
            return plane
        if depth is None and field == "stride":
            raise self.node.error("expected stride_d beside stride_h and stride_w; found none")
        return (depth or 0, *plane)


@built_in("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: level l pools into 2^l by 2^l bins, and the levels follow each other.

    Shapes: (N, C, H, W) -> (N, C * (1 + 4 + ... + 4^(pyramid_height - 1))), level by level, each as its blob (C, bins,
    bins) flattened; with ``pyramid_height: 1`` the pooled blob itself, (N, C, 1, 1).
    An axis of n cells in b bins has ``kernel = stride = ceil(n / b)`` and ``pad = floor((kernel b - n + 1) / 2)``.
    Source: He et al. 2014; Caffe 1.0, ``spp_layer.cpp``. A pad must be smaller than its kernel, as there: 5 cells do
    not go into 4 bins. ``engine`` is ignored.
    """

    def __init__(self, node: Node):
        super().__init__(node)
        self.arithmetic = _arithmetic(self.p.pool)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.node.error(f"expected a blob of 4 axes (N, C, H, W); found {shape}")
        if not 1 <= self.p.pyramid_height <= 16:
            raise self.node.error(f"expected a pyramid_height from 1 to 16; found {self.p.pyramid_height or 'none'}")
        for level, geometry in enumerate(self.levels(shape)):
            pad = shown(geometry.pad)
            if any(p >= k for p, k in zip(pad, geometry.kernel, strict=True)):
                raise self.node.error(f"{2**level} bins on each axis of {shape[2:]} need kernel {geometry.kernel} and "
                                      f"pad {pad}; expected pads smaller than the kernel")
            if any(pad) and self.p.pool == PoolingParameter.STOCHASTIC:
                raise self.node.error(f"padding is for MAX and AVE pooling; found pad {pad} with STOCHASTIC")
        if self.p.pyramid_height == 1:
            return [(*shape[:2], 1, 1)]
        return [(shape[0], shape[1] * sum(4**level for level in range(self.p.pyramid_height)))]

    @property
    def random(self) -> bool:
        return self.train and self.p.pool == PoolingParameter.STOCHASTIC

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        key = ctx.key() if self.random else None
        pooled = [
            _pool(x, geometry, self.p.pool, None if key is None else jax.random.fold_in(key, level), ctx.lowering)
            for level, geometry in enumerate(self.levels(x.shape))
        ]
        if len(pooled) == 1:
            return pooled
        return [jnp.concatenate([level.reshape(x.shape[0], -1) for level in pooled], 1)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        cells = sum(4**level * math.prod(one.kernel) for level, one in enumerate(self.levels(bottoms[0])))
        return math.prod(bottoms[0][:2]) * cells

    def levels(self, shape: Shape) -> list[PoolGeometry]:
        """The pooling of each level."""
        geometries = []
        for level in range(self.p.pyramid_height):
            kernel = tuple(-(-size // 2**level) for size in shape[2:])
            pads = ((k * 2**level - size + 1) // 2 for k, size in zip(kernel, shape[2:], strict=True))
            geometries.append(PoolGeometry(kernel, kernel, tuple((pad, pad) for pad in pads)))
        return geometries


def _arithmetic(method: int) -> Arithmetic:
    return "elementwise" if method == PoolingParameter.MAX else "sums"


def _pool(x: Array, geometry: PoolGeometry, method: int, key: Array | None, lowering: Lowering) -> Array:
    """One way of pooling; the enum of ``spp_param`` has the numbers of ``pooling_param``'s."""
    if method == PoolingParameter.AVE:
        return average_pool(x, geometry, lowering)
    if method == PoolingParameter.STOCHASTIC:
        return stochastic_pool(x, geometry, key)
    return max_pool(x, geometry, lowering)
