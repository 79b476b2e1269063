"""Images made by a net: of a class, of a blob's values, and dreams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaffe.compile.layer import Array
from jaffe.compile.net import CompiledNet, Variables
from jaffe.inspect.part import Part, class_scores, classes_of, score_value
from jaffe.inspect.pictures import pixel_scale
from jaffe.netdef.errors import JaffeError

Bounds = tuple[Any, Any]


def class_image(
    net: CompiledNet, variables: Variables, class_: int, key: Array, *, blob: str | None = None, steps: int = 128,
    rate: float = 0.03, decay: float = 0.01, smooth: float = 0.5, colour: float = 0.4, jitter: int = 8,
    bounds: Bounds | None = None, size: tuple[int, int] | None = None,
) -> Array:
    """An image that a net takes for a class: gradient ascent on the score, from a little noise.

    ``x += rate * range * g / rms(g)``, then ``x -= decay * x``; g is the gradient of the class's score, of
    which waves of f cycles an image count ``f ** -smooth`` times, and differences of colours ``colour`` times. ``rate``
    and ``decay`` fall to 0 along a half cosine. Before each step the image is moved round its borders by chance. Where
    a whole ReLU layer is off, the gradient passes as if it were on.
    Source: Simonyan et al. 2013, arXiv 1312.6034 (ascent, L2); Olah et al. 2017, Feature Visualization, Distill
    (weights of frequencies and colours, jitter).

    Args:
        blob: the scores, (N, classes, ...); by default what the loss, or the Softmax, reads.
        steps: of ascent.
        rate: the first step, as a share of the range between the bounds.
        decay: how far the first step pulls to 0, which mostly is the mean colour: the L2 penalty.
        smooth, colour: 0 and 1 are the plain gradient.
        jitter: pixels that the image is moved by at most.
        bounds: least and greatest value of a pixel, numbers or arrays (C, 1, 1). By default what ``transform_param``
            makes of 0 and 255.
        size: (height, width), for nets that take any.

    Returns:
        (1, C, H, W), an input of the net; ``deprocess`` makes an image of it.

    Raises:
        JaffeError: there is no such blob or class; or the scores need more inputs than the image.
    """
    if rate <= 0:
        raise JaffeError(f"rate is above 0; received {rate}")
    part = Part(net, (score_value(net, blob),), "redirected")
    name, shape = _image_shape(part, size)
    classes = classes_of(net, part.values[0], class_, 1)
    low, high = _bounds(net, name, shape[1], bounds)
    x = (high - low) * 0.02 * jax.random.normal(jax.random.fold_in(key, 0), shape, net.dtype)
    return _ascend(part, steps, _score_of, variables, jnp.clip(x, low, high), classes, jax.random.fold_in(key, 1), low,
                   high, rate, decay, smooth, colour, jitter)


def deep_dream(
    net: CompiledNet, variables: Variables, image: Any, blob: str, key: Array, *, octaves: int = 4, zoom: float = 1.4,
    steps: int = 16, rate: float = 0.01, smooth: float = 0.5, colour: float = 0.4, jitter: int = 32,
    bounds: Bounds | None = None,
) -> Array:
    """An image in which what a blob sees is made stronger: ascent on half the sum of its squares.

    From small to large, ``octaves`` sizes each ``zoom`` times the last; what a size added is carried to the next.
    Source: Mordvintsev, Olah and Tyka 2015, Inceptionism (Google Research blog).

    Args:
        image: (C, H, W) or (N, C, H, W), as the net reads it; any size that the layers up to the blob take.
        steps: at each size.
        rate, smooth, colour, jitter, bounds: as for ``class_image``; there is no decay.

    Returns:
        As the image: (N, C, H, W).

    Raises:
        JaffeError: there is no such blob; the smallest image is too small for it; or it needs other inputs too.
    """
    part = Part(net, (net.value_of(blob),))
    name, _ = _image_shape(part, None)
    x = part.feed(image)[name]
    low, high = _bounds(net, name, x.shape[1], bounds)
    if octaves < 1 or zoom <= 0:
        raise JaffeError(f"octaves is at least 1, and zoom above 0; received octaves={octaves}, zoom={zoom}")
    sizes = [tuple(max(round(n / zoom**k), 1) for n in x.shape[2:]) for k in reversed(range(octaves))]
    for size in sizes:
        try:
            part.shapes({name: (*x.shape[:2], *size)})
        except JaffeError as error:
            raise JaffeError(f"an image of {size} does not fit blob {blob!r}; choose fewer octaves: {error}") from None
    added = jnp.zeros((*x.shape[:2], *sizes[0]), x.dtype)
    for i, size in enumerate(sizes):
        base = jax.image.resize(x, (*x.shape[:2], *size), "bilinear")
        start = base + jax.image.resize(added, base.shape, "bilinear")
        dreamt = _ascend(part, steps, _norm_of, variables, start, jnp.zeros(len(x), int), jax.random.fold_in(key, i),
                         low, high, rate, 0.0, smooth, colour, jitter)
        added = dreamt - base
    return x + added


def invert(
    net: CompiledNet, variables: Variables, inputs: Any, blob: str, key: Array, *, steps: int = 400, rate: float = 0.05,
    variation: float = 0.01, bounds: Bounds | None = None,
) -> Array:
    """An image for which a blob is what it is for these inputs: what the blob still knows of them.

    Minimises ``|blob(x) - blob(inputs)|^2 / |blob(inputs)|^2 + variation * mean of squared differences of neighbours``,
    those as shares of the range between the bounds, by Adam from noise; ``rate`` falls to 0 along a half cosine.
    Source: Mahendran and Vedaldi 2014, arXiv 1412.0035, with total variation of exponent 2.

    Args:
        inputs: the images, (N, C, H, W), as the net reads them.
        steps: of Adam.
        rate: its first step, as a share of the range.
        variation: weight of the total variation; 0 matches the blob alone.
        bounds: as for ``class_image``; the image is kept within.

    Returns:
        (N, C, H, W), inputs of the net.

    Raises:
        JaffeError: there is no such blob, or it needs other inputs too.
    """
    part = Part(net, (net.value_of(blob),))
    name, _ = _image_shape(part, None)
    x = part.feed(inputs)[name]
    low, high = _bounds(net, name, x.shape[1], bounds)
    return _invert(part, steps, variables, x, key, low, high, rate, variation)


@partial(jax.jit, static_argnums=(0, 1))
def _invert(
    part: Part, steps: int, variables: Variables, x: Array, key: Array, low: Array, high: Array, rate: Array,
    variation: Array,
) -> Array:
    name = part.image
    wanted = part.one(variables, {name: x})
    scale = jnp.maximum((wanted**2).sum(), jnp.finfo(wanted.dtype).tiny)
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, steps))

    def loss(z: Array) -> Array:  # z is 0 to 1 between the bounds
        found = part.one(variables, {name: low + (high - low) * z})
        rough = sum(jnp.mean(jnp.diff(z, axis=axis) ** 2) if z.shape[axis] > 1 else 0.0 for axis in (2, 3))
        return ((found - wanted) ** 2).sum() / scale + variation * rough

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        z, state = carry
        updates, state = optimizer.update(jax.grad(loss)(z), state)
        return (jnp.clip(z + rate * updates, 0, 1), state), None

    start = 0.5 + 0.1 * jax.random.normal(key, x.shape, x.dtype)
    (z, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return low + (high - low) * z


def _score_of(value: Array, classes: Array) -> Array:
    return class_scores(value, classes).sum()


def _norm_of(value: Array, _: Array) -> Array:
    return (value**2).sum() / 2


@partial(jax.jit, static_argnums=(0, 1, 2))
def _ascend(
    part: Part, steps: int, objective: Callable[[Array, Array], Array], variables: Variables, x: Array, classes: Array,
    key: Array, low: Array, high: Array, rate: Array, decay: Array, smooth: Array, colour: Array, jitter: Array,
) -> Array:
    name = part.image
    gains = _gains(x.shape, smooth)

    def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        key, i = at
        by = jax.random.randint(key, (2,), -jitter, jitter + 1)
        moved = jnp.roll(x, by, (2, 3))
        g = jax.grad(lambda x: objective(part.one(variables, {name: x}), classes))(moved)
        g = jnp.fft.irfft2(jnp.fft.rfft2(g) * gains, g.shape[2:])
        grey = g.mean(1, keepdims=True)
        g = grey + colour * (g - grey)
        g = g / (jnp.sqrt((g**2).mean((1, 2, 3), keepdims=True)) + jnp.finfo(g.dtype).tiny)
        now = rate * (1 + jnp.cos(jnp.pi * i / steps)) / 2
        moved = moved + now * (high - low) * g
        moved = moved - decay * now / rate * moved
        return jnp.clip(jnp.roll(moved, -by, (2, 3)), low, high), None

    return jax.lax.scan(step, x, (jax.random.split(key, steps), jnp.arange(steps)))[0]


def _gains(shape: tuple[int, ...], smooth: Array) -> Array:
    """What each frequency of a plane counts, (h, w // 2 + 1): 1 for the lowest."""
    height, width = shape[2:]
    cycles = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    return jnp.maximum(jnp.asarray(cycles, jnp.float32), 1) ** -smooth


def _image_shape(part: Part, size: tuple[int, int] | None) -> tuple[str, tuple[int, ...]]:
    """The only input, and the shape of one image. Raises JaffeError where it is not the only one, or no image."""
    declared = {name: part.net.inputs[name].shape for name in part.inputs}
    if len(declared) != 1 or len(declared[part.image]) != 4:
        raise JaffeError(f"{part.values[0]!r} needs "
                         + (", ".join(f"{name} {shape}" for name, shape in declared.items()) or "no input")
                         + "; expected one input of images (N, C, H, W)")
    shape = (1, declared[part.image][1], *(size or declared[part.image][2:]))
    part.shapes({part.image: shape})
    return part.image, shape


def _bounds(net: CompiledNet, name: str, channels: int, bounds: Bounds | None) -> tuple[Array, Array]:
    """Least and greatest value of a pixel, (C or 1, 1, 1)."""
    if bounds is None:
        scale, mean = pixel_scale(net, name, channels)
        bounds = (-mean * scale, (255 - mean) * scale)
    low, high = (jnp.asarray(one, net.dtype) for one in bounds)
    if not bool(jnp.all(low < high)):
        raise JaffeError(f"bounds are the least and the greatest value of a pixel; received {bounds}")
    return low, high
