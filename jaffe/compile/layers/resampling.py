"""Interp and Upsample: planes made larger or smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.compile.lowering import interpolate, repeat, unpool


@built_in("Interp")
class Interp(Layer):
    """Bilinear interpolation with the corner cells on the corner cells.

    Shapes: (N, C, H, W) -> (N, C, oh, ow). ``pad_beg`` and ``pad_end`` are 0 or negative: so many cells are cut off
    both axes before; h = H + pad_beg + pad_end is left. The size is given in one way of these:
    ``shrink_factor``: ``oh = (h - 1) // shrink + 1``; ``zoom_factor``: ``oh = (h - 1) zoom + 1``; both, one after the
    other; ``height`` and ``width``; or that of a second bottom, (N, C, oh, ow), whose values are not read.
    ``y[p, q] = x(p (h - 1) / (oh - 1), q (w - 1) / (ow - 1))``; an output of one cell is the first one.
    Source: DeepLab's and PSPNet's Caffe, ``interp_layer.cpp``, ``interp.cpp``; the second bottom: forks of those.
    An infinite or NaN value spreads over its row and column.
    """

    bottoms = (1, 2)
    constant_bottoms = (1,)
    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(len(shape) != 4 for shape in bottoms):
            raise self.node.error(f"expected blobs of 4 axes (N, C, H, W); found {', '.join(map(str, bottoms))}")
        p = self.p
        if p.pad_beg > 0 or p.pad_end > 0:
            raise self.node.error(f"pad_beg and pad_end crop: expected 0 or less; found {p.pad_beg} and {p.pad_end}")
        if min(self._cropped(bottoms[0])) < 1:
            raise self.node.error(f"pad_beg {p.pad_beg} and pad_end {p.pad_end} leave nothing of {bottoms[0][2:]}")
        out = self._size(bottoms)
        if min(out) < 1:
            raise self.node.error(f"expected a height and width above 0; found {out}")
        return [(*bottoms[0][:2], *out)]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        start, (height, width) = -self.p.pad_beg, self._cropped(x.shape)
        x = x[:, :, start : start + height, start : start + width]
        out = self._size([bottom.shape for bottom in bottoms])
        return [x if out == (height, width) else interpolate(x, *out)]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 8 * math.prod(tops[0])

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        return not self.p.pad_beg and not self.p.pad_end and self._size(bottoms) == bottoms[0][2:]

    def _cropped(self, shape: Shape) -> tuple[int, int]:
        taken = self.p.pad_beg + self.p.pad_end
        return shape[2] + taken, shape[3] + taken

    def _size(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        p = self.p
        factors = p.HasField("shrink_factor") or p.HasField("zoom_factor")
        sides = [name for name in ("height", "width") if p.HasField(name)]
        ways = ["a second bottom"] * (len(bottoms) == 2) + ["height and width"] * bool(sides)
        ways += ["shrink_factor or zoom_factor"] * factors
        if len(ways) != 1:
            raise self.node.error("expected the size as height and width, shrink_factor, zoom_factor or a second "
                                  f"bottom; found {' and '.join(ways) or 'none'}")
        if len(bottoms) == 2:
            return bottoms[1][2], bottoms[1][3]
        if sides:
            if len(sides) == 1:
                raise self.node.error(f"expected height and width; found {sides[0]} only")
            return p.height, p.width
        if p.shrink_factor < 1 or p.zoom_factor < 1:
            raise self.node.error(f"shrink_factor and zoom_factor are positive; found {p.shrink_factor} "
                                  f"and {p.zoom_factor}")
        height, width = ((n - 1) // p.shrink_factor * p.zoom_factor + 1 for n in self._cropped(bottoms[0]))
        return height, width


@built_in("Upsample")
class Upsample(Layer):
    """The way back from max pooling, with its mask; or nearest neighbour, without.

    Shapes: (N, C, H, W) -> (N, C, oh, ow); ``oh`` is ``upsample_h``, or ``H scale_h - pad_out_h``. ``scale`` (2) stands
    for scale_h and scale_w; beside ``upsample_h``, as in SegNet's nets, it is not read. ``pad_out_h: true`` takes 1
    off, and needs scale_h 2.
    Two bottoms, x and the mask that a Pooling layer's second top gave, ``h * ow + w``: each x goes to its place, and
    zeros stand elsewhere. Of several x for one place (windows that overlapped) the last counts, and has the gradient.
    One bottom: ``y[p, q] = x[p // scale_h, q // scale_w]``.
    Source: ``upsample_layer.cpp`` of github.com/alexgkendall/caffe-segnet (two bottoms) and of
    github.com/eric612/MobileNet-YOLO (one). SegNet's gives a gradient to every x of a place. A place outside the
    output, which it refuses while running, makes its plane NaN.
    """

    bottoms = (1, 2)
    constant_bottoms = (1,)
    arithmetic = "elementwise"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, error = bottoms[0], self.node.error
        if len(x) != 4:
            raise error(f"expected a blob of 4 axes (N, C, H, W); found {x}")
        if len(bottoms) == 2 and bottoms[1] != x:
            raise error(f"expected a mask of the shape of the bottom, {x}; found {bottoms[1]}")
        return [(*x[:2], *self._size(x, len(bottoms)))]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        x = bottoms[0]
        height, width = self._size(x.shape, len(bottoms))
        if len(bottoms) == 2:
            return [unpool(x, bottoms[1], height, width)]
        return [repeat(x, height // x.shape[2], width // x.shape[3])]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0

    def _size(self, x: Shape, bottoms: int) -> tuple[int, int]:
        p, error = self.p, self.node.error
        for pair in (("upsample_h", "upsample_w"), ("scale_h", "scale_w")):
            given = [name for name in pair if p.HasField(name)]
            if len(given) == 1:
                raise error(f"expected {' and '.join(pair)}; found {given[0]} only")
        stated = [field.name for field, _ in p.ListFields()]
        scales = [name for name in ("scale", "scale_h") if name in stated]
        if len(scales) == 2:
            raise error("expected scale, or scale_h and scale_w; found both")
        sized = [name for name in ("upsample_h", "pad_out_h", "pad_out_w") if name in stated]
        if sized and bottoms == 1:
            raise error(f"{sized[0]} is for a bottom with a mask; found one bottom")
        if "upsample_h" in stated:
            others = [name for name in ("scale_h", "pad_out_h", "pad_out_w") if name in stated]
            if others:
                raise error(f"expected upsample_h and upsample_w, or {others[0]}; found both")
            sizes = (p.upsample_h, p.upsample_w)
        else:
            scale = (p.scale_h, p.scale_w) if "scale_h" in stated else (p.scale, p.scale)
            for name, padded, one in (("h", p.pad_out_h, scale[0]), ("w", p.pad_out_w, scale[1])):
                if padded and one != 2:
                    raise error(f"pad_out_{name} needs a scale of 2; found {one}")
            sizes = (x[2] * scale[0] - p.pad_out_h, x[3] * scale[1] - p.pad_out_w)
        if min(sizes) < 1:
            raise error(f"expected an output of at least 1 by 1; found {sizes}")
        return sizes
