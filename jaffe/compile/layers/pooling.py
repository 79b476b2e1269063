"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.lowering import PoolGeometry, average_pool, max_places, max_pool, stochastic_pool
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
    Kernels of more than 2^20 cells that are not the whole image, and STOCHASTIC ones of more than 2^10, are refused.
    """

    tops = (1, 2)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.node.error(f"expected a blob of 4 axes (N, C, H, W); found {shape}")
        if len(self.node.tops) == 2 and self.p.pool != PoolingParameter.MAX:
            raise self.node.error(f"a second top (the mask) needs pool: MAX; found {self._method()}")
        geometry = self.geometry(shape)
        out = (geometry.out(shape[2], 0), geometry.out(shape[3], 1))
        most = 2**10 if self.p.pool == PoolingParameter.STOCHASTIC else 2**20
        if math.prod(geometry.kernel) > max(most, math.prod(shape[2:]) if most > 2**10 else 0):
            raise self.node.error(f"kernel {geometry.kernel} has {math.prod(geometry.kernel)} cells; "
                                  f"expected at most {most}")
        if min(out) <= 0:
            raise self.node.error(f"kernel {geometry.kernel} with pad {geometry.pad} does not fit an input "
                                  f"of {shape[2:]}")
        return [(*shape[:2], *out)] * len(self.node.tops)

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        geometry = self.geometry(x.shape)
        if self.p.pool == PoolingParameter.AVE:
            return [average_pool(x, geometry)]
        if self.p.pool == PoolingParameter.STOCHASTIC:
            return [stochastic_pool(x, geometry, ctx.key() if self.train else None)]
        largest = max_pool(x, geometry)
        return [largest] if len(self.node.tops) == 1 else [largest, max_places(x, geometry)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return math.prod(tops[0]) * math.prod(self.geometry(bottoms[0]).kernel)

    def geometry(self, shape: Shape) -> PoolGeometry:
        """Kernel, stride and pad for an input shape. Raises SpecError for fields that contradict each other."""
        p, error = self.p, self.node.error
        pair = (p.HasField("kernel_h"), p.HasField("kernel_w"))
        ceil = p.round_mode == PoolingParameter.CEIL
        stride = self._pair("stride", 1)
        pad = self._pair("pad", 0)
        if 0 in stride:
            raise error(f"stride is positive; found {stride}")
        if p.global_pooling:
            if p.HasField("kernel_size") or any(pair):
                raise error("global_pooling takes the whole image; expected no kernel size, found one")
            if pad != (0, 0) or stride != (1, 1):
                raise error(f"global_pooling needs pad 0 and stride 1; found {pad} and {stride}")
            return PoolGeometry((shape[2], shape[3]), (1, 1), (0, 0), ceil)
        if p.HasField("kernel_size") == any(pair) or (any(pair) and not all(pair)):
            raise error("expected kernel_size, or both kernel_h and kernel_w; found "
                        + ("neither" if not any(pair) and not p.HasField("kernel_size") else
                           "one of kernel_h and kernel_w" if not p.HasField("kernel_size") else "both ways"))
        kernel = (p.kernel_h, p.kernel_w) if all(pair) else (p.kernel_size, p.kernel_size)
        if 0 in kernel:
            raise error(f"kernel size is positive; found {kernel}")
        if pad != (0, 0) and p.pool == PoolingParameter.STOCHASTIC:
            raise error(f"padding is for MAX and AVE pooling; found pad {pad} with STOCHASTIC")
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            raise error(f"pad is smaller than the kernel; found pad {pad}, kernel {kernel}")
        return PoolGeometry(kernel, stride, pad, ceil)

    def _method(self) -> str:
        return PoolingParameter.PoolMethod.Name(self.p.pool)

    def _pair(self, field: str, default: int) -> tuple[int, int]:
        p = self.p
        given = [name for name in (f"{field}_h", f"{field}_w") if p.HasField(name)]
        if not given:
            value = getattr(p, field) if p.HasField(field) else default
            return value, value
        if p.HasField(field):
            raise self.node.error(f"expected {field}, or {field}_h and {field}_w; found both")
        if len(given) == 1 and field == "stride":
            raise self.node.error(f"expected stride_h and stride_w; found {given[0]} only")
        return getattr(p, f"{field}_h"), getattr(p, f"{field}_w")
