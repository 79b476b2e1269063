"""oneDNN's convolution and matrix product, which jaxlib brings along and XLA:CPU runs as custom calls.

XLA has these targets for its own rewriting, which is off by default; their settings are the JSON of a protobuf message
(``xla/service/cpu/onednn_config.proto``) and no stable interface: a wrong one ends the process. So they are used with
the versions of jaxlib that were tried, and only where a program is compiled for the CPU at hand: wherever else, and in
exported programs, XLA's own operations take their place.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import jax
import jax.ffi
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaffe.compile.lowering import conv_plain
from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.compile.lowering.layout import channels_first, channels_last, kernel_first

FIRST, BEYOND = (0, 10, 2), (0, 13)  # versions of jaxlib, of which those at both ends were tried
MOST_AXES = 3
BLOCK = 16  # channels that oneDNN computes at once


def available() -> bool:
    """Whether the programs that are compiled now can call oneDNN.

    On a CPU of this kind, with a version of jaxlib that is known and was built with it, and without JAX's persistent
    compilation cache: XLA cannot store such programs, and fails with ``MemoryError: std::bad_alloc``.
    """
    return _works() and not _stored()


@cache
def _works() -> bool:
    if not _known():
        return False
    try:
        with jax.ensure_compile_time_eval():  # a net may be under way
            one = jnp.eye(2, dtype=jnp.float32)
            return bool((product(one, one) == one).all())
    except jax.errors.JaxRuntimeError:
        return False


def _known() -> bool:
    jaxlib = tuple(int(part) for part in version("jaxlib").split(".")[:3] if part.isdigit())
    return (sys.platform == "linux" and platform.machine() == "x86_64" and FIRST <= jaxlib < BEYOND
            and jax.default_backend() == "cpu")


def _stored() -> bool:
    """Whether JAX stores the programs that are compiled now."""
    settings = jax.config.values
    return bool(settings["jax_enable_compilation_cache"] and settings["jax_compilation_cache_dir"])


def forward(x: jax.Array, weight: jax.Array, geometry: ConvGeometry) -> jax.Array:
    """Convolution. float32, one to three spatial axes."""
    call = _Convolution(geometry.stride, _positive(geometry.pad), geometry.dilation, geometry.group)
    return channels_first(_call(_cut(channels_last(x), geometry.pad), weight, what=call))


def input_gradient(
    gradient: jax.Array, weight: jax.Array, geometry: ConvGeometry, spatial: Sequence[int]
) -> jax.Array:
    """The convolution of the output's gradient, spread out by the stride, with the turned kernel."""
    back, kernel = channels_last(gradient), weight.shape[2:]
    for axis, stride in enumerate(geometry.stride, 1):
        if stride > 1:  # as a concatenation, which is faster than padding between cells
            zeros = jnp.zeros((*back.shape[: axis + 1], stride - 1, *back.shape[axis + 1 :]), back.dtype)
            wide = jnp.concatenate([jnp.expand_dims(back, axis + 1), zeros], axis + 1)
            back = wide.reshape(*back.shape[:axis], -1, *back.shape[axis + 1 :])
    axes = zip(geometry.turned(kernel).pad, spatial, geometry.reach(kernel), back.shape[1:-1], strict=True)
    pads = tuple((before, size + reach - spread - before) for (before, _), size, reach, spread in axes)
    turned = replace(geometry, stride=(1,) * geometry.spatial, pad=pads)
    return forward(channels_first(back), conv_plain.turned(weight, geometry.group), turned)


def weight_gradient(x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]) -> jax.Array:
    """A convolution whose kernel is as large as a blob, and whose channels are the images. No patches are made.

    The channels that are left are one more spatial axis, over which the kernel reaches 1 cell: oneDNN is fast where the
    last axis of cells is long, and slow with axes in another order. One group and one or two axes, or one channel a
    group.
    """
    x, gradient = channels_last(x), channels_last(gradient)
    if geometry.group > 1:
        return _weight_of_each_channel(x, gradient, geometry, kernel)
    if set(geometry.stride) == {1} and x.shape[-1] >= BLOCK:
        return _weight_backwards(x, gradient, geometry, kernel)
    pads = _weight_pads(x, gradient, geometry, kernel)
    cells = jnp.moveaxis(_cut(x, pads), 0, -1)[None]  # (1, spatial..., C, N)
    taps = jnp.moveaxis(gradient, 0, -2)[..., None, :, :]  # (out..., 1, N, O)
    call = _Convolution((*geometry.dilation, 1), (*_positive(pads), (0, 0)), (*geometry.stride, 1), 1, "spatial first")
    return kernel_first(_call(cells, taps, what=call)[0])


def _weight_backwards(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]
) -> jax.Array:
    """With the input as kernel: (kernel..., O, C) comes out, its taps reversed, which XLA turns round much faster than
    (kernel..., C, O), since C stays together. Stride 1."""
    axes = zip(x.shape[1:], gradient.shape[1:], geometry.reach(kernel), geometry.pad, strict=False)
    pads = [(reach - b, b + size - out) for size, out, reach, (b, _) in axes]
    cells = jnp.moveaxis(_cut(gradient, pads), 0, -1)[None]  # (1, out..., O, N)
    taps = jnp.moveaxis(x, 0, -2)[..., None, :, :]  # (spatial..., 1, N, C)
    call = _Convolution((*geometry.dilation, 1), (*_positive(pads), (0, 0)), (1,) * (geometry.spatial + 1), 1,
                        "spatial first")
    found = jnp.flip(_call(cells, taps, what=call)[0], range(geometry.spatial))
    return jnp.moveaxis(found, (-2, -1), (0, 1))


def _weight_of_each_channel(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]
) -> jax.Array:
    """One image after another, each channel with its own gradient as kernel, added up."""
    pads = _weight_pads(x, gradient, geometry, kernel)
    call = _Convolution(geometry.dilation, _positive(pads), geometry.stride, geometry.group, "spatial first")
    each = lax.map(lambda one: _call(one[0][None], one[1][..., None, :], what=call)[0], (_cut(x, pads), gradient))
    return kernel_first(each.sum(0)[..., None, :])


def _weight_pads(
    x: jax.Array, gradient: jax.Array, geometry: ConvGeometry, kernel: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding of the input with which a kernel as large as the gradient has just as many places as taps."""
    axes = zip(x.shape[1:], kernel, gradient.shape[1:], geometry.stride, geometry.pad, geometry.dilation, strict=False)
    return [(b, (k - 1) * d + (out - 1) * s + 1 - size - b) for size, k, out, s, (b, _), d in axes]


def product(a: jax.Array, b: jax.Array, transposed: tuple[bool, bool] = (False, False)) -> jax.Array:
    """(M, K) @ (K, N) -> (M, N) in float32; of those that are ``transposed``, (K, M) and (N, K)."""
    return _call(a, b, what=_Product(transposed))


def _cut(x: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """x, channels last, without what negative pads take away: oneDNN knows none."""
    taken = [(0, 0, 0), *((min(before, 0), min(after, 0), 0) for before, after in pads), (0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), taken)


def _positive(pads: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((max(before, 0), max(after, 0)) for before, after in pads)


@dataclass(frozen=True)
class _Convolution:
    """Of x (N, spatial..., C), and a weight (O, C / group, kernel...) or, ``"spatial first"``, (kernel..., C, O).

    No negative padding.
    """

    stride: tuple[int, ...]
    pad: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    group: int
    weight: Literal["spatial last", "spatial first"] = "spatial last"
    target: ClassVar[str] = "__onednn$convolution"

    @property
    def config(self) -> dict[str, Any]:
        axes = len(self.stride)
        cells = {"batch_dim": 0, "feature_dim": axes + 1, "spatial_dims": [*range(1, axes + 1)]}
        if self.weight == "spatial last":
            taps = {"input_feature_dim": 1, "output_feature_dim": 0, "spatial_dims": [*range(2, axes + 2)]}
        else:
            taps = {"input_feature_dim": axes, "output_feature_dim": axes + 1, "spatial_dims": [*range(axes)]}
        before, after = zip(*self.pad, strict=True)
        return {"onednn_conv_config": {
            "dims": axes + 2,
            "input": {"dims": axes + 2, "data": cells},
            "kernel": {"dims": axes + 2, "filter": taps},
            "output": {"dims": axes + 2, "data": cells},
            "window": {"pad_left": before, "pad_right": after, "strides": self.stride,
                       "window_dilations": self.dilation},
            "feature_groups": self.group,
        }}

    def plain(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        axes = "DHW"[-len(self.stride):]
        taps = f"OI{axes}" if self.weight == "spatial last" else f"{axes}IO"
        return lax.conv_general_dilated(
            x, weight, self.stride, self.pad, rhs_dilation=self.dilation, feature_group_count=self.group,
            dimension_numbers=(f"N{axes}C", taps, f"N{axes}C"),
        )

    def by_first(self, back: jax.Array, x: Any, weight: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: self.plain(x, weight), x)(back)[0]

    def by_second(self, back: jax.Array, x: jax.Array, weight: Any) -> jax.Array:
        return jax.linear_transpose(lambda weight: self.plain(x, weight), weight)(back)[0]


@dataclass(frozen=True)
class _Product:
    """Of matrices, each as it is or transposed."""

    transposed: tuple[bool, bool]
    target: ClassVar[str] = "__onednn$matmul"

    @property
    def config(self) -> dict[str, Any]:
        first, second = self.transposed
        return {"onednn_matmul_config": {"transpose_a": first, "transpose_b": second}}

    def plain(self, a: jax.Array, b: jax.Array) -> jax.Array:
        first, second = self.transposed
        return lax.dot_general(a, b, (((0 if first else 1,), (1 if second else 0,)), ((), ())))

    def by_first(self, back: jax.Array, a: Any, b: jax.Array) -> jax.Array:
        first, second = self.transposed
        return product(b, back, (second, True)) if first else product(back, b, (False, not second))

    def by_second(self, back: jax.Array, a: jax.Array, b: Any) -> jax.Array:
        first, second = self.transposed
        return product(back, a, (True, first)) if second else product(a, back, (not first, False))


@partial(jax.jit, static_argnames="what", inline=True)
def _call(a: jax.Array, b: jax.Array, what: _Convolution | _Product) -> jax.Array:
    return _primitive.bind(a, b, what=what)


# One primitive for both. All but the program for the CPU is what XLA's own operation would have: shapes, derivatives.
_primitive = Primitive("onednn")


def _abstract(a: Any, b: Any, what: _Convolution | _Product) -> Any:
    return a.update(shape=jax.eval_shape(what.plain, a, b).shape, weak_type=False)


def _batched(args: Sequence[Any], axes: Sequence[Any], what: _Convolution | _Product) -> tuple[jax.Array, int]:
    return jax.vmap(what.plain, axes)(*args), 0


def _by_first(back: jax.Array, a: Any, b: jax.Array, what: _Convolution | _Product) -> jax.Array:
    return what.by_first(back, a.aval, b)


def _by_second(back: jax.Array, a: jax.Array, b: Any, what: _Convolution | _Product) -> jax.Array:
    return what.by_second(back, a, b.aval)


_as_plain = mlir.lower_fun(lambda a, b, what: what.plain(a, b), multiple_results=False)


def _on_cpu(ctx: mlir.LoweringRuleContext, a: Any, b: Any, what: _Convolution | _Product) -> Any:
    module = ctx.module_context
    alone = getattr(module.axis_context, "num_devices", 1) in (None, 1)  # XLA cannot split a call between devices
    operands: Sequence[Any] = ctx.avals_in
    single = {aval.dtype for aval in operands} == {np.dtype("float32")}  # another ends the process
    if not alone or not single or module.lowering_parameters.for_export or not _known() or _stored():
        return _as_plain(ctx, a, b, what=what)
    call = jax.ffi.ffi_lowering(what.target, backend_config=json.dumps(what.config), api_version=2)
    return call(ctx, a, b)


_primitive.def_abstract_eval(_abstract)
_primitive.def_impl(lambda a, b, what: _call(a, b, what=what))
ad.defbilinear(_primitive, _by_first, _by_second)
batching.primitive_batchers[_primitive] = _batched
mlir.register_lowering(_primitive, _as_plain)
mlir.register_lowering(_primitive, _on_cpu, platform="cpu")
