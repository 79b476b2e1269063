"""Images as a net expects them: what its ``transform_param`` says, but for what is random.

Order and formula: Caffe 1.0, ``data_transformer.cpp``; resizing is jaffe's own, or stands for what was done when the
data were made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.layer import Shape
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Node
from jaffe.netdef.means import read_mean
from jaffe.netdef.sizes import sizes
from jaffe.netdef.source import find

if TYPE_CHECKING:
    from jaffe.compile.net import CompiledNet

ORDERS = ("RGB", "BGR")
LAYOUTS = ("NHWC", "NCHW")


def preprocess(
    net: CompiledNet,
    images: Any,
    *,
    input: str | None = None,  # noqa: A002  the net's word
    order: str = "RGB",
    layout: str | None = None,
    size: tuple[int, int] | None = None,
) -> jax.Array:
    """What the net's input expects of these images; see ``CompiledNet.preprocess``."""
    node, channels, declared = _input(net, input)
    if size is not None and len(sizes("size", size)) != 2:
        raise JaffeError(f"size is (height, width); received {size!r}")
    if order not in ORDERS:
        raise JaffeError(f"order is 'RGB' or 'BGR'; received {order!r}{suggest(str(order), ORDERS)}")
    x = _channels(node, _channels_first(images, channels, layout), channels, order).astype(jnp.float32)
    p = node.proto.transform_param
    mean = mean_of(node, channels, node.directory)
    target: tuple[int, ...] | None = tuple(size) if size is not None else resize_of(node)
    if target is None and mean is not None and mean.shape[1:] != (1, 1):
        target = mean.shape[1:]
    if target is None and not p.crop_size and not p.pad_to:
        target = declared
    if target is not None:
        x = resized(x, target)
    x = without_mean(node, x, mean)
    if pad := pad_of(node):
        x = _padded(node, x, pad)
    if p.crop_size:
        check_crop(node, x.shape[2:])
        x = central_crop(x, p.crop_size)
    return scaled(node, x).astype(net.dtype)


def resize_of(node: Node) -> tuple[int, int] | None:
    """Height and width of ``resize``, jaffe's own setting. Raises SpecError when it is not one or two sizes."""
    return _size(node, "resize")


def pad_of(node: Node) -> tuple[int, int] | None:
    """Height and width of ``pad_to``, jaffe's own setting. Raises SpecError as ``resize_of``, or with both."""
    if node.proto.transform_param.pad_to and node.proto.transform_param.resize:
        raise node.error("resize excludes pad_to; found both")
    return _size(node, "pad_to")


def _size(node: Node, setting: str) -> tuple[int, int] | None:
    stated = list(getattr(node.proto.transform_param, setting))
    if len(stated) > 2 or 0 in stated:
        raise node.error(f"{setting} is one positive number, or height and width; found {stated}")
    return (stated[0], stated[-1]) if stated else None


def mean_of(node: Node, channels: int, base: Path) -> np.ndarray | None:
    """The mean of ``mean_value`` or ``mean_file`` as (C or 1, 1, 1) or (C, H, W); ``None`` without.

    Args:
        base: where a relative ``mean_file`` is looked for beside the current folder.

    Raises:
        SpecError: both are there; the number of values is wrong; the file is missing or no mean.
    """
    p = node.proto.transform_param
    if p.mean_file and p.mean_value:
        raise node.error("mean_file excludes mean_value; found both")
    if p.mean_value:
        if len(p.mean_value) not in (1, channels):
            raise node.error(f"expected one mean_value, or one for each of {channels} channels; "
                             f"found {len(p.mean_value)}")
        return np.array(p.mean_value, np.float32).reshape(-1, 1, 1)
    if not p.mean_file:
        return None
    mean = read_mean(find(p.mean_file, base, node.location or None))
    return mean.reshape(-1, 1, 1) if mean.ndim == 1 else mean


def resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """A batch (N, C, H, W) resized bilinearly, smoothed where it shrinks."""
    return x if x.shape[2:] == size else jax.image.resize(x, (*x.shape[:2], *size), "bilinear")


def _padded(node: Node, x: jax.Array, size: tuple[int, int]) -> jax.Array:
    spare = [most - n for most, n in zip(size, x.shape[2:], strict=True)]
    if min(spare) < 0:
        raise node.error(f"the images, {x.shape[2:]}, are larger than pad_to {size}")
    return jnp.pad(x, ((0, 0), (0, 0), *((0, n) for n in spare)))


def check_mean(node: Node, mean: np.ndarray | None, shape: Shape) -> None:
    """Raise SpecError when a mean image has another shape than the images, (C, H, W), that are not cropped yet."""
    if mean is not None and mean.shape[1:] != (1, 1) and mean.shape != shape:
        raise node.error(f"mean_file {node.proto.transform_param.mean_file!r} has shape {mean.shape}; expected the "
                         f"images', {shape}")
    if mean is not None and len(mean) not in (1, shape[0]):
        raise node.error(f"mean_file {node.proto.transform_param.mean_file!r} has {len(mean)} channels; expected "
                         f"{shape[0]}")


def without_mean(node: Node, x: jax.Array, mean: np.ndarray | None) -> jax.Array:
    """The batch less the mean, which is read at the place in the uncropped image."""
    check_mean(node, mean, x.shape[1:])
    return x if mean is None else x - mean


def check_crop(node: Node, size: Shape) -> None:
    """Raise SpecError when ``crop_size`` is larger than images of this height and width."""
    crop = node.proto.transform_param.crop_size
    if crop > min(size):
        raise node.error(f"crop_size {crop} is larger than the images, {tuple(size)}")


def central_crop(x: jax.Array, size: int) -> jax.Array:
    """The square in the middle, from floor((H - size) / 2) and floor((W - size) / 2) on."""
    top, left = ((n - size) // 2 for n in x.shape[2:])
    return x[:, :, top : top + size, left : left + size]


def scaled(node: Node, x: jax.Array) -> jax.Array:
    """The batch times ``scale``."""
    scale = node.proto.transform_param.scale
    return x if scale == 1 else x * scale


def _input(net: CompiledNet, name: str | None) -> tuple[Node, int, tuple[int, ...]]:
    """The source layer of the input, and the input's channels and (height, width)."""
    pictures = [blob for blob, value in net.inputs.items() if len(value.shape) == 4]
    if name is None:
        if len(pictures) != 1:
            raise JaffeError("expected one input of images (N, C, H, W), or input=NAME; the net reads "
                             + (", ".join(f"{blob} {value.shape}" for blob, value in net.inputs.items()) or "nothing"))
        name = pictures[0]
    elif name not in pictures:
        raise JaffeError(f"the net has no input {name!r} of images (N, C, H, W){suggest(name, pictures)}")
    _, channels, *size = net.inputs[name].shape
    return next(node for node in net.graph.nodes if name in node.tops), channels, tuple(size)


def _channels_first(images: Any, channels: int, layout: str | None) -> jax.Array:
    """The images as (N, C, H, W); where the channels are is seen from the sizes, or said by ``layout``."""
    try:
        x = jnp.asarray(images)
    except (TypeError, ValueError):
        raise JaffeError(f"images are one array of numbers; received {type(images).__name__}") from None
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4:
        raise JaffeError(f"images are (N, H, W, C) or (N, C, H, W), or one without N; received shape {x.shape}")
    if 0 in x.shape[1:]:
        raise JaffeError(f"images have sizes of 1 and above; received shape {x.shape}")
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or x.dtype == jnp.bool_:
        raise JaffeError(f"images are whole numbers or floats; received {x.dtype}")
    if layout is None:
        axes = dict(zip(LAYOUTS, (3, 1), strict=True))
        fits = ([name for name, axis in axes.items() if x.shape[axis] in {1, 3, channels}]
                or [name for name, axis in axes.items() if x.shape[axis] in {2, 4}])  # refused with these channels
        if len(fits) != 1:
            raise JaffeError(f"which axis of {x.shape} holds the channels is not plain: give layout='NHWC' or 'NCHW'")
        layout = fits[0]
    if layout not in LAYOUTS:
        raise JaffeError(f"layout is 'NHWC' or 'NCHW'; received {layout!r}{suggest(str(layout), LAYOUTS)}")
    return x if layout == "NCHW" else x.transpose(0, 3, 1, 2)


def _channels(node: Node, x: jax.Array, channels: int, order: str) -> jax.Array:
    """Colours as BGR, Caffe's order; grey and colour made of each other where the net expects it."""
    found = x.shape[1]
    if found == 3 and order == "RGB":
        x = x[:, ::-1]
    if found == 3 and channels == 1:
        if x.dtype == jnp.uint8:  # OpenCV's arithmetic for bytes
            weights = jnp.array([1868, 9617, 4899], jnp.int32).reshape(1, 3, 1, 1)
            return ((x.astype(jnp.int32) * weights).sum(1, keepdims=True) + 8192) >> 14
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (x * jnp.array([0.114, 0.587, 0.299], x.dtype).reshape(1, 3, 1, 1)).sum(1, keepdims=True)
    if found == 1 and channels == 3:
        return jnp.repeat(x, 3, axis=1)
    if found != channels:
        expected = "1 or 3" if channels in (1, 3) else channels
        raise node.error(f"expected images of {expected} channels; received {found}")
    return x
