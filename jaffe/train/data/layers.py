"""The data that a net's data layers name themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaffe.compile.preprocess import mean_of
from jaffe.netdef.errors import SpecError
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import DataParameter
from jaffe.netdef.source import find
from jaffe.train.data.databases import LevelDbSource, LmdbSource
from jaffe.train.data.dataset import Dataset
from jaffe.train.data.hdf5 import Hdf5Source, read_hdf5_list
from jaffe.train.data.images import read_image_list
from jaffe.train.data.windows import WindowSource, crop_of


def own_data(node: Node, base: Path) -> Dataset:
    """What a Data, ImageData, HDF5Data or WindowData layer's ``source`` names.

    Args:
        base: where relative paths are looked for beside the current folder.

    Raises:
        SpecError: there is no such file, or the layer has no data of its own.
        JaffeError: the file cannot be read.
    """
    if node.type not in _OPEN:
        raise node.error(f"{node.type} has no data of its own here: expected data=...; found none")
    open_, field = _OPEN[node.type]
    source = getattr(node.proto, field).source
    if not source:
        raise node.error(f"expected {field}.source, or data=...; found neither")
    try:
        path = find(source, base)
    except SpecError as error:
        raise node.error(f"{field}.source {error}") from None
    return open_(node, path)


def _data(node: Node, path: Path) -> Dataset:
    backend = LmdbSource if node.proto.data_param.backend == DataParameter.LMDB else LevelDbSource
    return Dataset(backend(path), False, f"{backend.kind.lower()}:{path}")


def _image_data(node: Node, path: Path) -> Dataset:
    p = node.proto.image_data_param
    if bool(p.new_height) != bool(p.new_width):
        raise node.error(f"expected both new_height and new_width, or neither; found {p.new_height} and {p.new_width}")
    size = (p.new_height, p.new_width) if p.new_height else None
    images = read_image_list(path, root=p.root_folder, labels=p.num_labels, size=size, color=p.is_color)
    return Dataset(images, p.shuffle, f"images:{path}", p.rand_skip)


def _hdf5_data(node: Node, path: Path) -> Dataset:
    if node.proto.HasField("transform_param"):
        raise node.error("HDF5Data takes no transform_param, as in Caffe; expected values as the net needs them")
    return Dataset(Hdf5Source(read_hdf5_list(path), node.tops), node.proto.hdf5_data_param.shuffle, f"hdf5:{path}")


def _window_data(node: Node, path: Path) -> Dataset:
    p = node.proto.window_data_param
    try:
        crop = crop_of(p, node.proto.transform_param, mean_of(node, 3, node.directory))
    except ValueError as error:
        raise node.error(str(error)) from None
    source = WindowSource(path, crop, p.batch_size, fraction=p.fg_fraction, foreground=p.fg_threshold,
                          background=p.bg_threshold, root=p.root_folder)
    return Dataset(source, False, f"windows:{path}")


_OPEN: dict[str, tuple[Callable[[Node, Path], Dataset], str]] = {
    "Data": (_data, "data_param"),
    "ImageData": (_image_data, "image_data_param"),
    "HDF5Data": (_hdf5_data, "hdf5_data_param"),
    "WindowData": (_window_data, "window_data_param"),
}
