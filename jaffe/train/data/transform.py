"""Caffe's ``transform_param`` as a pure function on a batch, run on the device inside the training step."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.preprocess import (
    central_crop,
    check_crop,
    check_mean,
    mean_of,
    resize_of,
    resized,
    scaled,
    without_mean,
)
from jaffe.netdef.graph import Node


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
        for_images = p.resize or p.crop_size or p.mirror or p.mean_file or p.mean_value
        if for_images and len(shape) != 3:
            raise node.error(f"transform_param is for images (C, H, W); found records of shape {shape}")
        self.node = node
        self.size = resize_of(node)
        if self.size:
            shape = (shape[0], *self.size)
        self.mean = mean_of(node, shape[0], base) if for_images else None
        check_mean(node, self.mean, shape)
        if p.crop_size:
            check_crop(node, shape[1:])
            shape = (shape[0], p.crop_size, p.crop_size)
        self.shape = shape

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Transform a batch (N, C, H, W) of any dtype to float32."""
        p = self.p
        x = x.astype(jnp.float32)
        if self.size is not None:
            x = resized(x, self.size)
        x = without_mean(self.node, x, self.mean)
        crop_key, mirror_key = jax.random.split(key)
        if p.crop_size:
            x = self._crop(x, crop_key)
        if p.mirror:
            flip = jax.random.bernoulli(mirror_key, 0.5, (x.shape[0], 1, 1, 1))
            x = jnp.where(flip, x[..., ::-1], x)
        return scaled(self.node, x)

    def _crop(self, x: jax.Array, key: jax.Array) -> jax.Array:
        size = self.p.crop_size
        if not self.train:
            return central_crop(x, size)
        spare = np.array(x.shape[2:]) - size
        corners = jax.random.randint(key, (x.shape[0], 2), 0, jnp.asarray(spare + 1))
        return jax.vmap(lambda one, at: lax.dynamic_slice(one, (0, at[0], at[1]), (x.shape[1], size, size)))(x, corners)
