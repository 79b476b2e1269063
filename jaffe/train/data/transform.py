"""Caffe's ``transform_param`` as a pure function on a batch, run on the device inside the training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.preprocess import (
    central_crop,
    check_crop,
    check_mean,
    mean_of,
    pad_of,
    resize_of,
    resized,
    scaled,
    without_mean,
)
from jaffe.netdef.graph import Node
from jaffe.train.data.augment import check_augmentation, cut_out, jitter_colors, turn
from jaffe.train.data.fit import Fit, fit_of


class Transform:
    """Resize (jaffe's own), subtract the mean, crop, mirror, scale: ``out = (pixel - mean) * scale``.

    The mean is read at the place in the uncropped image and is not mirrored. Crops are at random in phase
    TRAIN and central in TEST; ``mirror`` flips with probability 1/2 in both. Source: Caffe 1.0,
    ``data_transformer.cpp``; random numbers are JAX's, not Caffe's. In phase TRAIN jaffe's own settings change images
    at random (``augment``): colours before the mean is subtracted, rotation and scale before the crop, holes last.

    Args:
        node: the data layer, with its ``transform_param`` and phase.
        shape: (C, H, W) of the records; of those of different sizes, of the first one.
        dtype: of the records.
        ragged: whether the images may differ in size: then ``fit`` makes them equal before they get here, where the
            settings say how.
        base: where a relative ``mean_file`` is looked for beside the current folder.

    Attributes:
        fit: what comes first, on the host, or ``None``.
        shape: (C, H, W) of what the net gets.

    Raises:
        SpecError: the settings contradict each other or do not fit the records.
    """

    def __init__(
        self, node: Node, shape: tuple[int, ...], base: Path = Path(), *, dtype: Any = np.uint8,
        ragged: bool = False,
    ):
        self.p = p = node.proto.transform_param
        self.train = node.phase == "TRAIN"
        self.for_images = bool({field.name for field, value in p.ListFields() if value} - {"scale", "mixup"})
        if self.for_images and len(shape) != 3:
            raise node.error(f"transform_param is for images (C, H, W); found records of shape {shape}")
        if p.HasField("mixup") and (p.mixup.alpha <= 0 or p.mixup.classes < 1):
            raise node.error("mixup has an alpha above 0 and the number of classes; found "
                             f"{p.mixup.alpha:g} and {p.mixup.classes}")
        self.node = node
        self.most = 255.0 if dtype == np.uint8 else np.inf
        self.size = resize_of(node)
        self.mean = mean_of(node, shape[0], base) if self.for_images else None
        pad = pad_of(node)
        self.fit: Fit | None = fit_of(node, self.mean) if ragged or pad else None
        self.crop = 0 if self.fit and self.fit.crop else p.crop_size
        if self.size:
            shape = (shape[0], *self.size)
        elif pad:
            shape = (shape[0], *pad)
        check_mean(node, self.mean, shape)
        if p.crop_size:
            check_crop(node, shape[1:])
            shape = (shape[0], p.crop_size, p.crop_size)
        self.shape = shape
        if self.for_images:
            check_augmentation(node, shape)

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Transform a batch (N, C, H, W) of any dtype to float32."""
        p = self.p
        x = x.astype(jnp.float32)
        if self.size is not None:
            x = resized(x, self.size)
        crop_key, mirror_key = jax.random.split(key)
        own_keys = jax.random.split(jax.random.fold_in(key, 1), 3)  # of jaffe's own settings
        if self.train and p.HasField("color_jitter"):
            x = jitter_colors(x, p.color_jitter, own_keys[0], self.most)
        x = without_mean(self.node, x, self.mean)
        if self.train and (p.rotate or p.rescale):
            low, high = p.rescale or (1.0, 1.0)
            x = turn(x, p.rotate, (low, high), own_keys[1])
        if self.crop:
            x = self._crop(x, crop_key)
        if p.mirror:
            flip = jax.random.bernoulli(mirror_key, 0.5, (x.shape[0], 1, 1, 1))
            x = jnp.where(flip, x[..., ::-1], x)
        if self.train and p.cutout:
            x = cut_out(x, p.cutout, own_keys[2])
        return scaled(self.node, x)

    def _crop(self, x: jax.Array, key: jax.Array) -> jax.Array:
        size = self.crop
        if not self.train:
            return central_crop(x, size)
        spare = np.array(x.shape[2:]) - size
        corners = jax.random.randint(key, (x.shape[0], 2), 0, jnp.asarray(spare + 1))
        return jax.vmap(lambda one, at: lax.dynamic_slice(one, (0, at[0], at[1]), (x.shape[1], size, size)))(x, corners)
