"""Images changed at random while a net is trained: what ``transform_param`` has beyond Caffe. Pure, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import ColorJitterParameter

_GREY = np.array([0.114, 0.587, 0.299], np.float32)  # of blue, green, red: ITU-R BT.601, as OpenCV has it


def check_augmentation(node: Node, shape: tuple[int, ...]) -> None:
    """Raise SpecError for settings out of range. ``shape`` is that of the images that the net gets, (C, H, W)."""
    p = node.proto.transform_param
    if p.rotate < 0:
        raise node.error(f"rotate is a number of degrees, 0 and above; found {p.rotate:g}")
    if p.rescale and not (len(p.rescale) == 2 and 0 < p.rescale[0] <= p.rescale[1]):
        raise node.error(f"rescale is the least and the largest factor, above 0; found {list(p.rescale)}")
    for name in ("brightness", "contrast", "saturation"):
        if not 0 <= getattr(p.color_jitter, name) <= 1:
            raise node.error(f"color_jitter.{name} is from 0 to 1; found {getattr(p.color_jitter, name):g}")
    if p.color_jitter.saturation and shape[0] != 3:
        raise node.error(f"color_jitter.saturation is for 3 channels; found {shape[0]}")
    if p.cutout > min(shape[1:]):
        raise node.error(f"cutout {p.cutout} is larger than the images, {shape[1:]}")


def jitter_colors(x: jax.Array, p: ColorJitterParameter, key: jax.Array, most: float) -> jax.Array:
    """Images (N, C, H, W) with ``b x``, then ``m + c (x - m)``, then ``g + s (x - g)`` in place of x; each clipped to
    [0, most]. b, c, s are drawn for each image; m is its mean grey, g the pixel's own."""
    keys = jax.random.split(key, 3)

    def factor(i: int, spread: float) -> jax.Array:
        return jax.random.uniform(keys[i], (len(x), 1, 1, 1), minval=1 - spread, maxval=1 + spread)

    def grey(x: jax.Array) -> jax.Array:
        return jnp.einsum("nchw,c->nhw", x, _GREY)[:, None] if x.shape[1] == 3 else x.mean(1, keepdims=True)

    if p.brightness:
        x = jnp.clip(x * factor(0, p.brightness), 0, most)
    if p.contrast:
        middle = grey(x).mean((1, 2, 3), keepdims=True)
        x = jnp.clip(middle + factor(1, p.contrast) * (x - middle), 0, most)
    if p.saturation:
        x = jnp.clip(grey(x) + factor(2, p.saturation) * (x - grey(x)), 0, most)
    return x


def turn(x: jax.Array, degrees: float, factors: tuple[float, float], key: jax.Array) -> jax.Array:
    """Images (N, C, H, W) rotated and scaled about their middles, each by numbers of its own; bilinear, 0 outside.

    Angles are uniform within ``degrees`` either way, the logarithm of the factor between those of ``factors``.
    """
    angle_key, factor_key = jax.random.split(key)
    angle = jnp.deg2rad(jax.random.uniform(angle_key, (len(x),), minval=-degrees, maxval=degrees))
    low, high = np.log(factors)
    factor = jnp.exp(jax.random.uniform(factor_key, (len(x),), minval=low, maxval=high))
    middle = (np.array(x.shape[2:]) - 1) / 2
    rows, columns = jnp.meshgrid(*(jnp.arange(n) - m for n, m in zip(x.shape[2:], middle, strict=True)), indexing="ij")

    def one(image: jax.Array, angle: jax.Array, factor: jax.Array) -> jax.Array:
        cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
        at = [cos * rows + sin * columns + middle[0], cos * columns - sin * rows + middle[1]]
        return jax.vmap(lambda plane: map_coordinates(plane, at, 1, mode="constant"))(image)

    return jax.vmap(one)(x, angle, factor)


def cut_out(x: jax.Array, side: int, key: jax.Array) -> jax.Array:
    """A square of each image (N, C, H, W) becomes 0; its middle is anywhere, so part of it may lie outside.

    Source: DeVries and Taylor, Improved Regularization of CNNs with Cutout, arXiv:1708.04552.
    """
    middles = jax.random.randint(key, (2, len(x)), 0, jnp.array(x.shape[2:])[:, None])
    inside = [(jnp.arange(n) >= (start := at[:, None] - side // 2)) & (jnp.arange(n) < start + side)
              for n, at in zip(x.shape[2:], middles, strict=True)]
    return jnp.where(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0, x)


def mix(
    x: jax.Array, labels: jax.Array, alpha: float, classes: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``s x + (1 - s) x'`` of images and labels, x' those of another order of the batch, s from Beta(alpha, alpha).

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412.

    Returns:
        Images, and labels as shares of the classes, (N, classes); NaN for a label outside of them.
    """
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    order = jax.random.permutation(order_key, len(x))
    labels = labels.reshape(len(x)).astype(jnp.int32)
    known = (labels >= 0) & (labels < classes)
    shares = jnp.where(known[:, None], jax.nn.one_hot(labels, classes), jnp.nan)
    return share * x + (1 - share) * x[order], share * shares + (1 - share) * shares[order]
