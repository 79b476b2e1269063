"""Caffe's ``transform_param`` as a pure function on a batch, run on the device inside the training step."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from google.protobuf.message import DecodeError
from jax import lax

from jaffe.netdef.errors import SpecError
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.netdef.source import read_bytes
from jaffe.netdef.weights import blob_to_array
from jaffe.train.config import find


class Transform:
    """Resize (jaffe's own), subtract the mean, crop, mirror, scale: ``out = (pixel - mean) * scale``.

    The mean is read at the place in the uncropped image and is not mirrored. Crops are at random in phase
    TRAIN and central in TEST; ``mirror`` flips with probability 1/2 in both. Source: Caffe 1.0,
    ``data_transformer.cpp``; random numbers are JAX's, not Caffe's.

    Args:
        node: the data layer, with its ``transform_param`` and phase.
        shape: (C, H, W) of the records.
        base: where a relative ``mean_file`` is looked for beside the current folder.

    Raises:
        SpecError: the settings contradict each other or do not fit the records.
    """

    def __init__(self, node: Node, shape: tuple[int, ...], base: Path = Path()):
        self.p = p = node.proto.transform_param
        self.train = node.phase == "TRAIN"
        self.size: tuple[int, ...] | None = None
        for_images = p.resize or p.crop_size or p.mirror or p.mean_file or p.mean_value
        if for_images and len(shape) != 3:
            raise node.error(f"transform_param is for images (C, H, W); found records of shape {shape}")
        if p.resize:
            if len(p.resize) > 2 or 0 in p.resize:
                raise node.error(f"resize is one positive number, or height and width; found {list(p.resize)}")
            self.size = (p.resize[0], p.resize[-1])
            shape = (shape[0], *self.size)
        self.mean = self._mean(node, shape, base)
        if p.crop_size:
            if p.crop_size > min(shape[1:]):
                raise node.error(f"crop_size {p.crop_size} is larger than the images, {shape[1:]}")
            shape = (shape[0], p.crop_size, p.crop_size)
        self.shape = shape

    def _mean(self, node: Node, shape: tuple[int, ...], base: Path) -> np.ndarray | None:
        p = self.p
        if p.mean_file and p.mean_value:
            raise node.error("mean_file excludes mean_value; found both")
        if p.mean_value:
            if len(p.mean_value) not in (1, shape[0]):
                raise node.error(f"expected one mean_value, or one for each of {shape[0]} channels; "
                                 f"found {len(p.mean_value)}")
            return np.array(p.mean_value, np.float32).reshape(-1, 1, 1)
        if not p.mean_file:
            return None
        path = find(p.mean_file, base, node.location or None)
        try:
            mean = blob_to_array(BlobProto.FromString(read_bytes(path)))
        except (DecodeError, ValueError) as error:
            raise SpecError(f"is not a mean file: {error}", location=str(path)) from None
        mean = mean.reshape(mean.shape[-3:])
        if mean.shape != shape:
            raise node.error(f"mean_file {p.mean_file!r} has shape {mean.shape}; expected the images', {shape}")
        return mean

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Transform a batch (N, C, H, W) of any dtype to float32."""
        p = self.p
        x = x.astype(jnp.float32)
        if self.size is not None and self.size != x.shape[2:]:
            x = jax.image.resize(x, (*x.shape[:2], *self.size), "bilinear")
        if self.mean is not None:
            x = x - self.mean
        crop_key, mirror_key = jax.random.split(key)
        if p.crop_size:
            x = self._crop(x, crop_key)
        if p.mirror:
            flip = jax.random.bernoulli(mirror_key, 0.5, (x.shape[0], 1, 1, 1))
            x = jnp.where(flip, x[..., ::-1], x)
        return x if p.scale == 1 else x * p.scale

    def _crop(self, x: jax.Array, key: jax.Array) -> jax.Array:
        size = self.p.crop_size
        spare = np.array(x.shape[2:]) - size
        if not self.train:
            top, left = spare // 2
            return x[:, :, top : top + size, left : left + size]
        corners = jax.random.randint(key, (x.shape[0], 2), 0, jnp.asarray(spare + 1))
        return jax.vmap(lambda one, at: lax.dynamic_slice(one, (0, at[0], at[1]), (x.shape[1], size, size)))(x, corners)
