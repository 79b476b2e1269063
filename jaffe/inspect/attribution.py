"""Where in an image a score comes from: saliency, Grad-CAM, occlusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaffe.compile.layer import Array
from jaffe.compile.net import CompiledNet, Variables
from jaffe.inspect.part import Part, class_scores, classes_of, score_value
from jaffe.netdef.errors import JaffeError, suggest

METHODS = ("gradient", "guided", "input")


def saliency(
    net: CompiledNet, variables: Variables, inputs: Any, class_: int | Sequence[int], blob: str | None = None, *,
    method: str = "gradient", samples: int = 1, noise: float = 0.1, key: Array | None = None,
) -> Array:
    """How much a class's score changes with each pixel: ``max over channels of |d score / d pixel|``.

    Args:
        inputs: arrays by name, or the array of the only input; labels need not be there.
        class_: the class, or one for each item.
        blob: the scores, (N, classes, ...), summed over places; by default what the loss, or the Softmax, reads.
        method: ``"gradient"`` (Simonyan et al. 2013, arXiv 1312.6034); ``"guided"`` lets only positive gradients pass
            back through ReLU layers (Springenberg et al. 2014, arXiv 1412.6806); ``"input"`` is ``|sum over channels of
            pixel * gradient|``, the first order of what a pixel adds to the score.
        samples: gradients averaged, of inputs with Gaussian noise (SmoothGrad: Smilkov et al. 2017, arXiv 1706.03825).
        noise: its standard deviation, as a share of the range of the values of an item; for ``samples`` above 1.
        key: of that noise.

    Returns:
        (N, H, W), 0 and above, for images (N, C, H, W): the first such input that the scores need.

    Raises:
        JaffeError: there is no such blob or class; inputs do not fit; or samples without a key.
    """
    if method not in METHODS:
        raise JaffeError(f"method is one of {', '.join(METHODS)}; received {method!r}{suggest(str(method), METHODS)}")
    if samples < 1:
        raise JaffeError(f"samples is at least 1; received {samples}")
    if samples > 1 and key is None:
        raise JaffeError("samples are of inputs with noise: expected key=jax.random.key(...); found none")
    part = Part(net, (score_value(net, blob),), "guided" if method == "guided" else "plain")
    fed = part.feed(inputs)
    items = len(fed[part.image])
    classes = classes_of(net, part.values[0], class_, items)
    return _saliency(part, samples, method == "input", variables, fed, classes, noise,
                     jax.random.key(0) if key is None else key)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _saliency(
    part: Part, samples: int, weighted: bool, variables: Variables, inputs: Mapping[str, Array], classes: Array,
    noise: Array, key: Array,
) -> Array:
    x = inputs[part.image]
    axes = tuple(range(1, x.ndim))
    spread = noise * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))

    def gradient(key: Array) -> Array:
        at = x if samples == 1 else x + spread * jax.random.normal(key, x.shape, x.dtype)
        found = jax.grad(lambda x: class_scores(part.one(variables, {**inputs, part.image: x}), classes).sum())(at)
        return found * at if weighted else found

    found = jax.lax.map(gradient, jax.random.split(key, samples)).mean(0)
    if found.ndim < 3:
        return jnp.abs(found)
    return jnp.abs(found.sum(1) if weighted else found).max(axis=() if weighted else 1)


def grad_cam(
    net: CompiledNet, variables: Variables, inputs: Any, class_: int | Sequence[int], blob: str | None = None,
    scores: str | None = None,
) -> Array:
    """Where a layer sees the class: its maps, weighted with the mean gradient of the score by each.

    ``max(0, sum over channels c of map[c] * mean over places of d score / d map[c])``; for a net that ends in a
    convolution and global average pooling that is its class activation map (Zhou et al. 2016), up to a factor.
    Source: Selvaraju et al. 2017, arXiv 1610.02391.

    Args:
        inputs, class_: as for ``saliency``.
        blob: the maps, (N, C, h, w); by default the last ones of more than one place before the scores.
        scores: as ``blob`` of ``saliency``.

    Returns:
        (N, h, w), 0 and above.

    Raises:
        JaffeError: there is no such blob or class, or the scores do not depend on it; or inputs do not fit.
    """
    value = score_value(net, scores)
    part = Part(net, (value,))
    fed = part.feed(inputs)
    classes = classes_of(net, value, class_, len(fed[part.image]))
    maps = part.maps_before() if blob is None else net.value_of(blob)
    if len(net.inferred.shapes[maps]) != 4:
        raise JaffeError(f"expected maps (N, C, h, w); blob {blob!r} has shape {net.inferred.shapes[maps]}")
    if maps not in part.ancestors:
        raise JaffeError(f"the scores {value!r} do not depend on {blob or maps!r}; expected a blob before them")
    return _grad_cam(Part(net, (maps, value)), variables, fed, classes)


@partial(jax.jit, static_argnums=0)
def _grad_cam(part: Part, variables: Variables, inputs: Mapping[str, Array], classes: Array) -> Array:
    maps, scores = part.values
    shape = jax.eval_shape(lambda: part(variables, inputs))[maps]

    def score(tap: Array) -> tuple[Array, Array]:
        found = part(variables, inputs, {maps: tap})
        return class_scores(found[scores], classes).sum(), found[maps]

    gradient, values = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return jnp.maximum((values * gradient.mean((2, 3), keepdims=True)).sum(1), 0)


def occlusion(
    net: CompiledNet, variables: Variables, image: Any, class_: int, size: int, stride: int | None = None,
    blob: str | None = None, *, fill: float = 0.0, batch: int = 32,
) -> Array:
    """How far a class's score falls when a square of the image is covered, for squares all over it.

    Source: Zeiler and Fergus 2013, arXiv 1311.2901.

    Args:
        image: (C, H, W) or (1, C, H, W), as the net reads it; or inputs by name, of one item.
        size: pixels of the square's side.
        stride: pixels from square to square, ``size // 2`` by default. The first is in the upper left corner.
        blob: the scores, as for ``saliency``.
        fill: what covers: 0 is the mean colour of a net whose input has none.
        batch: squares at a time.

    Returns:
        (rows, columns): ``score(image) - score(covered)``; rows is ``(H - size) // stride + 1``.

    Raises:
        JaffeError: there is no such blob or class; the square is larger than the image; or inputs do not fit.
    """
    part = Part(net, (score_value(net, blob),))
    fed = part.feed(image)
    x = fed[part.image]
    if len(x) != 1 or x.ndim != 4:
        raise JaffeError(f"expected one image, (C, H, W) or (1, C, H, W); received shape {x.shape}")
    stride = max(size // 2, 1) if stride is None else stride
    if size < 1 or stride < 1 or size > min(x.shape[2:]):
        raise JaffeError(f"expected a square of 1 to {min(x.shape[2:])} pixels, and a stride of at least 1; received "
                         f"size={size}, stride={stride}")
    if batch < 1:
        raise JaffeError(f"batch is at least 1; received {batch}")
    return _occlusion(part, size, stride, batch, variables, fed, classes_of(net, part.values[0], class_, 1), fill)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _occlusion(
    part: Part, size: int, stride: int, batch: int, variables: Variables, inputs: Mapping[str, Array], classes: Array,
    fill: Array,
) -> Array:
    x = inputs[part.image]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[2:])
    patch = jnp.full((1, x.shape[1], size, size), fill, x.dtype)

    def scores(images: Array) -> Array:
        each = {name: jnp.repeat(value, len(images), 0) for name, value in inputs.items()}
        return class_scores(part.one(variables, {**each, part.image: images}), jnp.repeat(classes, len(images)))

    def covered(place: Array) -> Array:
        corner = (0, 0, place // columns * stride, place % columns * stride)
        return jax.lax.dynamic_update_slice(x, patch, corner)[0]

    count = rows * columns
    batch = min(batch, count)
    places = jnp.arange(-(-count // batch) * batch).clip(max=count - 1).reshape(-1, batch)
    found = jax.lax.map(lambda some: scores(jax.vmap(covered)(some)), places).ravel()[:count]
    return scores(x)[0] - found.reshape(rows, columns)
