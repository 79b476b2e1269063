"""Layers without bottoms: the net's inputs, and DummyData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax

from jaffe.compile.fillers import check, fill
from jaffe.compile.layer import Array, Context, Layer, Shape, built_in
from jaffe.netdef.jaffe_pb2 import FillerParameter


class Source(Layer):
    """A layer whose tops are fed from outside. ``declared`` gives what shapes the net itself states."""

    bottoms = (0, 0)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    source = True

    def declared(self) -> list[Shape | None]:
        """One shape a top, ``None`` where only the data can tell."""
        return [None] * len(self.node.tops)

    @property
    def batch(self) -> int:
        """Items in a batch, as declared; 0 when the net does not say."""
        return 0

    @property
    def transformed(self) -> bool:
        """Whether ``transform_param`` is what is done to the records of its first top."""
        return self.node.proto.HasField("transform_param")

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0


@built_in("Input")
class Input(Source):
    """Inputs of the net, shaped by ``input_param.shape``: none, one for all tops, or one each.

    Source: Caffe 1.0, ``input_layer.cpp``.
    """

    def declared(self) -> list[Shape | None]:
        shapes: list[Shape | None] = [tuple(shape.dim) for shape in self.p.shape]
        tops = len(self.node.tops)
        if len(shapes) not in (0, 1, tops):
            raise self.node.error(f"expected no shape, one, or one for each of {tops} tops; found {len(shapes)}")
        for shape in shapes:
            if any(size < 1 for size in shape or ()):
                raise self.node.error(f"sizes are positive; found {shape}")
        return shapes * tops if len(shapes) == 1 else shapes or [None] * tops


@built_in("MemoryData")
class MemoryData(Source):
    """Images and labels from memory: data (batch_size, channels, height, width) and label (batch_size).

    Source: Caffe 1.0, ``memory_data_layer.cpp``.
    """

    tops = (2, 2)

    @property
    def batch(self) -> int:
        return self.p.batch_size

    def declared(self) -> list[Shape | None]:
        shape = (self.p.batch_size, self.p.channels, self.p.height, self.p.width)
        if 0 in shape:
            raise self.node.error(f"batch_size, channels, height and width are positive; found {shape}")
        shapes: list[Shape | None] = [shape, (self.p.batch_size,)]
        return shapes


class _Stored(Source):
    """Data in files: the net states the batch size, the files state the rest."""

    @property
    def batch(self) -> int:
        return self.p.batch_size

    def declared(self) -> list[Shape | None]:
        if not self.batch:
            raise self.node.error("expected batch_size > 0; found none")
        shapes: list[Shape | None] = [None, (self.batch, *self.label_item())]
        return shapes[: len(self.node.tops)]

    def label_item(self) -> Shape:
        """The shape of one record's label."""
        return ()


@built_in("Data")
class Data(_Stored):
    """Records of an LMDB or LevelDB: images, and labels when there are two tops.

    In a compiled net its tops are inputs; ``jaffe.Solver`` reads the database and applies ``transform_param``, and
    ``sampling_param``, jaffe's own: ``cap`` is the most records of a class that training takes, ``balance`` has it take
    every class as often. ``rand_skip`` and ``force_encoded_color`` are ignored, as in Caffe.
    """

    tops = (1, 2)


@built_in("ImageData")
class ImageData(_Stored):
    """Images of a list of files, and labels. In a compiled net its tops are inputs.

    ``num_labels`` above 1, jaffe's own, is for several numbers at the end of a line of the list: labels
    (N, num_labels).
    """

    tops = (2, 2)

    def label_item(self) -> Shape:
        return (self.p.num_labels,) if self.p.num_labels > 1 else ()


@built_in("WindowData")
class WindowData(_Stored):
    """Windows of images, and labels: background ones first, then ``fg_fraction`` of foreground, drawn with replacement.

    In a compiled net its tops are inputs; ``jaffe.Solver`` reads the window file. ``crop_size``, ``mirror`` and the
    mean are those of ``transform_param``, ``scale`` is its own. ``cache_images`` only saved reading, and is ignored.
    Source: Caffe 1.0, ``window_data_layer.cpp``.
    """

    tops = (2, 2)
    transformed = False  # windows come cropped, with their mean subtracted: what is outside of an image is 0


@built_in("HDF5Data")
class HDF5Data(_Stored):
    """Datasets of HDF5 files, named as the tops, of any shape. In a compiled net its tops are inputs.

    ``source`` is a text file with the files' paths. ``transform_param`` is refused, as in Caffe.
    """

    def declared(self) -> list[Shape | None]:
        super().declared()
        return [None] * len(self.node.tops)


@built_in("DummyData")
class DummyData(Layer):
    """Blobs made by fillers: constants, or random values drawn anew at every call (which then needs ``rng``).

    Shapes: ``shape``, or num, channels, height and width; ``data_filler`` (default constant 0): each once for
    all tops, or once a top. Source: Caffe 1.0, ``dummy_data_layer.cpp``.
    """

    bottoms = (0, 0)
    tops = (1, None)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        p, tops, error = self.p, len(self.node.tops), self.node.error
        legacy = [list(values) for values in (p.num, p.channels, p.height, p.width)]
        if any(len(values) > 1 for values in legacy):
            legacy = [values * tops if len(values) == 1 else values for values in legacy]
        if p.shape and any(legacy):
            raise error("shape excludes num, channels, height and width; found both")
        if p.shape:
            shapes = [tuple(shape.dim) for shape in p.shape]
        else:
            counts = {len(values) for values in legacy}
            if len(counts) != 1 or counts == {0}:
                raise error("expected shape, or as many num as channels, height and width; found "
                            f"{[len(values) for values in legacy]} of them")
            shapes = list(zip(*legacy, strict=True))
        if len(shapes) not in (1, tops):
            raise error(f"expected one shape, or one for each of {tops} tops; found {len(shapes)}")
        if len(p.data_filler) not in (0, 1, tops):
            raise error(f"expected no data_filler, one, or one for each of {tops} tops; found {len(p.data_filler)}")
        shapes = shapes * tops if len(shapes) == 1 else shapes
        for shape in shapes:
            if any(size < 1 for size in shape):
                raise error(f"sizes are positive; found {shape}")
        for filler, shape in zip(self._fillers(), shapes, strict=True):
            try:
                check(filler, shape)
            except ValueError as problem:
                raise error(f"data_filler: {problem}") from None
        return shapes

    def _fillers(self) -> list[FillerParameter]:
        fillers = list(self.p.data_filler) or [FillerParameter()]
        return fillers * len(self.node.tops) if len(fillers) == 1 else fillers

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        tops = []
        for i, (filler, shape) in enumerate(zip(self._fillers(), self.shapes([]), strict=True)):
            fixed = filler.type in ("constant", "bilinear")
            key = jax.random.key(0) if fixed else jax.random.fold_in(ctx.key(), i)
            tops.append(fill(key, shape, filler, ctx.dtype))
        return tops

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 0
