"""Convolution and its transpose: one meaning, with a way of its own for each pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaffe.compile.lowering import conv_plain
from jaffe.compile.lowering.candidates import CANDIDATES, Pass, Problem
from jaffe.compile.lowering.choose import PASSES, Lowering, Ways
from jaffe.compile.lowering.costs import predicted
from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.compile.lowering.layout import channels_first, channels_last, compiled, in_memory
from jaffe.compile.lowering.upsampling import by_phase, fits_by_phase
from jaffe.compile.ordering import after

# XLA:CPU runs grouped convolutions many times slower than the groups one by one
# (github.com/jax-ml/jax/issues/13800); beyond this many groups compile time outweighs it.
MOST_SPLITS = 8


@compiled("geometry", "lowering")
def convolution(x: jax.Array, weight: jax.Array, geometry: ConvGeometry, lowering: Lowering) -> jax.Array:
    """Cross-correlation with zero padding.

    Args:
        x: (N, C, spatial...).
        weight: (O, C / group, kernel...).

    Returns:
        (N, O, out...), ``out = floor((in + before + after - dilation (kernel - 1) - 1) / stride) + 1``.
    """
    if not geometry.spatial:
        return _matmul(x, weight, geometry.group)
    if lowering.plain:
        return conv_plain.plain(x, weight, geometry)

    def one(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
        ways = lowering.ways(x.shape, weight.shape, geometry, x.dtype)
        return _tuned(x, weight, geometry, ways) if ways else conv_plain.last(x, weight, geometry)

    return _by_groups(one, x, weight, geometry, lowering)


@compiled("geometry", "lowering")
def deconvolution(x: jax.Array, weight: jax.Array, geometry: ConvGeometry, lowering: Lowering) -> jax.Array:
    """The transpose of ``convolution`` with the same weight and geometry: its gradient with respect to x.

    Args:
        x: (N, C, spatial...).
        weight: (C, O / group, kernel...).

    Returns:
        (N, O, out...), ``out = stride (in - 1) + dilation (kernel - 1) + 1 - before - after``.
    """
    if not geometry.spatial:
        return _matmul(x, conv_plain.turned(weight, geometry.group), geometry.group)
    if lowering.plain:
        return conv_plain.transposed(x, weight, geometry)
    if lowering.on_cpu and fits_by_phase(weight.shape, geometry):
        return by_phase(x, weight, geometry)

    def one(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
        spatial = geometry.transposed_outs(x.shape[2:], weight.shape[2:])
        shape = (x.shape[0], weight.shape[1] * geometry.group, *spatial)
        ways = lowering.ways(shape, weight.shape, geometry, x.dtype)
        if ways is None:
            return conv_plain.transposed(x, weight, geometry)
        return _tuned_transpose(x, weight, geometry, ways, spatial)

    return _by_groups(one, x, weight, geometry, lowering)


def explain(
    x: Sequence[int], weight: Sequence[int], geometry: ConvGeometry, dtype: Any, lowering: Lowering
) -> dict[Pass, str]:
    """For each pass of a convolution of these shapes how it is computed, and what the rules expect of it.

    Such as ``"winograd4, 2.1 ms (xla 5.3)"``; of grouped ones, for one group and its number.
    """
    if lowering.plain or not geometry.spatial:
        return dict.fromkeys(PASSES, "plain")
    group, times = geometry.group, ""
    if _apart(weight, geometry, lowering):
        times = f"{group} x "
        x, weight = (x[0], x[1] // group, *x[2:]), (weight[0] // group, *weight[1:])
        geometry = geometry.one_group()
    ways = lowering.ways(x, weight, geometry, dtype)
    if ways is None:
        return dict.fromkeys(PASSES, "xla")
    problems = {one: Problem(one, tuple(x), tuple(weight), geometry, np.dtype(dtype).name) for one in PASSES}
    found = {
        one: f"{times}{name}, {predicted(problems[one], name):.2f} ms" + (
            f" (xla {predicted(problems[one], 'xla'):.2f})" if name != "xla" else "")
        for one, name in zip(PASSES, ways[:3], strict=True)
    }
    if ways.alone != ways.forward:
        found["forward"] += f"; without gradients {ways.alone}"
    return found


def explain_transpose(
    x: Sequence[int], weight: Sequence[int], geometry: ConvGeometry, dtype: Any, lowering: Lowering
) -> dict[Pass, str]:
    """``explain`` of a deconvolution, whose forward pass is the input gradient of the convolution, and the reverse."""
    if not lowering.plain and lowering.on_cpu and geometry.spatial and fits_by_phase(weight, geometry):
        return dict.fromkeys(PASSES, "by phase")
    spatial = geometry.transposed_outs(x[2:], weight[2:])
    found = explain((x[0], weight[1] * geometry.group, *spatial), weight, geometry, dtype, lowering)
    return {"forward": found["input"], "input": found["forward"], "weight": found["weight"]}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tuned(x: jax.Array, weight: jax.Array, geometry: ConvGeometry, ways: Ways) -> jax.Array:
    return CANDIDATES["forward"][ways.alone].function(x, weight, geometry)


def _tuned_forward(x: jax.Array, weight: jax.Array, geometry: ConvGeometry, ways: Ways):  # type: ignore[no-untyped-def]
    return CANDIDATES["forward"][ways.forward].function(x, weight, geometry), (x, weight)


def _tuned_backward(geometry, ways, kept, gradient):  # type: ignore[no-untyped-def]
    x, weight = kept
    gradient = channels_first(in_memory(channels_last(gradient)))
    if not ways.shared and math.prod(weight.shape[2:]) > 1:
        x = after(gradient, x)  # XLA would make what the weight's gradient makes of x in the forward pass, and keep it
    return (CANDIDATES["input"][ways.input].function(gradient, weight, geometry, x.shape[2:]),
            CANDIDATES["weight"][ways.weight].function(x, gradient, geometry, weight.shape[2:]))


_tuned.defvjp(_tuned_forward, _tuned_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _tuned_transpose(
    x: jax.Array, weight: jax.Array, geometry: ConvGeometry, ways: Ways, spatial: tuple[int, ...]
) -> jax.Array:
    return CANDIDATES["input"][ways.input].function(x, weight, geometry, spatial)


def _transpose_forward(x, weight, geometry, ways, spatial):  # type: ignore[no-untyped-def]
    return _tuned_transpose(x, weight, geometry, ways, spatial), (x, weight)


def _transpose_backward(geometry, ways, spatial, kept, gradient):  # type: ignore[no-untyped-def]
    x, weight = kept
    return (CANDIDATES["forward"][ways.forward].function(gradient, weight, geometry),
            CANDIDATES["weight"][ways.weight].function(gradient, x, geometry, weight.shape[2:]))


_tuned_transpose.defvjp(_transpose_forward, _transpose_backward)


def _apart(weight: Sequence[int], geometry: ConvGeometry, lowering: Lowering) -> bool:
    """Whether groups are computed one by one: on the CPU, if they have several channels."""
    return geometry.group > 1 and weight[1] > 1 and lowering.on_cpu


def _by_groups(
    one: Callable[..., jax.Array], x: jax.Array, weight: jax.Array, geometry: ConvGeometry, lowering: Lowering
) -> jax.Array:
    """A convolution or its transpose of all groups at once, or of one after another."""
    if not _apart(weight.shape, geometry, lowering):
        return one(x, weight, geometry)
    group, single = geometry.group, geometry.one_group()
    if group <= MOST_SPLITS:
        pairs = zip(jnp.split(x, group, 1), jnp.split(weight, group, 0), strict=True)
        return jnp.concatenate([one(part, kernel, single) for part, kernel in pairs], 1)
    parts = jnp.moveaxis(x.reshape(x.shape[0], group, -1, *x.shape[2:]), 1, 0)
    kernels = weight.reshape(group, -1, *weight.shape[1:])
    found = lax.map(lambda pair: one(*pair, single), (parts, kernels))
    return jnp.moveaxis(found, 0, 1).reshape(x.shape[0], -1, *found.shape[3:])


def _matmul(x: jax.Array, weight: jax.Array, group: int) -> jax.Array:
    """No spatial axes at all: one matrix product a group. x: (N, C), weight: (O, C / group)."""
    parts = jnp.einsum("ngc,goc->ngo", x.reshape(x.shape[0], group, -1), weight.reshape(group, -1, weight.shape[1]))
    return parts.reshape(x.shape[0], -1)
