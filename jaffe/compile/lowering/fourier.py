"""Convolution with a large kernel through the Fourier transform: products of spectra, whatever the kernel's size."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering.geometry import ConvGeometry


def forward(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Stride 1, dilation 1, one group: ``y = irfft(rfft(x) conj(rfft(w)))``, summed over channels in between."""
    out = geometry.outs(x.shape[2:], weight.shape[2:])
    inputs, sizes, axes = _spectrum(x, geometry)
    taps = jnp.fft.rfftn(weight, sizes, axes)
    return _cut(jnp.fft.irfftn(jnp.einsum("nc...,oc...->no...", inputs, taps.conj()), sizes, axes), out)


def weight_gradient(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """``dw = irfft(rfft(x) conj(rfft(dy)))``, summed over images in between."""
    inputs, sizes, axes = _spectrum(x, geometry)
    back = jnp.fft.rfftn(gradient, sizes, axes)
    return _cut(jnp.fft.irfftn(jnp.einsum("nc...,no...->oc...", inputs, back.conj()), sizes, axes), kernel)


def _spectrum(x: jax.Array, geometry: ConvGeometry) -> tuple[jax.Array, tuple[int, ...], tuple[int, ...]]:
    """Of the padded input, with the sizes and axes of the transform. Nothing wraps round into what is kept."""
    config = [(before, after, 0) for before, after in geometry.pad]
    whole = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *config])
    sizes, axes = whole.shape[2:], tuple(range(2, x.ndim))
    return jnp.fft.rfftn(whole, sizes, axes), sizes, axes


def _cut(x: jax.Array, sizes: Sequence[int]) -> jax.Array:
    return x[(slice(None), slice(None), *(slice(size) for size in sizes))]
